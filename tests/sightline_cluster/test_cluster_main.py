"""The command `sightline-cluster`: what it refuses before it asks a cluster."""

import pytest

from sightline_cluster.__main__ import main


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_run_id_is_refused_and_does_not_mean_all_runs(name, capsys, monkeypatch):
    monkeypatch.setattr("sightline_cluster.api.connect", lambda _: pytest.fail("asked a cluster"))
    assert main(["reap", "--run-id", name]) == 2
    assert "--all takes all runs" in capsys.readouterr().err

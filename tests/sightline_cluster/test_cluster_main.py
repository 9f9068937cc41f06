"""The command `sightline-cluster`: what it refuses before it asks a cluster."""

import json

import pytest
import urllib3

from sightline.errors import UserError
from sightline_cluster.__main__ import main
from sightline_cluster.api import connect


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_run_id_is_refused_and_does_not_mean_all_runs(name, capsys, monkeypatch):
    monkeypatch.setattr("sightline_cluster.api.connect", lambda _: pytest.fail("asked a cluster"))
    assert main(["reap", "--run-id", name]) == 2
    assert "--all takes all runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        *(b"{ [", b"token: S3CRET\n\tx", bytes(range(256)), b"\xff\xfe\x00"),
        *(b"- a\n- b", b"text", b""),
    ],
)
def test_kubeconfig_that_is_none_is_told_in_one_line(api, tmp_path, capsys, content):
    (tmp_path / "kubeconfig").write_bytes(content)
    require_kubeconfig_told(capsys)


def change_kubeconfig(api, tmp_path, part, changes):
    """Write a kubeconfig with a part of its one context or cluster changed."""
    path = api.kubeconfig(tmp_path / "kubeconfig")
    held = json.loads(path.read_text())
    held[f"{part}s"][0][part] = changes and held[f"{part}s"][0][part] | changes
    path.write_text(json.dumps(held))


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("cluster", {"server": "https://127.0.0.1", "certificate-authority-data": "x"}),
        ("cluster", {"server": 5}),
        ("cluster", None),
        ("context", {"namespace": "a/b"}),
        ("context", {"namespace": 5}),
        ("context", None),
    ],
)
def test_kubeconfig_with_something_wrong_in_it_is_told_in_one_line(
    api, tmp_path, capsys, part, changes
):
    change_kubeconfig(api, tmp_path, part, changes)
    require_kubeconfig_told(capsys)


def require_kubeconfig_told(capsys):
    assert main(["reap", "--all"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("sightline cluster: ")
    assert told.count("\n") == 1
    assert "KUBECONFIG" in told
    assert "S3CRET" not in told


@pytest.mark.parametrize("namespace", ["", None])
def test_empty_namespace_of_a_kubeconfig_is_as_good_as_none(api, tmp_path, namespace):
    change_kubeconfig(api, tmp_path, "context", {"namespace": namespace})
    assert connect().namespace == "sightline"


def test_certificate_that_is_not_accepted_is_told_at_once(api):
    # As urllib3 and the client hand it on; OpenSSL names the reason in capitals.
    reason = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"
    error = urllib3.exceptions.MaxRetryError(None, "/", urllib3.exceptions.SSLError(reason))
    told = connect().explain(error)
    assert isinstance(told, UserError)
    assert str(told).startswith(f"{api.url} has a certificate that is not accepted (")

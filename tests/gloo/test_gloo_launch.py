import pytest

from sightline.training.launch import WorkerError, launch


def test_worker_that_cannot_say_why_it_failed_is_no_users_error(capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(WorkerError, match="no-such-step failed in one of its 2 processes"):
        launch(["no-such-step"], workers=2)
    assert "unknown command 'no-such-step'" in capfd.readouterr().err

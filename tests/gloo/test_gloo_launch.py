import pytest

from sightline.storage import StorageUnavailableError
from sightline.storage.settings import StorageConfig, use_storage_settings
from sightline.training.launch import WorkerError, launch


def test_worker_that_cannot_say_why_it_failed_is_no_users_error(capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(WorkerError, match="no-such-step failed in one of its 2 processes"):
        launch(["no-such-step"], workers=2)
    assert "unknown command 'no-such-step'" in capfd.readouterr().err


def test_workers_ask_the_server_that_was_set_here_and_say_that_it_gives_no_answer(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    for name in StorageConfig.model_fields:
        monkeypatch.setenv(f"SIGHTLINE_{name.upper()}", "")
    use_storage_settings({"s3_endpoint_url": "http://127.0.0.1:9", "s3_retries": 0})
    addresses = ["--dataset-uri", "s3://bucket/datasets/1", "--out-uri", str(tmp_path / "out")]
    with pytest.raises(StorageUnavailableError, match=r"bucket/datasets/1.*127\.0\.0\.1:9"):
        launch(["pretrain", *addresses, "--workers", "2"], workers=2)

import shutil
import subprocess
import sys

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


FULL = """
import os, sys
from pathlib import Path
from sightline.errors import UserError
from sightline.training import launch
errors = Path(sys.argv[1], "errors")
errors.mkdir()
launch._spare(errors, 0).write_bytes(bytes(launch._SPARE_BYTES))
os.environ[launch._ERRORS_FOLDER] = str(errors)
try:
    Path(sys.argv[1], "rest").write_bytes(bytes(1_000_000))
except OSError:
    print("full")
with launch.report_errors(lambda error: False):
    raise UserError("cannot write the result: no space left")
"""


def test_a_worker_says_why_it_ended_on_a_full_disk_too(tmp_path):
    disk = f"mount -t tmpfs -o size=64k tmpfs {tmp_path}"
    told = f"cat {tmp_path}/errors/*"
    inside = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*inside, disk]).returncode:
        pytest.skip("needs the right to mount a small disk")
    run = f'{disk} && {sys.executable} -c "$0" {tmp_path}; echo ended with $?; {told}'
    found = subprocess.run([*inside, run, FULL], capture_output=True, text=True)
    assert found.stdout == "full\nended with 2\ncannot write the result: no space left"

"""The workers' entry point in two pods, as the operator starts them; here, in two processes."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sightline.storage import fetch_artifacts

SETTINGS = {
    "preset": "demo",
    "image_size": 32,
    "global_batch_size": 8,
    "epochs": 2,
    "precision": "float32",
    "workers": 2,
}


class Pod:
    """One pod's process; what it prints and its termination message are kept."""

    def __init__(self, folder, index, port, dataset_uri, out, **settings):
        self.message = folder / f"message-{index}"
        self.log = folder / f"log-{index}"
        meeting = {
            "PET_RDZV_ENDPOINT": f"127.0.0.1:{port}",
            "PET_RDZV_BACKEND": "c10d",
            "PET_RDZV_ID": "pods",
            "PET_NNODES": "2:2",
            "PET_MAX_RESTARTS": "0",
            "PET_NPROC_PER_NODE": "1",
            "SIGHTLINE_TERMINATION_LOG": str(self.message),
        }
        arguments = ["pretrain", "--dataset-uri", dataset_uri, "--out-uri", str(out)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "sightline_cluster.worker", *arguments),
                    *("--config", json.dumps({**SETTINGS, **settings})),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **meeting, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            )

    @property
    def told(self):
        return self.log.read_text(errors="replace")

    def wait(self):
        return self.process.wait(timeout=300)


@pytest.fixture
def pods(tmp_path):
    """Return `pods(dataset_uri, out, **settings)`, which starts two that meet each other."""
    started = []

    def start(dataset_uri, out, **settings):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started.extend(Pod(tmp_path, i, port, dataset_uri, out, **settings) for i in range(2))
        return started

    yield start
    for pod in started:
        pod.process.kill()
        pod.process.wait()


def losses_of(out):
    with (fetch_artifacts(str(out)) / "steps.csv").open(newline="") as file:
        return [row["loss"] for row in csv.DictReader(file)]


@pytest.mark.long  # a cluster's tests show it, too
def test_two_pods_learn_what_two_processes_of_one_machine_learn(
    pods, labelled_dataset, tmp_path, monkeypatch
):
    both = pods(labelled_dataset, tmp_path / "pods")
    assert [pod.wait() for pod in both] == [0, 0], both[0].told
    assert not any(pod.message.exists() for pod in both)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    subprocess.run(
        [
            *(sys.executable, "-m", "sightline", "pretrain", "--dataset-uri", labelled_dataset),
            *("--out-uri", str(tmp_path / "one"), "--config", json.dumps(SETTINGS)),
        ],
        check=True,
    )
    assert losses_of(tmp_path / "pods") == losses_of(tmp_path / "one")


@pytest.mark.long  # a cluster's tests show it, too
def test_pod_that_is_asked_to_end_saves_with_the_other_and_both_are_started_again(
    pods, labelled_dataset, tmp_path
):
    both = pods(labelled_dataset, tmp_path / "out", epochs=1000)
    _wait_for(lambda: list((tmp_path / "out" / "checkpoints").glob("step-*")), both)
    both[1].process.send_signal(signal.SIGTERM)
    assert [pod.wait() for pod in both] == [143, 143], both[0].told
    for pod in both:
        assert "pretrain: asked to end, so training stopped after step" in pod.message.read_text()


def test_pod_whose_other_is_killed_is_started_again(pods, labelled_dataset, tmp_path):
    both = pods(labelled_dataset, tmp_path / "out", epochs=1000, stall_minutes=0.2)
    _wait_for(lambda: list((tmp_path / "out" / "checkpoints").glob("step-*")), both)
    both[1].process.kill()
    _signal_children(tmp_path, signal.SIGKILL)
    assert both[0].wait() == 143, both[0].told
    assert "Traceback" not in both[0].told
    assert re.match(r"pretrain: the worker of rank [01] ended after", both[0].message.read_text())


@pytest.mark.long
def test_pod_whose_other_hangs_says_so_and_is_started_again(pods, labelled_dataset, tmp_path):
    both = pods(labelled_dataset, tmp_path / "out", epochs=1000, stall_minutes=0.2)
    _wait_for(lambda: list((tmp_path / "out" / "checkpoints").glob("step-*")), both)
    _signal_children(tmp_path, signal.SIGSTOP, "RANK=")
    assert both[0].wait() == 143, both[0].told
    assert "Traceback" not in both[0].told
    told = both[0].message.read_text()
    assert re.match(r"pretrain: the worker of rank [01] did not answer for 12 s after step", told)
    _signal_children(tmp_path, signal.SIGKILL)


@pytest.mark.long  # a cluster's tests show it, too
def test_what_the_user_can_mend_ends_the_job_in_the_users_words(pods, tmp_path):
    both = pods(str(tmp_path / "no-such-set"), tmp_path / "out")
    assert [pod.wait() for pod in both] == [2, 2], both[0].told
    assert "no-such-set" in both[0].message.read_text()


def test_place_that_cannot_be_written_to_ends_the_job_in_the_users_words(
    pods, labelled_dataset, tmp_path
):
    (tmp_path / "file").write_text("")
    both = pods(labelled_dataset, tmp_path / "file" / "out")
    assert [pod.wait() for pod in both] == [2, 2], both[0].told
    assert "cannot write" in both[0].message.read_text()


def _signal_children(folder, number, variable=""):
    for process in Path("/proc").iterdir():
        try:
            environment = (process / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"SIGHTLINE_TERMINATION_LOG={folder}/message-1" in environment and (
            f"\0{variable}" in environment
        ):
            os.kill(int(process.name), number)


def _wait_for(found, pods):
    deadline = time.monotonic() + 240
    while not found():
        assert all(pod.process.poll() is None for pod in pods), pods[0].told
        assert time.monotonic() < deadline, pods[0].told
        time.sleep(0.05)

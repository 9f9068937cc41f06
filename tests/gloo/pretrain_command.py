"""`sightline pretrain` as a process, and what it leaves."""

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from sightline.storage import fetch_artifacts, open_storage

EPOCHS = 7
STEPS_PER_EPOCH = 3
SETTINGS = {
    "preset": "demo",
    "image_size": 32,
    "global_batch_size": 12,
    "epochs": EPOCHS,
    "precision": "float32",
    # Longer than a test: an epoch's end and SIGTERM alone save.
    "checkpoint_minutes": 60,
}


class Run:
    """One process group of `sightline pretrain`; what it prints is kept."""

    def __init__(self, dataset_uri, out, workers=1, labels_uri="", variables=None, **settings):
        self.out = str(out)
        self.log = Path(os.environ["PYTEST_LOGS"], f"{random.getrandbits(64):x}.log")
        command = [sys.executable, "-m", "sightline", "pretrain", "--dataset-uri", dataset_uri]
        if labels_uri:
            command += ["--labels-uri", labels_uri]
        config = json.dumps({**SETTINGS, "workers": workers, **settings})
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--out-uri", self.out, "--config", config],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    **{"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
                    **(variables or {}),
                },
                start_new_session=True,
            )

    @property
    def told(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def complaints(self):
        """What it printed apart from the story of its training."""
        return [line for line in self.told.splitlines() if not line.startswith("pretrain: ")]

    def wait(self, code=0):
        assert self.process.wait(timeout=400) == code, self.told
        return self

    def wait_for(self, text, times=1):
        """Wait until it has printed something that often."""
        deadline = time.monotonic() + 300
        while self.told.count(text) < times:
            assert self.process.poll() is None, self.told
            assert time.monotonic() < deadline, self.told
            time.sleep(0.005)
        return self

    def workers(self):
        """Return the numbers of the processes that train, in no order."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes().decode().split("\0")
                if self.out in command and "sightline.training.torchrun" not in command:
                    found.append(int(folder.name))
        return [number for number in found if number != self.process.pid]

    def rank(self, number):
        """Return the number of the process that trains as a rank."""
        for worker in self.workers():
            if f"RANK={number}" in Path(f"/proc/{worker}/environ").read_text().split("\0"):
                return worker
        raise AssertionError(f"no rank {number}: {self.told}")

    def kill_all(self):
        """Kill the whole pod: every process that the command started, and itself."""
        for number in [*self.workers(), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def losses_in(folder):
    with (folder / "steps.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def result_of(out):
    """Return what must be the same to the last bit: the weights, and the loss of every step."""
    folder = fetch_artifacts(str(out))
    losses = losses_in(folder)
    assert len(losses) == EPOCHS * STEPS_PER_EPOCH
    return {"weights": (folder / "simclr_backbone.pth").read_bytes(), "losses": losses}


def require_nothing_left(out):
    keys = [entry.key for entry in open_storage(str(out)).list()]
    assert not [key for key in keys if key.startswith("checkpoints")]


def hooked(folder, hook):
    """Return variables of an environment in which every Python begins with some lines."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(hook)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def children_of(parents):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) in parents:
                found.append(int(folder.name))
    return found


def drawing_for(training):
    """Return the numbers of the processes that draw views for those that train."""
    servers = [
        number
        for number in children_of(training)
        if b"multiprocessing.forkserver" in Path(f"/proc/{number}/cmdline").read_bytes()
    ]
    return children_of(servers)

"""Claim: a training that is killed 20 times at random moments ends with the very same bits.

python benchmarks/kill_soak.py [--kills 20] [--seed 0]

Needs an S3 server: TESTBED_S3_ENDPOINT, TESTBED_S3_ACCESS_KEY, TESTBED_S3_SECRET_KEY. Two workers
train ResNet-18 at 32 px on noise; data, checkpoints and result lie on S3, behind a proxy that
fails one request in fifty in each of eight ways (500, 503, 429, reset, lost answer, cut, stalled,
wrong bytes). Kills are, at random: one worker (kill -9; the others start again by themselves), the
whole pod (kill -9 of every process, started again on nothing but S3), and SIGTERM (exit code 75).
After each, the losses in the checkpoint that the next process goes on from are compared with those
of a training that nothing disturbed, bit by bit; at the end, the weights.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import numpy as np
import torch
from botocore.config import Config

from sightline.data import write_dataset
from sightline.data.shards import PackedImage
from sightline.storage import NotFoundError, fetch_artifacts, open_storage

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from conftest import encode_png
from fault_proxy import FaultProxy

WORKERS, IMAGES, BATCH = 2, 256, 16
STEPS_PER_EPOCH = IMAGES // BATCH
KINDS = ("worker", "pod", "sigterm")
CHECKPOINT_SECONDS = 3.0
SECONDS_BETWEEN_KILLS = (2.0, 6.0)


class Kill(NamedTuple):
    """What one kill cost."""

    kind: str
    step: int
    recomputed: int
    seconds_to_new_step: float
    equal: bool | None
    """Whether the losses it went on from are equal to the last bit; None: not compared."""


class Training:
    """`sightline pretrain`, started again and again on one address."""

    def __init__(
        self,
        dataset_uri: str,
        out_uri: str,
        epochs: int,
        folder: Path,
        checkpoint_minutes: float = CHECKPOINT_SECONDS / 60,
        **variables: str,
    ) -> None:
        self.out_uri = out_uri
        self._variables = variables
        self._log = folder / f"{out_uri.rpartition('/')[2]}.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        config = {
            **{"preset": "demo", "image_size": 32, "precision": "float32", "workers": WORKERS},
            **{"global_batch_size": BATCH, "epochs": epochs, "restarts": 1000},
            **{"exclude_group_negatives": False, "checkpoint_minutes": checkpoint_minutes},
        }
        self._command = [sys.executable, "-m", "sightline", "pretrain"]
        self._command += ["--dataset-uri", dataset_uri, "--out-uri", out_uri]
        self._command += ["--config", json.dumps(config)]
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start it; what it prints is added to the log."""
        variables = {"OMP_NUM_THREADS": "1", "SIGHTLINE_METRICS_PORT": str(self._port)}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **variables, **self._variables},
                start_new_session=True,
            )
        return self.process

    def told(self) -> str:
        """Return everything it has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def starts(self) -> list[int]:
        """Return the step after which it went on, for each time it was started; at first 0."""
        lives = self.told().split("pretrain: SimCLR on")[1:]
        found = (re.search(r"going on from checkpoint step-(\d+)", life) for life in lives)
        return [int(match[1]) if match else 0 for match in found]

    def own_steps(self) -> int:
        """Return the steps of the processes that run now, by their exporter; -1: it is not up."""
        try:
            address = f"http://127.0.0.1:{self._port}/metrics"
            with urllib.request.urlopen(address, timeout=1) as answer:
                found = re.search(rb"^sightline_train_steps_total\{.*\} (\S+)", answer.read(), re.M)
        except OSError:
            return -1
        return int(float(found[1])) if found else 0

    def workers(self) -> list[int]:
        """Return the processes that train."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                if self.out_uri in words and "sightline.training.torchrun" not in words:
                    found.append(int(folder.name))
        return [number for number in found if number != self.process.pid]

    def kill(self, kind: str, draw: random.Random) -> None:
        """Kill it, and start it again unless it does so itself."""
        if kind == "worker":
            os.kill(draw.choice(sorted(self.workers())), signal.SIGKILL)
            return
        if kind == "sigterm":
            self.process.terminate()
            code = self.process.wait(timeout=120)
            if code != 75:
                raise RuntimeError(f"SIGTERM ended with {code}:\n{self.told()[-3000:]}")
        else:
            self.end()
        self.start()

    def end(self) -> None:
        """Kill every process of it, as when a node is gone."""
        for number in [self.process.pid, *self.workers()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def main() -> int:
    """Print the table; 1 if one bit differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    epochs = 2 * options.kills
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bucket = stack.enter_context(fresh_bucket())
        dataset_uri = write_noise(f"s3://{bucket}/datasets")
        clean = Training(dataset_uri, f"s3://{bucket}/runs/clean", epochs, folder)
        stack.callback(clean.end)
        began = time.monotonic()
        if clean.process.wait(timeout=3000):
            raise RuntimeError(clean.told())
        clean_seconds = time.monotonic() - began
        expected = result_of(clean.out_uri)
        proxy = FaultProxy(os.environ["SIGHTLINE_S3_ENDPOINT_URL"])
        proxy.fail_in_every_way(0.02)
        faulty = {"SIGHTLINE_S3_ENDPOINT_URL": proxy.url}
        training = Training(dataset_uri, f"s3://{bucket}/runs/killed", epochs, folder, **faulty)
        stack.callback(training.end)
        began = time.monotonic()
        draw = random.Random(options.seed)
        kills = []
        for _ in range(options.kills):
            kills.append(kill_once(training, draw, expected["losses"]))
            print_kill(len(kills), kills[-1])
        if training.process.wait(timeout=3000):
            raise RuntimeError(training.told())
        seconds = time.monotonic() - began
        found = result_of(training.out_uri)
        proxy.stop()
        retries = sum(int(n) for n in re.findall(r": (\d+) requests? w", training.told()))
    return report(kills, found == expected, clean_seconds, seconds, retries)


def kill_once(training: Training, draw: random.Random, losses: list[float]) -> Kill:
    """Let it train for a random time, kill it, and wait for the first step that is new."""
    while training.own_steps() < 1:
        require_alive(training)
        time.sleep(0.02)
    time.sleep(draw.uniform(*SECONDS_BETWEEN_KILLS))
    starts = training.starts()
    done = starts[-1] + training.own_steps()
    kind = draw.choice(KINDS)
    began = time.monotonic()
    training.kill(kind, draw)
    # It says where it goes on, unless it begins anew: then its first step says so.
    while len(training.starts()) == len(starts) or not (
        training.starts()[-1] or training.own_steps() > 0
    ):
        require_alive(training)
        time.sleep(0.02)
    start = training.starts()[-1]
    found = losses_of(training.out_uri, start)  # at once: three newer checkpoints, and it is gone
    equal = None if found is None else found == losses[:start]
    while training.own_steps() < 1:
        require_alive(training)
        time.sleep(0.02)
    while start + training.own_steps() <= done:
        require_alive(training)
        time.sleep(0.02)
    return Kill(kind, done, max(0, done - start), time.monotonic() - began, equal)


def require_alive(training: Training) -> None:
    """Raise if it has ended."""
    if training.process.poll() is not None:
        raise RuntimeError(
            f"it ended with {training.process.returncode}:\n{training.told()[-3000:]}"
        )


def losses_of(out_uri: str, step: int) -> list[float] | None:
    """Return the losses in the checkpoint after a step; None if it has been dropped meanwhile."""
    if step == 0:
        return []
    storage = open_storage(f"{out_uri}/checkpoints")
    with contextlib.suppress(NotFoundError):
        for name in json.loads(storage.read_bytes("latest.json"))["kept"]:
            if int(name.split("-")[1]) == step:
                content = io.BytesIO(storage.read_bytes(f"{name}.pt"))
                found: list[float] = torch.load(content, weights_only=True)["step_losses"].tolist()
                return found
    return None


def result_of(out_uri: str) -> dict[str, Any]:
    """Return the weights and the loss of every step."""
    folder = fetch_artifacts(out_uri)
    with (folder / "steps.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    return {"weights": (folder / "simclr_backbone.pth").read_bytes(), "losses": losses}


def print_kill(number: int, kill: Kill) -> None:
    """Print one line of the table."""
    bits = {True: "equal", False: "DIFFERENT", None: "NOT COMPARED"}[kill.equal]
    if number == 1:
        print(f"{'kill':>4} {'of':<8} {'step':>5} {'recomputed':>10} {'new step after':>14}  bits")
    print(
        f"{number:>4} {kill.kind:<8} {kill.step:>5} {kill.recomputed:>10} "
        f"{kill.seconds_to_new_step:>12.1f} s  {bits}",
        flush=True,
    )


def report(
    kills: list[Kill], same_end: bool, clean_seconds: float, seconds: float, retries: int
) -> int:
    """Print what all of it came to."""
    for kind in KINDS:
        of_kind = [kill for kill in kills if kill.kind == kind]
        if of_kind:
            again = statistics.median(kill.seconds_to_new_step for kill in of_kind)
            lost = statistics.median(kill.recomputed for kill in of_kind)
            print(f"{kind}: {len(of_kind)} kills, median {lost:.0f} steps again, {again:.1f} s")
    equal = sum(kill.equal is True for kill in kills)
    print(f"resumes that are equal to the last bit: {equal} of {len(kills)}")
    print(f"weights and losses at the end: {'equal' if same_end else 'DIFFERENT'}")
    print(
        f"undisturbed {clean_seconds:.0f} s, killed {seconds:.0f} s: effective time "
        f"{clean_seconds / seconds:.0%} with a kill every {seconds / len(kills):.0f} s; "
        f"{retries} requests were tried again"
    )
    return int(equal < len(kills) or not same_end)


def write_noise(store_uri: str) -> str:
    """Write a data set of noise and return its address."""
    draw = np.random.default_rng(0)
    images = [
        PackedImage(
            content=encode_png(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)),
            suffix="png",
            name=f"{number}.png",
            group=f"{number}",
            split="train",
            width=32,
            height=32,
        )
        for number in range(IMAGES)
    ]
    return write_dataset(images, store_uri, kind="images", classes=())


@contextlib.contextmanager
def fresh_bucket() -> Any:
    """Make a bucket on the server of the testbed, and let every process reach it."""
    endpoint = os.environ["TESTBED_S3_ENDPOINT"]
    keys = os.environ["TESTBED_S3_ACCESS_KEY"], os.environ["TESTBED_S3_SECRET_KEY"]
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    bucket = f"sightline-soak-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=bucket)
    os.environ["SIGHTLINE_S3_ENDPOINT_URL"] = endpoint
    os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = keys
    try:
        yield bucket
    finally:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for entry in page.get("Contents", []):
                client.delete_object(Bucket=bucket, Key=entry["Key"])
        for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
            client.abort_multipart_upload(
                Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
            )
        client.delete_bucket(Bucket=bucket)


if __name__ == "__main__":
    sys.exit(main())

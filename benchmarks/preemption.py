"""Claim: a SIGTERM ends a training within 10 s, beyond what its saves need on a slow line.

python benchmarks/preemption.py [--rounds 5] [--mb-per-second 5]

Needs an S3 server: TESTBED_S3_ENDPOINT, TESTBED_S3_ACCESS_KEY, TESTBED_S3_SECRET_KEY. Two workers
train ResNet-18 at 32 px on noise; data and checkpoints lie on S3. At a random moment the command
gets a SIGTERM; timed is until it has ended, with its state saved. Then the same behind a proxy
that takes uploads at 5 MB/s: there the save on its way and its own may each take the transfer of
the state. Every run goes on from the very step at which the last one ended.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from kill_soak import Training, fresh_bucket, require_alive, write_noise

from sightline.storage import open_storage

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fault_proxy import FaultProxy

LIMIT_SECONDS = 10.0
EPOCHS = 10_000  # never reached
NEVER = 1_000.0  # minutes: an epoch's end and SIGTERM alone save


def main() -> int:
    """Print the seconds of every SIGTERM; 1 if a limit is missed or a step was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mb-per-second", type=float, default=5.0)
    options = parser.parse_args()
    kept = True
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bucket = stack.enter_context(fresh_bucket())
        dataset_uri = write_noise(f"s3://{bucket}/datasets")
        proxy = FaultProxy(os.environ["SIGHTLINE_S3_ENDPOINT_URL"])
        stack.callback(proxy.stop)
        for name, speed in (("fast", None), ("slow", 1e6 * options.mb_per_second)):
            proxy.upload_bytes_per_second = speed
            out_uri = f"s3://{bucket}/runs/{name}"
            variables = {"SIGHTLINE_S3_ENDPOINT_URL": proxy.url}
            training = Training(
                dataset_uri, out_uri, EPOCHS, folder, checkpoint_minutes=NEVER, **variables
            )
            stack.callback(training.end)
            seconds = [stop(training) for _ in range(options.rounds)]
            state_mb = largest(out_uri) / 1e6
            transfer = 2 * state_mb / options.mb_per_second if speed else 0.0
            slowest = max(seconds)
            print(
                f"{name}: state of {state_mb:.0f} MB, two transfers take {transfer:.1f} s; from "
                f"SIGTERM to the end median {statistics.median(seconds):.1f} s, slowest "
                f"{slowest:.1f} s (limit {LIMIT_SECONDS + transfer:.1f}); 0 steps again"
            )
            kept &= slowest <= LIMIT_SECONDS + transfer
    print("kept" if kept else "NOT kept")
    return int(not kept)


def stop(training: Training) -> float:
    """Let it train, stop it, start it again, and return the seconds it took to end.

    Raises:
        RuntimeError: If it ends otherwise than asked, or goes on from another step.
    """
    while training.own_steps() < 1:
        require_alive(training)
        time.sleep(0.02)
    time.sleep(random.uniform(0.0, 3.0))
    began = time.monotonic()
    training.process.terminate()
    code = training.process.wait(timeout=600)
    seconds = time.monotonic() - began
    stopped = re.findall(r"stopped after step (\d+)", training.told())
    if code != 75 or not stopped:
        raise RuntimeError(f"SIGTERM ended with {code}:\n{training.told()[-3000:]}")
    lives = len(training.starts())
    training.start()
    while len(training.starts()) == lives or training.own_steps() < 1:
        require_alive(training)
        time.sleep(0.02)
    if training.starts()[-1] != int(stopped[-1]):
        raise RuntimeError(f"stopped at {stopped[-1]}, went on at {training.starts()[-1]}")
    return seconds


def largest(out_uri: str) -> int:
    """Return the bytes of the largest checkpoint."""
    return max(entry.size_bytes for entry in open_storage(f"{out_uri}/checkpoints").list())


if __name__ == "__main__":
    sys.exit(main())

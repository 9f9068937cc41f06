"""Claim: the pipeline adds at most 1 s a step to the step's own work and its imports.

The same seven steps, with the same settings on the same tiny data, once through
`python -m pipelines run` and once as seven `sightline` commands.

    python benchmarks/orchestration.py [--repeats 3]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.steps import PIPELINE_STEPS, run_step

LIMIT_SECONDS = 1.0
DATA = {"patients": 24, "slices_per_patient": 2, "unlabelled_patients": 0, "image_size_px": 48}
SETTINGS = {"pretrain": {"epochs": 1, "image_size": 32, "global_batch_size": 16}}


def main() -> int:
    """Print both ways' seconds and the difference a step; 1 if it is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    pipeline, alone = [], []
    with tempfile.TemporaryDirectory(prefix="sightline-orchestration-") as scratch:
        data = Path(scratch, "data")
        run_step("demo-data", {"out_uri": str(data)}, DATA)
        for repeat in range(repeats):
            pipeline.append(run_pipeline(data, Path(scratch, f"pipeline-{repeat}")))
            alone.append(run_steps(data, Path(scratch, f"alone-{repeat}")))
    print(f"\n{'run':<4} {'':<9} {'pipeline':>10} {'7 commands':>12} {'added a step':>14}")
    added = []
    for number, (whole, parts) in enumerate(zip(pipeline, alone, strict=True), start=1):
        more = (whole - parts) / len(PIPELINE_STEPS)
        added.append(more)
        for kind, a, b, c in zip(("seconds", "of CPU"), whole, parts, more, strict=True):
            print(f"{number:<4} {kind:<9} {a:>8.2f} s {b:>10.2f} s {c:>12.2f} s")
    seconds, cpu_seconds = np.median(added, axis=0)
    verdict = "over" if seconds > LIMIT_SECONDS else "kept"
    print(f"median added a step: {seconds:.2f} s, {cpu_seconds:.2f} s of CPU")
    print(f"limit: {LIMIT_SECONDS} s: {verdict}")
    return int(seconds > LIMIT_SECONDS)


def run_pipeline(data: Path, out: Path) -> NDArray[np.float64]:
    """Return the seconds of one run through KFP; only images, so that three steps skip."""
    settings = json.dumps(SETTINGS)
    arguments = ["--images", data / "images", "--out", out, "--run-id", "run"]
    arguments += ["--settings", settings, "--preset", "demo"]
    return measure(["-m", "pipelines", "run", *map(str, arguments)])


def run_steps(data: Path, out: Path) -> NDArray[np.float64]:
    """Return the seconds of the same steps as commands, one after another."""
    run = out / "runs" / "run"
    own = ["--preset", "demo"]
    seconds = step("prepare", run, images=data / "images", store=out / "datasets", own=own)
    dataset = json.loads((run / "prepare" / "metrics.json").read_text())["datasets"]["images"]
    pretraining = [*own, "--config", json.dumps(SETTINGS["pretrain"])]
    seconds += step("pretrain", run, dataset=dataset, own=pretraining)
    encoder = run / "pretrain"
    for name in ("evaluate", "finetune", "detect"):
        seconds += step(name, run, encoder=encoder, dataset="", own=own)
    steps = {name: run / name for name in ("prepare", "pretrain", "evaluate", "finetune", "detect")}
    seconds += step("report", run, **steps, own=own)
    judged = {name: run / name for name in ("report", "finetune", "detect")}
    return seconds + step("promote", run, **judged, models=out / "models", own=own)


def step(name: str, run: Path, own: list[str], **uris: object) -> NDArray[np.float64]:
    """Return the seconds of one step's command."""
    addresses = [f"--{key}-uri={value}" for key, value in uris.items()]
    return measure(["-m", "sightline", name, *addresses, f"--out-uri={run / name}", *own])


def measure(arguments: list[str]) -> NDArray[np.float64]:
    """Return the seconds of one Python process, which must succeed."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    start = now()
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return now() - start


def now() -> NDArray[np.float64]:
    """Return the clock, and the CPU seconds of all processes that ended below this one.

    A busy machine stretches the first, hardly the second.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([time.perf_counter(), used.ru_utime + used.ru_stime])


if __name__ == "__main__":
    sys.exit(main())

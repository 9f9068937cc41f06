r"""Claim: a stopped launcher's job is deleted within 0.5 s, and 20 stopped runs leave nothing.

Needs what tests/cluster needs, and a namespace with k8s/overlays/dev:

    python benchmarks/cluster_stop.py --namespace sightline \
      --dataset-uri s3://b/datasets/1 --out s3://b/stops

Launchers are stopped at a random moment: every other one while its pods start, the rest while they
train or save, some time after the first epoch's line. The limit that a step of Kubeflow Pipelines
sets is 0.5 s from the click on Terminate to the end of its container.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time

from sightline_cluster.api import NoSuchJobError, connect

LIMIT_SECONDS = 0.5
CLUSTER = {"cpu": "1", "memory": "2Gi", "shared_memory": "256Mi", "scratch": "2Gi"}
SETTINGS = {"preset": "demo", "image_size": 32, "global_batch_size": 16, "workers": 2}
EPOCHS = 400  # more than any run gets to


def parse_arguments(runs: int) -> argparse.Namespace:
    """Return where the data, the results and the cluster's jobs are, and how many runs to do."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset-uri", required=True)
    parser.add_argument("--out", required=True, help="s3://… that receives the runs")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--runs", type=int, default=runs)
    parser.add_argument("--s3-in-cluster", default=os.environ.get("TESTBED_S3_ENDPOINT_IN_CLUSTER"))
    return parser.parse_args()


def main() -> int:
    """Stop runs, one after another, and print the table; 1 if a limit was missed."""
    given = parse_arguments(runs=20)
    api = connect(given.namespace)
    cluster = {**CLUSTER, "namespace": given.namespace, "s3_endpoint_url": given.s3_in_cluster}
    draw = random.Random(0)
    seconds = []
    for number in range(given.runs):
        out = f"{given.out}/runs/stop-{number}/pretrain"
        launcher = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "sightline_cluster",
                    "run",
                    "--cluster",
                    json.dumps(cluster),
                ),
                *("pretrain", "--dataset-uri", given.dataset_uri, "--out-uri", out),
                *("--config", json.dumps({**SETTINGS, "epochs": EPOCHS})),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert launcher.stdout is not None
        selector = f"sightline.dev/run-id=stop-{number}"
        while not (jobs := api.jobs(selector)):
            time.sleep(0.05)
        name = jobs[0]["metadata"]["name"]
        if number % 2:
            while "epoch 1/" not in (line := launcher.stdout.readline()):
                assert line, "the launcher ended before the first epoch"
        threading.Thread(target=launcher.stdout.read).start()  # a full pipe would hold it up
        time.sleep(draw.uniform(0.2, 8))
        start = time.perf_counter()
        launcher.send_signal(signal.SIGTERM)
        while not _is_deleted(api, name):
            time.sleep(0.002)
        seconds.append(time.perf_counter() - start)
        assert launcher.wait(timeout=30) == 143
    time.sleep(90)  # the pods' grace and the collector's round
    runs = [f"sightline.dev/run-id=stop-{number}" for number in range(given.runs)]
    left = [job["metadata"]["name"] for selector in runs for job in api.jobs(selector)]
    pods = [pod for number in range(given.runs) for pod in _left(given, number)]
    seconds.sort()
    print(
        "| Stopped | Jobs left | Others left | Median s | Slowest s | Limit s | Slowest / limit |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(
        f"| {given.runs} | {len(left)} | {len(pods)} | {statistics.median(seconds):.3f} | "
        f"{seconds[-1]:.3f} | {LIMIT_SECONDS} | {seconds[-1] / LIMIT_SECONDS:.2f} |"
    )
    is_kept = not left and not pods and seconds[-1] <= LIMIT_SECONDS
    print("kept" if is_kept else "missed")
    return int(not is_kept)


def _is_deleted(api, name: str) -> bool:
    try:
        return "deletionTimestamp" in api.job(name)["metadata"]
    except NoSuchJobError:
        return True


def _left(given: argparse.Namespace, number: int) -> list[str]:
    """Return the pods and the services of a run: their names hold the run's."""
    get = ["kubectl", "-n", given.namespace, "get", "pods,services", "-o", "name"]
    found = subprocess.run(get, capture_output=True, text=True, check=True).stdout.split()
    return [name for name in found if f"-stop-{number}-" in name]


if __name__ == "__main__":
    sys.exit(main())

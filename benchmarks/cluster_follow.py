r"""Claim: a launcher follows a job in at most 150 MB.

Needs what tests/cluster needs, and a namespace with k8s/overlays/dev:

    python benchmarks/cluster_follow.py --namespace sightline \
      --dataset-uri s3://b/datasets/1 --out s3://b/follow

Memory is the launcher's own peak, from its start to its end, CPU its share of one core while the
workers train.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

LIMITS = {"memory MB": 150.0}
CLUSTER = {"cpu": "1", "memory": "2Gi", "shared_memory": "256Mi", "scratch": "2Gi"}
SETTINGS = {"preset": "demo", "image_size": 32, "global_batch_size": 16, "workers": 2, "epochs": 20}


def main() -> int:
    """Follow one job and print the table; 1 if the limit was missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset-uri", required=True)
    parser.add_argument("--out", required=True, help="s3://… that receives the run")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--s3-in-cluster", default=os.environ.get("TESTBED_S3_ENDPOINT_IN_CLUSTER"))
    given = parser.parse_args()
    cluster = {**CLUSTER, "namespace": given.namespace, "s3_endpoint_url": given.s3_in_cluster}
    launcher = subprocess.Popen(
        [
            *(sys.executable, "-m", "sightline_cluster", "run", "--cluster", json.dumps(cluster)),
            *("pretrain", "--dataset-uri", given.dataset_uri),
            *("--out-uri", f"{given.out}/runs/follow-{int(time.time())}/pretrain"),
            *("--config", json.dumps(SETTINGS)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert launcher.stdout is not None
    began = used = end = ended = 0.0
    for line in launcher.stdout:
        if "| " in line and "epoch " in line:
            end, ended = time.monotonic(), _cpu_seconds(launcher.pid)
            if not began:
                began, used = end, ended
    # To its very end: the result is fetched after the last line of the workers.
    _, status, spent = os.wait4(launcher.pid, 0)
    assert status == 0
    peak = spent.ru_maxrss / 1024
    print("| Measured | Value | Limit |")
    print("| --- | --- | --- |")
    print(f"| launcher's memory, peak | {peak:.0f} MB | {LIMITS['memory MB']:.0f} MB |")
    share = (ended - used) / max(end - began, 1e-9)
    print(f"| launcher's CPU while following | {100 * share:.1f} % of a core | |")
    print("kept" if peak <= LIMITS["memory MB"] else "missed")
    return int(peak > LIMITS["memory MB"])


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())

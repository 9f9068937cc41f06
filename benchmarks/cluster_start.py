r"""Claim: from submit to the first training step, a job needs at most 10 s beyond pull and imports.

Needs what tests/cluster needs, and a namespace with k8s/overlays/dev:

    python benchmarks/cluster_start.py --namespace sightline \
      --dataset-uri s3://b/datasets/1 --out s3://b/start

Two pods of one process each. The end is the line that a worker prints after its first steps, as the
launcher sees it. What Python's imports cost is measured in two pods of the same shape at the same
time, which do nothing else: torchrun's and then the worker's own, as a job's pod has them. Pulling
is what the cluster's events say of it.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time

from cluster_stop import CLUSTER, SETTINGS, parse_arguments

from sightline_cluster.config import ClusterConfig
from sightline_cluster.render import job_name, render_pytorchjob
from sightline_cluster.task import Task, make_task

LIMIT_SECONDS = 10.0
ONE_EPOCH = {**SETTINGS, "epochs": 1}
IMPORTS = """
import subprocess, sys, time
start = time.monotonic()
for modules in ("sightline_cluster.worker, torch.distributed.run",
                "sightline.__main__, sightline.pretrain.run, sightline.storage.s3, boto3"):
    subprocess.run([sys.executable, "-c", "import " + modules], check=True)
print("imports took", time.monotonic() - start)
"""


def main() -> int:
    """Start jobs and print the table; 1 if the limit was missed."""
    given = parse_arguments(runs=3)
    values = {**CLUSTER, "namespace": given.namespace, "s3_endpoint_url": given.s3_in_cluster}
    config = ClusterConfig.from_values({"backend": "pytorchjob", **values})
    stamp = int(time.time())
    rows = []
    for number in range(given.runs):
        out_uri = f"{given.out}/runs/start-{stamp}-{number}/pretrain"
        uris = {"dataset_uri": given.dataset_uri, "out_uri": out_uri}
        task = make_task("pretrain", uris, ONE_EPOCH, {})
        imports = measure_imports(task, config)
        whole = measure_start(task, values)
        pull = pulled_seconds(given.namespace, task)
        rows.append((whole, pull, imports, whole - pull - imports))
    print("| Submit to first steps s | Pull s | Imports s | The rest s | Limit s | Rest / limit |")
    print("| --- | --- | --- | --- | --- | --- |")
    whole, pull, imports, rest = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        f"| {whole:.1f} | {pull:.1f} | {imports:.1f} | {rest:.1f} | {LIMIT_SECONDS:.0f} | "
        f"{rest / LIMIT_SECONDS:.2f} |"
    )
    print(
        f"medians of {given.runs}; the rest each time: {', '.join(f'{r[3]:.1f}' for r in rows)} s"
    )
    print("kept" if rest <= LIMIT_SECONDS else "missed")
    return int(rest > LIMIT_SECONDS)


def measure_imports(task: Task, config: ClusterConfig) -> float:
    """Return the seconds that two pods of a job's shape, started together, need to import."""
    job = render_pytorchjob(task, config)
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    (container,) = template["spec"]["containers"]
    container |= {"command": ["python", "-c", IMPORTS], "args": []}
    names = [f"imports-{number}" for number in range(2)]
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {**template["spec"], "restartPolicy": "Never"},
        }
        for name in names
    ]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": pods})
    kubectl(config.namespace, "apply", "-f", "-", text=listed)
    try:
        ended = ["wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=300s", "pods"]
        kubectl(config.namespace, *ended, *names)
        told = [kubectl(config.namespace, "logs", name) for name in names]
    finally:
        kubectl(config.namespace, "delete", "pods", *names)
    return max(float(text.split()[-1]) for text in told)


def measure_start(task: Task, cluster: dict) -> float:
    """Return the seconds from a job's submission to its workers' first steps."""
    launcher = subprocess.Popen(
        [
            *(sys.executable, "-m", "sightline_cluster", "run", "--cluster", json.dumps(cluster)),
            *("pretrain", "--dataset-uri", task.uris.to_json()["dataset_uri"]),
            *("--out-uri", task.out_uri, "--config", json.dumps(ONE_EPOCH)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert launcher.stdout is not None
    submitted = stepped = 0.0
    for line in launcher.stdout:
        if "submitted job" in line:
            submitted = time.monotonic()
        elif re.search(r"pretrain: \d+ steps?, about", line) and not stepped:
            stepped = time.monotonic()
    assert launcher.wait() == 0
    return stepped - submitted


def pulled_seconds(namespace: str, task: Task) -> float:
    """Return how long the slowest pull of a job's pods took; 0, where nodes had the image."""
    events = json.loads(kubectl(namespace, "get", "events", "-o", "json"))["items"]
    seconds = [0.0]
    for event in events:
        if event["involvedObject"]["name"].startswith(job_name(task)):
            found = re.search(
                r"Successfully pulled image .* in (?:(\d+)m)?([\d.]+)s", event["message"]
            )
            if found:
                seconds.append(60 * int(found[1] or 0) + float(found[2]))
    return max(seconds)


def kubectl(namespace: str, *arguments: str, text: str = "") -> str:
    """Run kubectl and return what it prints."""
    return subprocess.run(
        ["kubectl", "-n", namespace, *arguments],
        check=True,
        capture_output=True,
        text=True,
        input=text,
    ).stdout


if __name__ == "__main__":
    sys.exit(main())

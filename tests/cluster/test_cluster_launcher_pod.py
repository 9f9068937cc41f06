"""The launcher inside the cluster, in its own image and with its own account's token."""

import json
import os
import time
import uuid

from conftest import SETTINGS

from sightline.storage import fetch_artifacts
from sightline_cluster.images import LAUNCH


def launcher_job(name, arguments):
    """Return a Job whose pod is the launcher, as restricted as the workers are."""
    container = {
        "name": "launcher",
        "image": LAUNCH,
        "command": ["sightline-cluster", "run", *arguments],
        "envFrom": [{"secretRef": {"name": "sightline-s3"}}],
        "env": [
            {
                "name": "SIGHTLINE_S3_ENDPOINT_URL",
                "value": os.environ["TESTBED_S3_ENDPOINT_IN_CLUSTER"],
            }
        ],
        "resources": {
            "requests": {"cpu": "100m", "memory": "256Mi"},
            "limits": {"cpu": "500m", "memory": "256Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }
    labels = {
        "app.kubernetes.io/part-of": "sightline",
        "app.kubernetes.io/component": "launcher",
    }
    pod = {
        "serviceAccountName": "sightline-launcher",
        "automountServiceAccountToken": True,
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 3,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def test_launcher_pod_that_is_killed_is_followed_by_one_that_finds_the_job(
    namespace, bucket, dataset
):
    run = f"t{uuid.uuid4().hex[:8]}"
    name, out_uri = f"launcher-{run}", f"{bucket}/runs/{run}/pretrain"
    cluster = {"cpu": "500m", "memory": "2Gi", "shared_memory": "256Mi", "scratch": "2Gi"}
    # A pod is sent SIGTERM also where it only moves; whoever is started again lets its job go on.
    cluster["cancel_on_sigterm"] = False
    arguments = ["--cluster", json.dumps(cluster), "pretrain", "--dataset-uri", dataset]
    arguments += ["--out-uri", out_uri, "--config", json.dumps({**SETTINGS, "epochs": 3})]
    namespace.apply(launcher_job(name, arguments))
    try:
        first = wait_for_log(namespace, name, "submitted job")
        namespace.kubectl("delete", "pod", first, "--grace-period=0", "--force")
        second = wait_for_log(namespace, name, "found job", but=first)
        complete = ["wait", "--for=condition=complete", f"job/{name}", "--timeout=900s"]
        namespace.kubectl(*complete, timeout=920)
        assert "epoch 3/3" in namespace.kubectl("logs", second).stdout
        assert (fetch_artifacts(out_uri, ["metrics.json"]) / "metrics.json").exists()
        assert len(namespace.get("pytorchjobs", f"sightline.dev/run-id={run}")) == 1
    finally:
        namespace.kubectl("delete", "job", name, "--wait=false")
        namespace.kubectl("delete", "pytorchjobs", "-l", f"sightline.dev/run-id={run}")


def wait_for_log(namespace, job, text, but="", seconds=900):
    """Wait until a pod of a job has said something, and return the pod's name."""
    deadline = time.monotonic() + seconds
    told = ""
    while time.monotonic() < deadline:
        for pod in namespace.get("pods", f"batch.kubernetes.io/job-name={job}"):
            name = pod["metadata"]["name"]
            told = namespace.kubectl("logs", name, check=False).stdout if name != but else ""
            if text in told:
                return name
        time.sleep(1)
    raise AssertionError(told)

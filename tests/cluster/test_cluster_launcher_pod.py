"""The launcher inside the cluster, in its own image and with its own account's token."""

import json
import os
import re
import time
import uuid

import pytest
import yaml
from conftest import ROOT, SETTINGS

from components.pretrain import pretrain
from sightline.storage import fetch_artifacts

FOLLOWS_SECONDS = 120  # as docs/cluster.md states it, for a busy node of two cores
EXAMPLE = ROOT / "k8s" / "examples" / "launcher-job.yaml"


def launcher_job(name, arguments):
    """Return k8s/examples/launcher-job.yaml with another name, other arguments, and our bucket."""
    job = yaml.safe_load(EXAMPLE.read_text())
    del job["metadata"]["namespace"]
    job["metadata"]["name"] = name
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["args"] = arguments
    (endpoint,) = container["env"]
    endpoint["value"] = os.environ["TESTBED_S3_ENDPOINT_IN_CLUSTER"]
    return job


@pytest.mark.parametrize("change", [{}, {"nonsense": 1}])
def test_example_is_what_the_cluster_takes(namespace, change):
    job = yaml.safe_load(EXAMPLE.read_text())
    job["metadata"]["namespace"] = namespace.name
    job["spec"] |= change
    asked = ["create", "--dry-run=server", "--validate=strict", "-f", "-"]
    done = namespace.kubectl(*asked, input=json.dumps(job), check=False)
    assert (done.returncode == 0) == (not change), done.stderr
    assert "PodSecurity" not in done.stderr  # which a Job is only warned of


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
        killed = time.monotonic()
        second = wait_for_log(namespace, name, "found job", but=first, seconds=FOLLOWS_SECONDS)
        print(f"another launcher follows after {time.monotonic() - killed:.0f} s")
        complete = ["wait", "--for=condition=complete", f"job/{name}", "--timeout=900s"]
        namespace.kubectl(*complete, timeout=920)
        assert "epoch 3/3" in namespace.kubectl("logs", second).stdout
        assert (fetch_artifacts(out_uri, ["metrics.json"]) / "metrics.json").exists()
        assert len(namespace.get("pytorchjobs", f"sightline.dev/run-id={run}")) == 1
    finally:
        namespace.kubectl("delete", "job", name, "--wait=false")
        namespace.kubectl("delete", "pytorchjobs", "-l", f"sightline.dev/run-id={run}")


@pytest.mark.parametrize("code", [1, 2])
def test_launcher_that_has_told_its_jobs_end_is_not_made_anew(namespace, code):
    name = f"launcher-t{uuid.uuid4().hex[:8]}"
    job = launcher_job(name, [])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["command"] = ["python3", "-c", f"raise SystemExit({code})"]
    namespace.apply(job)
    try:
        failed = ["wait", "--for=condition=failed", f"job/{name}", "--timeout=300s"]
        namespace.kubectl(*failed, timeout=320)
        status = json.loads(namespace.kubectl("get", "job", name, "-o", "json").stdout)["status"]
        assert status["failed"] == 1
        assert status["conditions"][-1]["reason"] == "PodFailurePolicy"
    finally:
        namespace.kubectl("delete", "job", name, "--wait=false")


def wait_for_log(namespace, job, pattern, but="", seconds=900):
    """Wait until a pod of a job has said what a pattern finds, and return the pod's name."""
    deadline = time.monotonic() + seconds
    told = ""
    while time.monotonic() < deadline:
        for pod in namespace.get("pods", f"batch.kubernetes.io/job-name={job}"):
            name = pod["metadata"]["name"]
            told = namespace.kubectl("logs", name, check=False).stdout if name != but else ""
            if re.search(pattern, told):
                return name
        time.sleep(1)
    raise AssertionError(told)


def test_job_goes_with_the_launchers_own_job_and_nobody_stops_the_launcher(
    namespace, bucket, dataset
):
    run = f"t{uuid.uuid4().hex[:8]}"
    name = f"launcher-{run}"
    cluster = {"cpu": "500m", "memory": "2Gi", "scratch": "2Gi", "cancel_on_sigterm": False}
    arguments = ["--cluster", json.dumps(cluster), "pretrain", "--dataset-uri", dataset]
    arguments += ["--out-uri", f"{bucket}/runs/{run}/pretrain", "--config", json.dumps(SETTINGS)]
    namespace.apply(launcher_job(name, arguments))
    wait_for_log(namespace, name, "submitted job")
    (job,) = namespace.get("pytorchjobs", f"sightline.dev/run-id={run}")
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Job", name)
    namespace.kubectl("delete", "job", name, "--wait=false")
    namespace.wait_until_nothing_is_left(run)


def test_quota_that_holds_the_workers_but_not_their_launcher_too_is_refused(
    namespace, bucket, dataset
):
    run = f"t{uuid.uuid4().hex[:8]}"
    name = f"launcher-{run}"
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "exact"}}
    namespace.apply({**quota, "spec": {"hard": {"limits.cpu": "1"}}})
    try:
        arguments = ["--set", "cpu=500m", "pretrain", "--dataset-uri", dataset]
        arguments += ["--out-uri", f"{bucket}/runs/{run}/pretrain", "--workers", "2"]
        namespace.apply(launcher_job(name, arguments))
        told = "quota exact of namespace .* the job's 2 pods need 1, and the launcher's own pod 0.5"
        wait_for_log(namespace, name, told)
        assert namespace.left(run) == []
    finally:
        namespace.kubectl("delete", "resourcequota", "exact")
        namespace.kubectl("delete", "job", name, "--wait=false")


# Argo's executor is a container's first process. It starts KFP's launcher, and that the step. Asked
# to end, the first passes it on to the second, which dies of it without a word to the step, and up
# to a second later the first ends, and with it everything in the container.
ARGO = """
import os, signal, subprocess, sys, time
launcher = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
child = subprocess.Popen([sys.executable, "-c", launcher, *sys.argv[1:]])
def end(*_):
    child.terminate()
    child.wait()
    time.sleep(1)
    os._exit(143)
signal.signal(signal.SIGTERM, end)
sys.exit(child.wait())
"""


def test_step_of_a_pipeline_that_is_terminated_deletes_its_job(namespace, bucket, dataset):
    run = f"t{uuid.uuid4().hex[:8]}"
    name = f"step-{run}"
    cluster = {"cpu": "500m", "memory": "2Gi", "scratch": "2Gi", "backend": "pytorchjob"}
    values = {
        "run": f"{bucket}/runs/{run}",
        "dataset_uri": dataset,
        "labels_uri": "",
        "initial_weights_uri": "",
        "seed": 0,
        "workers": 2,
        "settings": {name: v for name, v in SETTINGS.items() if name != "workers"},
        "storage": {},
        "cluster": cluster,
    }
    metrics = {"name": "metrics", "type": {"schemaTitle": "system.Metrics"}, "uri": "/tmp/metrics"}
    outputs = {
        "parameters": {"Output": {"outputFile": "/tmp/output"}},
        "artifacts": {"metrics": {"artifacts": [{**metrics, "metadata": {}}]}},
        "outputFile": "/tmp/executor_output.json",
    }
    told = json.dumps({"inputs": {"parameterValues": values}, "outputs": outputs})
    # What KFP runs in the step's container, out of the component itself.
    step = pretrain.component_spec.implementation.container
    command = [told if word == "{{$}}" else word for word in [*step.command, *step.args]]
    pod = launcher_job(name, [])["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    container |= {"command": ["python3", "-c", ARGO, *command], "args": []}
    container["env"].append({"name": "KFP_POD_NAME", "value": name})
    metadata = {**pod["metadata"], "name": name}
    namespace.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]})
    try:
        deadline = time.monotonic() + 900
        while "submitted job" not in (log := namespace.kubectl("logs", name, check=False).stdout):
            assert time.monotonic() < deadline, log
            time.sleep(0.5)
        (job,) = namespace.get("pytorchjobs", f"sightline.dev/run-id={run}")
    finally:
        namespace.kubectl("delete", "pod", name)
    assert "ownerReferences" not in job["metadata"]
    namespace.wait_until_nothing_is_left(run)

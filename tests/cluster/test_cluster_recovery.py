"""What may befall a job while it runs, and is survived.

Two of them nobody can do through a cluster's API. Commands that can, where the tests run:

SIGHTLINE_TEST_KILL_CONTAINER  kills a container on its node; gets the container's id as an argument
SIGHTLINE_TEST_RESTART_API     ends the API server and starts it again
"""

import json
import os
import shlex
import subprocess
import time
import uuid
from datetime import UTC, datetime

import pytest
from conftest import local_losses, require_equal, wait_for_pods

from sightline_cluster.config import ClusterConfig
from sightline_cluster.render import render_pod
from sightline_cluster.task import make_task

EPOCHS = 4
# As docs/cluster.md states them, for a busy node of two cores; idle ones need a fraction.
GOES_ON_SECONDS = 180
ANSWERS_AGAIN_SECONDS = 60


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """Return the losses of a training that nothing befell."""
    return local_losses(dataset, tmp_path_factory.mktemp("undisturbed") / "local", epochs=EPOCHS)


def delete(namespace, pod):
    namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")


def evict(namespace, pod):
    """Ask as a node that is drained does."""
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{namespace.name}/pods/{name}/eviction"
    namespace.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(eviction))


def kill_on_node(namespace, pod):
    """Kill the container's first process behind the API's back, as a node short of memory does."""
    command = os.environ.get("SIGHTLINE_TEST_KILL_CONTAINER")
    if not command:
        pytest.skip("needs SIGHTLINE_TEST_KILL_CONTAINER")
    (status,) = pod["status"]["containerStatuses"]
    container = status["containerID"].partition("://")[2]
    subprocess.run([*shlex.split(command), container], check=True)


@pytest.mark.parametrize(
    "lose", [delete, pytest.param(evict, marks=pytest.mark.long), kill_on_node]
)
def test_worker_that_is_lost_comes_back_and_learns_the_same(launch, namespace, undisturbed, lose):
    launcher = launch(epochs=EPOCHS)
    launcher.wait_for("epoch 2/")
    pods = namespace.get("pods", f"sightline.dev/run-id={launcher.run}")
    lose(namespace, next(p for p in pods if p["metadata"]["name"].endswith("-worker-1")))
    lost = time.monotonic()
    launcher.wait_for("a worker was replaced", seconds=GOES_ON_SECONDS)
    replaced = time.monotonic()
    launcher.wait_for("going on from checkpoint", seconds=GOES_ON_SECONDS)
    print(f"replaced after {replaced - lost:.0f} s, goes on after {time.monotonic() - lost:.0f} s")
    launcher.wait()
    require_equal(launcher.losses(), undisturbed)
    (job,) = namespace.get("pytorchjobs", f"sightline.dev/run-id={launcher.run}")
    assert int(job["metadata"]["annotations"]["sightline.dev/restarts"]) >= 1


def test_api_server_that_restarts_is_waited_for(launch, namespace, api_restarts):
    command = os.environ.get("SIGHTLINE_TEST_RESTART_API")
    if not command:
        pytest.skip("needs SIGHTLINE_TEST_RESTART_API")
    launcher = launch(epochs=60)
    launcher.wait_for("epoch 1/")
    # Never stopped halfway: everybody here needs the server back.
    begin = datetime.now(UTC).isoformat()
    subprocess.run(shlex.split(command), check=True)
    back = time.monotonic()
    launcher.wait_for("the job goes on, and we try again for 15 minutes")
    launcher.wait_for("the cluster's API answers again after", seconds=ANSWERS_AGAIN_SECONDS)
    seen, answered = launcher.told.count("epoch "), time.monotonic()
    launcher.wait_for("epoch ", times=seen + 1, seconds=ANSWERS_AGAIN_SECONDS)
    followed = time.monotonic()
    print(f"answered {answered - back:.0f} s after its start, log after {followed - back:.0f} s")
    api_restarts.append((begin, datetime.now(UTC).isoformat()))
    launcher.process.terminate()
    launcher.wait(143)
    namespace.wait_until_nothing_is_left(launcher.run)


@pytest.mark.long
def test_suspended_job_is_told_and_goes_on_when_it_is_resumed(launch, namespace):
    launcher = launch(epochs=40)
    wait_for_pods(namespace, launcher, 2)
    (job,) = namespace.get("pytorchjobs", f"sightline.dev/run-id={launcher.run}")
    for suspended in (True, False):
        patch = json.dumps({"spec": {"runPolicy": {"suspend": suspended}}})
        name = job["metadata"]["name"]
        namespace.kubectl("patch", "pytorchjob", name, "--type=merge", "-p", patch)
        if suspended:
            launcher.wait_for("the job is suspended: somebody has to resume it")
    launcher.wait_for("epoch 1/")
    launcher.process.terminate()
    launcher.wait(143)


def test_worker_that_is_told_to_end_before_it_listens_ends_at_once(namespace):
    uris = {"dataset_uri": "s3://b/datasets/1", "out_uri": "s3://b/runs/r/pretrain"}
    few = {"cpu": "100m", "memory": "256Mi", "shared_memory": "64Mi", "scratch": "64Mi"}
    spec = render_pod(make_task("pretrain", uris, {}, {}), ClusterConfig(**few))
    (container,) = spec["containers"]
    # For as long as Python starts, a worker is no more than this.
    container |= {"command": ["sleep", "600"], "args": []}
    name = f"worker-{uuid.uuid4().hex[:8]}"
    spec |= {"restartPolicy": "Never", "activeDeadlineSeconds": 5}
    metadata = {"name": name}
    namespace.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    try:
        code = "{.status.containerStatuses[0].state.terminated.exitCode}"
        ended = ["wait", f"pod/{name}", f"--for=jsonpath={code}", "--timeout=300s"]
        namespace.kubectl(*ended, timeout=320)
        found = namespace.kubectl("get", "pod", name, "-o", f"jsonpath={code}").stdout
        assert found == "143"  # of SIGTERM; 137 would be SIGKILL, after the time for a checkpoint
    finally:
        namespace.kubectl("delete", "pod", name, "--wait=false")


@pytest.mark.long
def test_worker_that_outgrows_its_scratch_is_told_by_name(launch, namespace):
    # Its node looks every 10 s at what volumes hold; the worker lives longer than that.
    launcher = launch(epochs=400, cluster={"scratch": "16Ki", "restarts": 0}).wait(1)
    assert "it needs more than cluster.scratch 16Ki" in launcher.told.splitlines()[-1]
    namespace.wait_until_nothing_is_left(launcher.run)

"""What a cluster has against a job, each told soon, in words, with nothing left behind."""

import json
import os
import subprocess
import sys
import time
import uuid

import pytest
from conftest import kubectl

SOON = {"startup_seconds": 15}


def test_missing_image(launch, namespace):
    image = "registry.invalid/sightline/none:1"
    launcher = launch(cluster={"train_image": image, **SOON}).wait(2)
    assert f"image {image} cannot be pulled" in launcher.told
    assert "mend cluster.train_image" in launcher.told
    namespace.wait_until_nothing_is_left(launcher.run)


def test_image_that_is_no_name(launch, namespace):
    # Of the right letters, and too few: the node is the first to count them.
    image = f"sightline/none@sha256:{'0' * 40}"
    launcher = launch(cluster={"train_image": image}).wait(2)
    assert f"{image!r} is no name of an image" in launcher.told
    namespace.wait_until_nothing_is_left(launcher.run)


def test_secret_that_is_not_there(launch, namespace):
    launcher = launch(cluster={"s3_secret": "none-such", **SOON}).wait(2)
    assert f"there is no secret none-such in namespace {namespace.name}" in launcher.told
    assert "mend cluster.s3_secret" in launcher.told
    namespace.wait_until_nothing_is_left(launcher.run)


@pytest.mark.long
def test_service_account_that_is_not_there(launch, namespace):
    launcher = launch(cluster={"service_account": "none-such", **SOON}).wait(2)
    assert "there is no such service account" in launcher.told
    namespace.wait_until_nothing_is_left(launcher.run)


@pytest.mark.long
def test_node_selector_that_no_node_meets(launch, namespace):
    launcher = launch(cluster={"node_selector": ["gpu=none-such"], **SOON}).wait(2)
    assert "no node suits the job (cluster.node_selector: gpu=none-such" in launcher.told
    namespace.wait_until_nothing_is_left(launcher.run)


@pytest.mark.long
def test_room_that_no_node_has_now_is_waited_for(launch):
    launcher = launch(cluster={"node_selector": ["gpu=none-such"], "wait_for_nodes": True, **SOON})
    launcher.wait_for("no node suits the job (cluster.node_selector: gpu=none-such", seconds=120)
    time.sleep(20)
    assert launcher.process.poll() is None


def test_quota_that_could_never_hold_the_job(launch, namespace):
    launcher = launch(cluster={"cpu": "100"}).wait(2)
    assert "quota sightline of namespace" in launcher.told
    assert "the job's 2 pods need 200" in launcher.told
    assert namespace.left(launcher.run) == []


def test_queue_that_nothing_keeps(launch, namespace):
    if not kubectl("get", "crd", "localqueues.kueue.x-k8s.io", check=False).returncode:
        pytest.skip("needs a cluster without Kueue")
    launcher = launch(cluster={"queue": "sightline"}).wait(2)
    assert "nothing here keeps a job in cluster.queue sightline: install Kueue" in launcher.told
    assert namespace.left(launcher.run) == []


def test_namespace_that_is_not_there(launch):
    launcher = launch(cluster={"namespace": "none-such"}).wait(2)
    assert "bind the role sightline-launcher of k8s/base" in launcher.told


@pytest.mark.parametrize(
    ("account", "values", "told"),
    [
        ("sightline-launcher", {"namespace": "none-such"}, "bind the role sightline-launcher"),
        ("sightline-trainer", {}, "bind the role sightline-launcher"),
        ("sightline-launcher", {"cpu": "100"}, "quota sightline of namespace"),
    ],
)
def test_pipeline_is_refused_before_its_first_step(
    namespace, bucket, dataset, account, values, told
):
    run = f"t{uuid.uuid4().hex[:8]}"
    place = ["--images", dataset, "--out", f"{bucket}/out", "--run-id", run]
    values = {**values, "s3_endpoint_url": os.environ["TESTBED_S3_ENDPOINT_IN_CLUSTER"]}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pipelines", "run", "--backend", "pytorchjob", *place),
            *("--settings", json.dumps({"cluster": values})),
        ],
        env={**os.environ, "KUBECONFIG": str(namespace.kubeconfig(account))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "nothing was started" in done.stderr
    assert told in done.stderr
    assert namespace.left(run) == []


def test_account_without_rights(launch, namespace):
    launcher = launch(account="sightline-trainer").wait(2)
    assert "sightline-trainer" in launcher.told
    assert "bind the role sightline-launcher of k8s/base" in launcher.told
    assert namespace.left(launcher.run) == []


def test_workers_own_words_and_code_for_what_the_user_can_mend(launch, bucket, namespace):
    launcher = launch(data=f"{bucket}/datasets/none-such").wait(2)
    assert "ended with exit code 2:" in launcher.told.splitlines()[-1]
    assert "datasets/none-such" in launcher.told.splitlines()[-1]
    pods = namespace.get("pods", f"sightline.dev/run-id={launcher.run}")
    messages = [
        status["state"]["terminated"].get("message", "")
        for pod in pods
        for status in pod["status"]["containerStatuses"]
        if "terminated" in status["state"]
    ]
    assert any("datasets/none-such" in message for message in messages)


@pytest.mark.parametrize("account", ["sightline-launcher", "sightline-trainer"])
@pytest.mark.parametrize(
    "wish", ["get secrets", "list secrets", "create pods", "create pods/exec", "get nodes"]
)
def test_accounts_may_ask_the_api_for_no_secret_pod_or_node(namespace, account, wish):
    user = f"--as=system:serviceaccount:{namespace.name}:{account}"
    for where in (["-n", namespace.name], ["-n", "kube-system"]):
        asked = subprocess.run(
            ["kubectl", "auth", "can-i", *wish.split(), user, *where],
            capture_output=True,
            text=True,
        )
        assert asked.stdout.strip() == "no"


def test_pod_that_is_not_restricted_is_refused(namespace):
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root"},
        "spec": {"containers": [{"name": "root", "image": "busybox"}]},
    }
    done = namespace.kubectl("apply", "-f", "-", input=json.dumps(pod), check=False)
    assert 'violates PodSecurity "restricted' in done.stderr


def test_cluster_without_the_operator(namespace, bucket, dataset):
    # A version that no operator serves: the API server answers as it does where none is installed.
    program = (
        "import sys; from sightline_cluster import render; render.API_VERSION = 'kubeflow.org/v0'; "
        "from sightline_cluster.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    flags = ["--dataset-uri", dataset, "--out-uri", f"{bucket}/runs/none/pretrain"]
    store = f"s3_endpoint_url={os.environ['TESTBED_S3_ENDPOINT_IN_CLUSTER']}"
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "--set", store, "pretrain", *flags],
        env={**os.environ, "KUBECONFIG": str(namespace.kubeconfig("sightline-launcher"))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "install Kubeflow's Training Operator 1.9" in done.stderr

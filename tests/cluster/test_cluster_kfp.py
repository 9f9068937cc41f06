"""The compiled pipeline in a real Kubeflow Pipelines: run, terminated, deleted, retried.

Needed beside what conftest.py asks for: the address of its API in KF_PIPELINES_ENDPOINT, which
KFP's own client reads, too. KFP_NAMESPACE (kubeflow) is where it runs pipelines, and
KFP_SERVICE_ACCOUNT (pipeline-runner) as whom. Jobs run in the tests' own namespace, where that
account gets the launcher's role; but for one test they lie beside the run that they belong to.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid

import pytest
from conftest import kubectl

from sightline.storage import open_storage
from sightline_cluster.api import JOB_LABEL

ENDPOINT = "KF_PIPELINES_ENDPOINT"
KFP_NAMESPACE = os.environ.get("KFP_NAMESPACE", "kubeflow")
KFP_ACCOUNT = os.environ.get("KFP_SERVICE_ACCOUNT", "pipeline-runner")
SECRET, TRAINER = "sightline-s3", "sightline-trainer"
SMALL = {"image_size": 32, "global_batch_size": 16, "epochs": 1}
LONG = {**SMALL, "epochs": 2000}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        ENDPOINT not in os.environ,
        reason=f"needs {ENDPOINT}: the address of a Kubeflow Pipelines API (docs/cluster.md)",
    ),
]


@pytest.fixture(scope="module")
def client(namespace):
    """Return KFP's client; its account may launch jobs, and its steps' pods reach the bucket."""
    from kfp import Client

    role = ["rolebinding", "kfp", "--role=sightline-launcher"]
    namespace.kubectl("create", *role, f"--serviceaccount={KFP_NAMESPACE}:{KFP_ACCOUNT}")
    kfp = ["-n", KFP_NAMESPACE]
    made = []
    secret = json.loads(namespace.kubectl("get", "secret", SECRET, "-o", "json").stdout)
    for kind, name, rest in (
        ("Secret", SECRET, {"data": secret["data"]}),
        ("ServiceAccount", TRAINER, {"automountServiceAccountToken": False}),
    ):
        if kubectl(*kfp, "get", kind, name, check=False).returncode:  # one's own stays as it is
            manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **rest}
            kubectl(*kfp, "create", "-f", "-", input=json.dumps(manifest))
            made.append((kind, name))
    with pytest.warns(FutureWarning):
        client = Client()
    yield client
    for kind, name in made:
        kubectl(*kfp, "delete", kind, name)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """Return the compiled pipeline."""
    target = tmp_path_factory.mktemp("pipeline") / "simclr_to_yolo.yaml"
    subprocess.run([sys.executable, "-m", "pipelines", "compile", "--out", str(target)], check=True)
    return target


@pytest.fixture(scope="module")
def data(bucket, tmp_path_factory):
    """Return the pipeline's data parameters: the demo's images and classes, in the bucket."""
    folder = tmp_path_factory.mktemp("demo")
    few = ["--patients", "40", "--unlabelled-patients", "4"]
    command = [sys.executable, "-m", "sightline", "demo-data", "--out-uri", str(folder)]
    subprocess.run([*command, *few], check=True)
    storage = open_storage(f"{bucket}/demo")
    for kind in ("images", "labels", "table.csv"):
        for path in [folder / kind, *(folder / kind).rglob("*")]:
            if path.is_file():
                storage.upload(path, path.relative_to(folder).as_posix())
    return {
        "data_images": f"{bucket}/demo/images",
        "data_labels": f"{bucket}/demo/labels",
        "data_table": f"{bucket}/demo/table.csv",
    }


class Run:
    """One run of the pipeline in KFP."""

    def __init__(self, client, run_id, name, jobs):
        self.client, self.id, self.name, self.jobs = client, run_id, name, jobs

    @property
    def state(self):
        return self.client.get_run(self.id).state

    def pods(self, step=""):
        """Return its steps' pods, drivers left out; of one step, or of all."""
        selector = f"pipeline/runid={self.id}"
        found = kubectl("-n", KFP_NAMESPACE, "get", "pods", "-l", selector, "-o", "json").stdout
        return [
            pod
            for pod in json.loads(found)["items"]
            if f".{step}" in pod["metadata"]["annotations"]["workflows.argoproj.io/node-name"]
            and "-impl-" in pod["metadata"]["name"]
        ]

    def log(self, step):
        """Return what a step's pods have said."""
        names = [pod["metadata"]["name"] for pod in self.pods(step)]
        told = [
            kubectl("-n", KFP_NAMESPACE, "logs", name, "-c", "main", check=False).stdout
            for name in names
        ]
        return "".join(told)

    def wait_for(self, step, text, seconds=900):
        """Wait until a step has said something."""
        self._until(lambda: text in self.log(step), f"{step}: {text}", seconds)

    def wait_for_state(self, *states, seconds=1500):
        self._until(lambda: self.state in states, f"{states}", seconds)
        return self.state

    def wait_for_pod(self, step, seconds=600):
        self._until(lambda: self.pods(step), f"a pod of {step}", seconds)

    def _until(self, condition, wanted, seconds):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{wanted}; now {self.state}"
            time.sleep(0.5)

    def retry(self):
        self.client._run_api.run_service_retry_run(self.id)


@pytest.fixture
def start(client, pipeline, bucket, data, namespace):
    """Return `start(**arguments)`, which submits a run of small settings."""
    runs = []

    def submit(beside_the_run=False, name="", cluster=None, **arguments):
        name = name or f"k{uuid.uuid4().hex[:8]}"
        place = KFP_NAMESPACE if beside_the_run else namespace.name
        few = {"cpu": "500m", "memory": "2Gi", "shared_memory": "256Mi", "scratch": "2Gi"}
        pretrain = {"preset": "demo", **arguments.pop("pretrain", SMALL)}
        finetune = {"preset": "demo", "image_size": 32, **arguments.pop("finetune", {"epochs": 1})}
        given = {
            **data,
            "out": f"{bucket}/out",
            "run_id": name,
            "workers": 2,
            "settings_storage": {
                "s3_endpoint_url": os.environ["TESTBED_S3_ENDPOINT_IN_CLUSTER"],
            },
            "settings_cluster": {
                **{"backend": "pytorchjob", "namespace": "" if beside_the_run else place},
                **few,
                **(cluster or {}),
            },
            "settings_pretrain": pretrain,
            "settings_finetune": finetune,
            "settings_evaluate": {"preset": "demo", "epochs": 2},
            **{f"settings_{step}": {"preset": "demo"} for step in ("prepare", "report", "promote")},
            **arguments,
        }
        made = client.create_run_from_pipeline_package(
            str(pipeline), arguments=given, run_name=name, experiment_name="sightline-test"
        )
        runs.append(Run(client, made.run_id, name, place))
        return runs[-1]

    yield submit
    for run in runs:
        with contextlib.suppress(Exception):  # it may have ended, or have been deleted
            client.terminate_run(run.id)
        jobs = ["pytorchjobs", "-l", f"sightline.dev/run-id={run.name}"]
        kubectl("-n", run.jobs, "delete", *jobs, "--cascade=foreground")


def left(run):
    """Return what lives of a run's jobs, in any namespace; finished jobs stay for inspection."""

    def get(kind, *selector):
        found = kubectl("get", kind, "-A", *selector, "-o", "json").stdout
        return json.loads(found)["items"]

    of_run = ("-l", f"sightline.dev/run-id={run.name}")
    ends = {"Succeeded", "Failed"}
    finished, living = [], []
    for job in get("pytorchjobs", *of_run):
        conditions = job.get("status", {}).get("conditions", [])
        ended = any(one["type"] in ends and one["status"] == "True" for one in conditions)
        (finished if ended else living).append(job["metadata"]["name"])
    pods = [pod for pod in get("pods", *of_run) if pod["status"].get("phase") not in ends]
    services = [
        service
        for service in get("services", "-l", JOB_LABEL)
        if f"-{run.name}-" in (job := service["metadata"]["labels"][JOB_LABEL])
        and job not in finished
    ]
    return living + [one["metadata"]["name"] for one in (*pods, *services)]


STOP = """
import os, signal, pathlib
for process in pathlib.Path("/proc").glob("[0-9]*"):
    if (process / "comm").read_text().startswith("python") and int(process.name) != os.getpid():
        os.kill(int(process.name), signal.SIGSTOP)
"""


def stop_the_step(run):
    """Keep a step from hearing that it is to end; its job is left to the pipeline's last task."""
    run.wait_for("pretrain", "submitted job")
    (pod,) = run.pods("pretrain")
    step = ["-n", KFP_NAMESPACE, "exec", pod["metadata"]["name"], "-c", "main"]
    kubectl(*step, "--", "python3", "-c", STOP)


MOMENTS = {
    "a step's pod is pending": lambda run: run.wait_for_pod("pretrain"),
    "its job is submitted": lambda run: run.wait_for("pretrain", "submitted job"),
    "its job trains": lambda run: run.wait_for("pretrain", "epoch 1/"),
    "its step cannot answer": stop_the_step,
    "a later step's job trains": lambda run: run.wait_for("finetune", "epoch 1/"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_terminated_run_leaves_nothing(start, client, moment):
    late = moment == "a later step's job trains"
    run = start(pretrain=SMALL if late else LONG, finetune={"epochs": 2000})
    MOMENTS[moment](run)
    client.terminate_run(run.id)
    began = last_seen = time.monotonic()
    # A step that is to end may still submit, so it is the end of the run that counts.
    while (found := left(run)) or run.state not in ("FAILED", "CANCELED"):
        if found:
            last_seen = time.monotonic()
        assert time.monotonic() - began < 600, (run.state, found)
    print(f"{moment}: nothing left {last_seen - began:.1f} s after Terminate")


def test_deleted_run_takes_its_jobs_along(start, client):
    run = start(pretrain=LONG, cluster={"cancel_on_sigterm": False}, beside_the_run=True)
    run.wait_for("pretrain", "submitted job")
    selector = f"sightline.dev/run-id={run.name}"
    found = kubectl("-n", run.jobs, "get", "pytorchjobs", "-l", selector, "-o", "json").stdout
    (job,) = json.loads(found)["items"]
    (owner,) = job["metadata"]["ownerReferences"]
    assert owner["kind"] == "Workflow"
    client.delete_run(run.id)
    deadline = time.monotonic() + 300
    while found := left(run):
        assert time.monotonic() < deadline, found
        time.sleep(1)


def test_retried_run_follows_the_job_that_outlived_its_step(start):
    run = start(pretrain={**SMALL, "epochs": 12}, cluster={"cancel_on_sigterm": False})
    run.wait_for("pretrain", "epoch 1/")
    (pod,) = run.pods("pretrain")
    name = pod["metadata"]["name"]
    kubectl("-n", KFP_NAMESPACE, "delete", "pod", name, "--grace-period=0", "--force")
    # Argo makes a pod anew that it has not seen running yet; else the step has failed.
    while "found job" not in run.log("pretrain") and run.state != "FAILED":
        time.sleep(1)
    if run.state == "FAILED":
        assert left(run)
        run.retry()
        run.wait_for("pretrain", "found job")
    assert run.wait_for_state("SUCCEEDED", "FAILED") == "SUCCEEDED"


def test_failed_step_says_why_in_its_own_log(start):
    run = start(pretrain={**SMALL, "learning_rate": 1e12}, data_labels="")
    assert run.wait_for_state("SUCCEEDED", "FAILED") == "FAILED"
    assert "sightline pretrain: " in run.log("pretrain")

"""A namespace of the tests' own on the cluster of KUBECONFIG, and launchers with the rights of one.

Needed: Training Operator 1.9, the images of `make images` on the cluster's nodes, and an S3 server
that the TESTBED_S3_… variables name, once as seen from here and once as seen from pods. Without
them every test is skipped and says which is missing; with SIGHTLINE_TEST_CLUSTER=required, which
`make test-cluster` sets, nothing is run and pytest fails.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from sightline.storage import fetch_artifacts

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "preset": "demo",
    "image_size": 32,
    "global_batch_size": 16,
    "epochs": 2,
    "precision": "float32",
    "workers": 2,
}
NEEDED = ("ENDPOINT", "ENDPOINT_IN_CLUSTER", "ACCESS_KEY", "SECRET_KEY")


def kubectl(*arguments, check=True, **options):
    """Run kubectl as the cluster's administrator."""
    options = {"timeout": 120, **options}
    return subprocess.run(
        ["kubectl", *arguments], check=check, capture_output=True, text=True, **options
    )


def _missing():
    if shutil.which("kubectl") is None:
        return "kubectl"
    try:
        found = kubectl("get", "crd", "pytorchjobs.kubeflow.org", check=False)
    except subprocess.TimeoutExpired:
        return "a cluster that answers (KUBECONFIG)"
    if found.returncode:
        return f"a cluster with Training Operator 1.9 (KUBECONFIG): {found.stderr.strip()}"
    absent = [name for name in NEEDED if not os.environ.get(f"TESTBED_S3_{name}")]
    return f"TESTBED_S3_{', TESTBED_S3_'.join(absent)}" if absent else ""


def pytest_collection_modifyitems(items):
    """Skip whatever lies here where something is missing; what the others asked is read last."""
    items.sort(key=lambda item: item.path.stem == "test_cluster_audit")
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    missing = _missing() if here else ""
    if missing and os.environ.get("SIGHTLINE_TEST_CLUSTER") == "required":
        raise pytest.UsageError(f"tests/cluster needs {missing}")
    for item in here:
        # Not how long it should take: on a busy machine two pods import torch for minutes.
        item.add_marker(pytest.mark.timeout(1800))
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"needs {missing}"))


class Namespace:
    """The tests' namespace: k8s/overlays/dev under another name."""

    def __init__(self, name, folder):
        self.name = name
        self.folder = folder

    def kubectl(self, *arguments, **options):
        return kubectl("-n", self.name, *arguments, **options)

    def get(self, kind, selector=""):
        """Return the objects of a kind."""
        found = self.kubectl("get", kind, "-o", "json", *(["-l", selector] if selector else []))
        return json.loads(found.stdout)["items"]

    def apply(self, manifest):
        self.kubectl("apply", "-f", "-", input=json.dumps(manifest))

    def kubeconfig(self, account):
        """Return a kubeconfig with the rights of a service account, and no others."""
        path = self.folder / f"{account}.kubeconfig"
        if not path.exists():
            view = json.loads(kubectl("config", "view", "--minify", "--raw", "-o", "json").stdout)
            token = self.kubectl("create", "token", account, "--duration=4h").stdout.strip()
            view["users"] = [{"name": account, "user": {"token": token}}]
            view["contexts"][0]["context"] |= {"user": account, "namespace": self.name}
            path.write_text(json.dumps(view))
        return path

    def left(self, run):
        """Return what is there of a run: jobs, pods, services."""
        selector = f"sightline.dev/run-id={run}"
        jobs = [f"job {job['metadata']['name']}" for job in self.get("pytorchjobs", selector)]
        pods = [f"pod {pod['metadata']['name']}" for pod in self.get("pods", selector)]
        services = [
            f"service {service['metadata']['name']}"
            for service in self.get("services")
            if run in service["metadata"]["name"]
        ]
        return jobs + pods + services

    def wait_until_nothing_is_left(self, run, seconds=300):
        deadline = time.monotonic() + seconds
        while left := self.left(run):
            assert time.monotonic() < deadline, left
            time.sleep(1)


@pytest.fixture(scope="session")
def namespace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("namespace")
    name = f"sightline-test-{uuid.uuid4().hex[:8]}"
    overlay = os.path.relpath(ROOT / "k8s" / "overlays" / "dev", folder)
    (folder / "kustomization.yaml").write_text(f"namespace: {name}\nresources: [{overlay}]\n")
    rendered = subprocess.run(
        ["kubectl", "kustomize", "--load-restrictor=LoadRestrictionsNone", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    kubectl("apply", "-f", "-", input=rendered)
    made = Namespace(name, folder)
    keys = {
        "AWS_ACCESS_KEY_ID": os.environ["TESTBED_S3_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": os.environ["TESTBED_S3_SECRET_KEY"],
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sightline-s3"}}
    made.apply({**secret, "stringData": keys})
    yield made
    if not os.environ.get("SIGHTLINE_KEEP_NAMESPACE"):
        kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def api_restarts():
    """Return when tests restarted the API server: each (from, to) as its audit log writes it."""
    return []


class Launcher:
    """`sightline-cluster run pretrain` as a process; what it prints is kept."""

    def __init__(self, namespace, run, bucket, dataset, settings, cluster, account, log):
        self.namespace, self.run = namespace, run
        self.out_uri = f"{bucket}/runs/{run}/pretrain"
        self.log = log
        values = {"cpu": "1", "memory": "2Gi", "shared_memory": "256Mi", "scratch": "2Gi"}
        values["s3_endpoint_url"] = os.environ["TESTBED_S3_ENDPOINT_IN_CLUSTER"]
        environment = {
            **os.environ,
            "KUBECONFIG": str(namespace.kubeconfig(account)),
            "PYTHONUNBUFFERED": "1",
        }
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "sightline_cluster", "run"),
                    *("--cluster", json.dumps({**values, **cluster}), "pretrain"),
                    *("--dataset-uri", dataset, "--out-uri", self.out_uri),
                    *("--config", json.dumps({**SETTINGS, **settings})),
                ],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    @property
    def told(self):
        return self.log.read_text(errors="replace")

    def wait(self, code=0, seconds=900):
        assert self.process.wait(timeout=seconds) == code, self.told
        return self

    def wait_for(self, text, seconds=900, times=1):
        deadline = time.monotonic() + seconds
        while self.told.count(text) < times:
            assert self.process.poll() is None, self.told
            assert time.monotonic() < deadline, self.told
            time.sleep(0.1)
        return self

    def losses(self):
        """Return the loss of every step, as the result's file writes it."""
        lines = (fetch_artifacts(self.out_uri) / "steps.csv").read_text().splitlines()
        return [line.rpartition(",")[2] for line in lines]


@pytest.fixture(scope="module")
def bucket(s3_server):
    # Runs of this module share data; the variables hold for processes that the tests start, too.
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "SIGHTLINE_S3_"))]:
            patch.delenv(name)
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        with s3_server.fresh_bucket() as name:
            yield f"s3://{name}"


@pytest.fixture(scope="module")
def dataset(bucket, tmp_path_factory):
    """Return a data set of the demo's images in the bucket."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "sightline"]
    few = ["--patients", "12", "--unlabelled-patients", "4"]
    subprocess.run([*command, "demo-data", "--out-uri", str(folder), *few], check=True)
    out = f"{bucket}/prepared"
    subprocess.run(
        [
            *(*command, "prepare", "--images-uri", str(folder / "images")),
            *("--table-uri", str(folder / "table.csv")),
            *("--store-uri", f"{bucket}/datasets", "--out-uri", out),
        ],
        check=True,
    )
    metrics = json.loads((fetch_artifacts(out, ["metrics.json"]) / "metrics.json").read_text())
    return metrics["datasets"]["images"]


@pytest.fixture(scope="module")
def launch(namespace, bucket, dataset, tmp_path_factory):
    """Return `launch(cluster=…, **settings)`, which starts a launcher with a run of its own."""
    started = []
    folder = tmp_path_factory.mktemp("launchers")

    def start(run="", cluster=None, account="sightline-launcher", data="", **settings):
        run = run or f"t{uuid.uuid4().hex[:8]}"
        log = folder / f"{run}-{len(started)}.log"
        launcher = Launcher(
            namespace, run, bucket, data or dataset, settings, cluster or {}, account, log
        )
        started.append(launcher)
        return launcher

    yield start
    for launcher in started:
        if launcher.process.poll() is None:
            launcher.process.terminate()
            launcher.process.wait(timeout=30)
    for run in {launcher.run for launcher in started}:
        namespace.kubectl("delete", "pytorchjobs", "-l", f"sightline.dev/run-id={run}")


def local_losses(dataset, folder, **settings):
    """Return the losses of two processes on this machine, one thread each as in the pods."""
    subprocess.run(
        [
            *(sys.executable, "-m", "sightline", "pretrain", "--dataset-uri", dataset),
            *("--out-uri", str(folder), "--config", json.dumps({**SETTINGS, **settings})),
        ],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = (fetch_artifacts(str(folder)) / "steps.csv").read_text().splitlines()
    return [line.rpartition(",")[2] for line in lines]


def require_equal(found, expected):
    assert found[0] == expected[0]
    differences = [abs(float(a) - float(b)) for a, b in zip(found[1:], expected[1:], strict=True)]
    print(f"{len(differences)} steps, largest difference of a loss: {max(differences)}")
    assert max(differences) <= 1e-6


def wait_for_pods(namespace, launcher, count, seconds=600):
    deadline = time.monotonic() + seconds
    while len(namespace.get("pods", f"sightline.dev/run-id={launcher.run}")) < count:
        assert launcher.process.poll() is None, launcher.told
        assert time.monotonic() < deadline, launcher.told
        time.sleep(0.5)

"""What a cluster has against a run's jobs, told before `prepare` begins to work."""

import os
import sys

import pytest

from pipelines.__main__ import main
from sightline.storage import open_storage
from sightline.storage.settings import StorageConfig
from sightline_cluster.__main__ import main as cluster_main
from sightline_cluster.config import ClusterConfig
from sightline_cluster.launch import check_tasks
from sightline_cluster.pipeline_step import reap_run, run_training_step


@pytest.fixture
def run(s3_bucket, monkeypatch, capfd):
    """Return `run(*flags)`: what a run of the pipeline with pods of a cluster says at its start."""
    # A plan makes its settings of storage hold in the process: each is put back after the test.
    for name in StorageConfig.model_fields:
        variable = f"SIGHTLINE_{name.upper()}"
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
    open_storage(f"{s3_bucket}/images").write_bytes("image.png", b"an image")

    def start(*flags):
        place = ["--images", f"{s3_bucket}/images", "--out", f"{s3_bucket}/out"]
        place += ["--set", "cluster.s3_endpoint_url=http://s3.example:9000"]
        code = main(["run", "--backend", "pytorchjob", *place, *flags])
        assert code == 2
        told = capfd.readouterr().err.splitlines()
        assert told[0] == "pipelines: nothing was started:"
        assert next(open_storage(f"{s3_bucket}/out").list(), None) is None
        return "\n".join(told[1:])

    return start


def refuse_jobs(api, status, message):
    api.refuse = lambda method, _: (status, message) if method == "POST" else None


@pytest.mark.parametrize(
    ("status", "message", "told"),
    [
        (404, "the server could not find the requested resource", "install Kubeflow's Training"),
        (404, 'namespaces "team" not found', "there is no namespace team: kubectl apply"),
        (403, 'User "eve" cannot create resource "pytorchjobs"', "bind the role sightline-launch"),
        (401, "Unauthorized", "does not accept who we are"),
        (403, 'User "system:anonymous" cannot create resource "pytorchjobs"', "renew the login"),
    ],
)
def test_run_that_the_cluster_would_refuse_is_not_started(api, run, status, message, told):
    refuse_jobs(api, status, message)
    assert told in run()
    assert api.jobs == {}


def test_no_cluster_is_told(run, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert "cluster: a cluster is needed, and none is known here" in run()


def test_cluster_that_gives_no_answer_is_told(api, run):
    api.stop()
    assert "gives no answer" in (told := run())
    assert "set KUBECONFIG to another's" in told


def test_quota_that_never_holds_a_later_steps_pods_is_told(api, run):
    hard = {"limits.cpu": "6"}
    api.quotas = [{"metadata": {"name": "small"}, "status": {"hard": hard}}]
    assert "the job's 4 pods need 8" in run("--workers", "4")


def test_weights_that_no_pod_can_read_are_told(api, run, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"weights")
    told = run("--initial-weights", str(tmp_path / "weights.pth"))
    assert "pods read and write s3://… only, got initial_weights_uri" in told


def test_jobs_that_the_cluster_takes_are_asked_for_and_not_made(api, task, s3_bucket):
    steps = ("pretrain", "finetune", "detect")
    check_tasks([task(step, bucket=s3_bucket) for step in steps], ClusterConfig())
    assert [method for method, _ in api.requests if method != "GET"] == ["dry run"] * 3
    assert api.jobs == {}


@pytest.mark.parametrize("missing", ["kubernetes", "kubeflow.training"])
def test_environment_without_the_clusters_client_is_told(run, monkeypatch, capfd, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    for module in ("api", "logs", "pods", "pytorchjob", "quota"):
        monkeypatch.delitem(sys.modules, f"sightline_cluster.{module}", raising=False)
    words = f"{missing} is not installed: pip install 'sightline[cluster]'"
    assert words in run()
    flags = ["pretrain", "--dataset-uri", "s3://b/d", "--out-uri", "s3://b/r/pretrain"]
    for command in (["reap", "--all"], ["run", *flags]):
        assert cluster_main(command) == 2
        assert capfd.readouterr().err == f"sightline cluster: {words}\n"
    cluster = {"backend": "pytorchjob"}
    for end in (
        lambda: reap_run("s3://b", "r", "", cluster),
        lambda: run_training_step(
            "pretrain", "s3://b/runs/r", {"dataset_uri": "s3://b/d"}, {}, {}, {}, cluster
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            end()
        assert ended.value.code == 2
        assert words in capfd.readouterr().err


DOWN = (
    'Internal error occurred: failed calling webhook "validator.pytorchjob.training-operator'
    '.kubeflow.org": failed to call webhook: Post "https://training-operator.kubeflow.svc:443/'
    'validate-kubeflow-org-v1-pytorchjob?timeout=10s": dial tcp 10.96.3.1:443: connect: connection '
    "refused"
)


def test_webhook_that_is_down_is_told_with_its_operator_and_not_as_the_cluster(api, run):
    refuse_jobs(api, 500, DOWN)
    told = run()
    assert "webhook validator.pytorchjob.training-operator.kubeflow.org of service " in told
    assert "of service training-operator in namespace kubeflow" in told
    assert "Kubeflow's Training Operator or Kueue, runs (kubectl get pods -n kubeflow)" in told
    assert "start that cluster" not in told


@pytest.mark.parametrize(
    ("status", "answer", "told"),
    [
        (404, b"<!DOCTYPE html>\n<title>Not here</title>", "(404, <!DOCTYPE html>)"),
        (403, b"<html>", "(403, <html>)"),
        (200, b"<html>", "(<html>)"),
        (200, b"[]", "([])"),
        (200, b"\xff", "('utf-8' codec can't decode byte 0xff in position 0: invalid start byte)"),
        (200, b"{}", "(without what was asked for)"),
    ],
)
def test_server_that_is_no_kubernetes_is_told_by_its_address(api, run, capfd, status, answer, told):
    api.refuse = lambda *_: (status, answer)
    words = f"{api.url} is no Kubernetes API, it answers otherwise {told}: set KUBECONFIG to a"
    assert words in run()
    assert cluster_main(["reap", "--all"]) == 2
    assert capfd.readouterr().err.startswith(f"sightline cluster: {words}")


def test_queue_that_nothing_keeps_is_told_before_anything_is_made(api, run, task):
    assert "nothing here keeps a job in cluster.queue vision" in run(
        "--set", "cluster.queue=vision"
    )
    assert api.jobs == {}


def test_queue_that_kueue_keeps_is_one_that_it_suspends_jobs_in(api, task, s3_bucket):
    # As its webhook of PyTorchJobs does with those that bear a queue's label.
    api.admit = lambda job: job["spec"]["runPolicy"].update(suspend=True)
    check_tasks([task(bucket=s3_bucket)], ClusterConfig(queue="vision"))

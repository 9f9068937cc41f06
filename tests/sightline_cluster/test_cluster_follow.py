import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_api import JOBS, PODS, QUOTAS

from sightline.errors import UserError
from sightline.storage import open_storage
from sightline.storage.artifacts import new_artifacts, write_json
from sightline_cluster.__main__ import main
from sightline_cluster.api import Api, connect
from sightline_cluster.config import ClusterConfig
from sightline_cluster.pipeline_step import reap_run
from sightline_cluster.pytorchjob import (
    JobFailedError,
    JobLostError,
    PyTorchJobBackend,
    cancelled_with_us,
    reap,
)
from sightline_cluster.render import (
    FAILURE_ANNOTATION,
    RESTARTS_ANNOTATION,
    SETTINGS_ANNOTATION,
    STEP_LABEL,
)
from sightline_cluster.task import make_task

IN_CLUSTER = "http://s3.example:9000"
RUN = [sys.executable, "-m", "sightline_cluster", "run", "--set", f"s3_endpoint_url={IN_CLUSTER}"]
FLAGS = ["--dataset-uri", "s3://b/datasets/1", "--out-uri", "s3://b/runs/r/pretrain"]


@pytest.fixture
def api(api, s3_bucket):
    # In a bucket that is there: a launcher looks into it before it submits.
    FLAGS[1::2] = f"{s3_bucket}/datasets/1", f"{s3_bucket}/runs/r/pretrain"
    return api


@pytest.fixture
def backend(s3_bucket):
    """Return `backend(**settings)`: one whose results lie in a bucket, and whose API is `api`."""

    def make(epochs=1, **settings):
        uris = {"dataset_uri": f"{s3_bucket}/d", "out_uri": f"{s3_bucket}/runs/r/pretrain"}
        task = make_task("pretrain", uris, {"epochs": epochs}, {})
        return PyTorchJobBackend(task, ClusterConfig(**settings))

    return make


def publish(backend):
    task = backend._task
    with new_artifacts("pretrain", task.uris, task.config, task.out_uri) as folder:
        write_json(folder / "metrics.json", {"final_loss_nats": 1.5})


def soon(*steps):
    """Do things one after another, a little later, in a thread."""

    def run():
        for step in steps:
            time.sleep(0.5)
            step()

    threading.Thread(target=run, daemon=True).start()


def test_job_that_succeeds_gives_what_the_step_wrote_and_its_log(api, backend, capfd):
    ours = backend()
    api.logs["job-worker-0"] = ["epoch 1", "epoch 2"]
    ours.submit()
    publish(ours)
    api.set_pod("one", {"running": {}})
    soon(lambda: api.set_condition("Succeeded"))
    assert ours.follow()["final_loss_nats"] == 1.5
    told = capfd.readouterr().out
    assert "job-worker-0 | epoch 1\njob-worker-0 | epoch 2\n" in told
    assert ours.name in told


def test_job_that_succeeds_without_a_result_is_no_success(api, backend):
    ours = backend()
    ours.submit()
    api.set_condition("Succeeded")
    with pytest.raises(JobFailedError, match=r"holds no result.*cluster\.s3_endpoint_url"):
        ours.follow()


@pytest.mark.parametrize(("code", "kind"), [(2, UserError), (1, JobFailedError)])
def test_failed_job_is_told_by_its_workers_own_last_word_and_code(api, backend, code, kind):
    ours = backend()
    ours.submit()
    ended = {"exitCode": code, "reason": "Error", "message": "pretrain: no images there"}
    lost = {"exitCode": 143, "reason": "Error", "message": "pretrain: another worker ended"}
    api.set_pod("one", {"terminated": ended})
    api.set_pod("two", {"terminated": lost}, name="job-worker-1")
    api.set_condition("Failed", "job is failing because Worker replica(s) failed.")
    with pytest.raises(kind, match=f"job-worker-0 ended with exit code {code}: no images there"):
        ours.follow()


def test_worker_killed_for_its_memory_is_told_what_to_raise(api, backend):
    ours = backend(restarts=0, memory="3Gi")
    ours.submit()
    api.set_pod("one", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}})
    soon(lambda: api.set_pod("two", {"running": {}}))
    with pytest.raises(JobFailedError, match=r"137 \(OOMKilled\): it needs more than .*3Gi"):
        ours.follow()


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            'Usage of EmptyDir volume "scratch" exceeds the limit "3Gi". ',
            r"137 \(Evicted\): it needs more than cluster.scratch 3Gi \(Usage of EmptyDir volume",
        ),
        (
            "Pod ephemeral local storage usage exceeds the total limit of containers 4Gi. ",
            "more than cluster.scratch 3Gi",
        ),
        (
            'Container pytorch exceeded its local ephemeral storage limit "4Gi". ',
            "more than cluster.scratch 3Gi",
        ),
        (
            "The node was low on resource: ephemeral-storage. Threshold quantity: 9Gi, available: "
            "8Gi. Container pytorch was using 2Gi, request is 1Gi, has larger consumption of "
            "ephemeral-storage. ",
            r"137 \(Evicted\): The node was low on resource",
        ),
    ],
)
def test_evicted_worker_is_told_by_its_nodes_words_and_what_to_raise(api, backend, message, told):
    # As kubelet 1.34 leaves the pod: its process had words of its own, and they do not matter.
    ours = backend(restarts=0, scratch="3Gi")
    ours.submit()
    ended = {"exitCode": 137, "reason": "Error", "message": "W1127 received 15 death signal"}
    why = {"phase": "Failed", "reason": "Evicted", "message": message}
    api.set_pod("one", {"terminated": ended}, **why)
    soon(
        # It takes the other one along, whose end comes last.
        lambda: api.set_pod("other", {"terminated": {"exitCode": 143}}, name="job-worker-1"),
        lambda: api.set_pod("two", {"running": {}}),
    )
    with pytest.raises(JobFailedError, match=told):
        ours.follow()


def test_restarts_are_counted_on_the_job_and_end_with_the_budget(api, backend, capfd):
    ours = backend(restarts=1)
    ours.submit()
    gone = {"exitCode": 143, "reason": "Error", "message": "pretrain: the store is away"}
    api.set_pod("one", {"terminated": gone})
    (job,) = api.jobs.values()

    def count():
        return job["metadata"]["annotations"].get(RESTARTS_ANNOTATION)

    soon(
        lambda: api.set_pod("two", {"running": {}}),
        lambda: _until(lambda: count() == "1"),
        lambda: api.set_pod("three", {"running": {}}),
    )
    # What is told of the first end is no reason for the second, of which nothing is known.
    with pytest.raises(JobFailedError, match=r"started again 1 times.*\(nobody saw how it ended, "):
        ours.follow()
    told = "a worker was replaced (job-worker-0 ended with exit code 143: the store is away); 0 "
    assert told in capfd.readouterr().out
    assert api.jobs == {}


def test_second_launcher_follows_the_job_of_the_first(api, backend, capfd):
    backend().submit()
    again = backend()
    again.submit()
    publish(again)
    api.set_condition("Succeeded")
    assert again.follow()["final_loss_nats"] == 1.5
    assert "found job" in capfd.readouterr().out
    assert len(api.jobs) == 1


def test_another_task_under_the_same_name_is_refused_in_words(api, backend):
    backend(epochs=1).submit()
    with pytest.raises(UserError, match=r"another task \(epochs 1 there, 2 here\): kubectl delete"):
        backend(epochs=2).submit()


@pytest.mark.parametrize("annotations", [None, {SETTINGS_ANNOTATION: "[1]"}])
def test_job_of_another_making_is_refused_in_words(api, backend, annotations):
    backend().submit()
    (job,) = api.jobs.values()
    job["metadata"]["annotations"] = annotations
    with pytest.raises(UserError, match=r"with another task \(made in another way\): kubectl"):
        backend().submit()


@pytest.mark.parametrize("noted", ["many", "-5"])
def test_count_of_restarts_that_is_none_begins_anew_and_is_told(api, backend, capfd, noted):
    backend().submit()
    (job,) = api.jobs.values()
    job["metadata"]["annotations"][RESTARTS_ANNOTATION] = noted
    again = backend(restarts=1)
    again.submit()
    publish(again)
    api.set_pod("one", {"terminated": {"exitCode": 143}})
    soon(
        lambda: api.set_pod("two", {"running": {}}),
        lambda: _until(lambda: job["metadata"]["annotations"][RESTARTS_ANNOTATION] == "1"),
        lambda: api.set_condition("Succeeded"),
    )
    again.follow()
    told = capfd.readouterr().out
    assert f"sightline.dev/restarts of the job is no count, got {noted!r}: counted from 0" in told
    assert "0 restarts left" in told


def fail(api, code, message):
    """Let the only job fail by its worker's end."""
    api.set_pod("one", {"terminated": {"exitCode": code, "reason": "Error", "message": message}})
    api.set_condition("Failed", "job is failing because Worker replica(s) failed.")


@pytest.mark.parametrize(("code", "kind"), [(2, UserError), (1, JobFailedError)])
def test_failure_that_no_launcher_told_is_told_before_anything_is_started_anew(
    api, backend, code, kind, capfd
):
    backend().submit()
    fail(api, code, "pretrain: no images there")
    api.logs["job-worker-0"] = ["epoch 1"]
    again = backend()
    again.submit()
    words = f"job-worker-0 ended with exit code {code}: no images there"
    with pytest.raises(kind, match=words):
        again.follow()
    told = capfd.readouterr().out
    assert "which failed with no launcher there to tell it" in told
    assert "job-worker-0 | epoch 1" in told
    (job,) = api.jobs.values()
    assert job["metadata"]["annotations"][FAILURE_ANNOTATION] == words
    backend().submit()
    assert f"has failed before ({words}); starting it anew" in capfd.readouterr().out
    (job,) = api.jobs.values()
    assert "status" not in job
    assert FAILURE_ANNOTATION not in job["metadata"]["annotations"]


def test_deadline_that_passed_with_no_launcher_there_is_told_first(api, backend):
    backend().submit()
    api.set_condition("Failed", "it was active longer than specified deadline")
    again = backend()
    again.submit()
    with pytest.raises(JobFailedError, match="failed: it was active longer than specified dead"):
        again.follow()
    backend().submit()
    (job,) = api.jobs.values()
    assert "status" not in job


def test_failure_that_could_not_be_noted_is_told_again(api, backend):
    backend().submit()
    fail(api, 2, "pretrain: no images there")
    api.refuse = lambda method, _: (503, "not now") if method == "PATCH" else None
    for _ in range(2):
        again = backend()
        again.submit()
        with pytest.raises(UserError, match="no images there"):
            again.follow()


def test_failed_job_of_another_task_is_replaced_and_told_so(api, backend, capfd):
    backend(epochs=1).submit()
    api.set_condition("Failed")
    ours = backend(epochs=2)
    ours.submit()
    told = f"job {ours.name} has failed before, with another task (epochs 1 there, 2 here); start"
    assert told in capfd.readouterr().out
    (job,) = api.jobs.values()
    assert "status" not in job
    assert ours._has_our_spec(job)


def test_succeeded_job_whose_result_was_removed_is_replaced(api, backend, capfd):
    first = backend()
    first.submit()
    publish(first)
    api.set_condition("Succeeded")
    backend().submit()
    assert "found job" in capfd.readouterr().out
    open_storage(first._task.out_uri).clear()
    backend().submit()
    assert "its result is no longer in s3://" in capfd.readouterr().out
    (job,) = api.jobs.values()
    assert "status" not in job


def test_job_that_somebody_deletes_is_told(api, backend):
    ours = backend()
    ours.submit()
    soon(api.jobs.clear)
    with pytest.raises(JobFailedError, match="somebody deleted it; the same command starts it"):
        ours.follow()


def test_api_that_is_away_for_a_while_is_waited_for(api, backend, capfd):
    ours = backend()
    ours.submit()
    publish(ours)
    api.refuse = lambda *_: (503, "apiserver is shutting down")

    def comes_back():
        time.sleep(3)
        api.refuse = None
        api.set_condition("Succeeded")

    soon(comes_back)
    assert ours.follow()["final_loss_nats"] == 1.5
    told = capfd.readouterr().out
    assert told.count("answers 503: apiserver is shutting down; the job goes on") == 1
    assert "answers again" in told


# What an ingress or a login page answers while what is behind it is away.
IN_THE_APIS_PLACE = [
    (404, b"404 page not found\n"),
    (404, b'{"message": "no Route matched with those values"}'),
    (400, b"[]"),
    (200, b'{"status": "ok"}'),
    (200, b"<html>"),
    (403, 'pytorchjobs is forbidden: User "system:anonymous" cannot get resource'),
]


def test_answers_in_the_apis_place_are_waited_out(api, backend, capfd):
    ours = backend()
    ours.submit()
    publish(ours)
    api.set_pod("one", {"running": {}})
    answers = iter(IN_THE_APIS_PLACE)

    def answer_otherwise():
        answer = next(answers)
        api.refuse = lambda *_: answer
        sent = len(api.requests)
        _until(lambda: sum(p.startswith(f"{JOBS}/") for _, p in api.requests[sent:]) > 1)

    def come_back():
        api.refuse = None
        api.logs["job-worker-0"] = ["epoch 2"]
        api.set_pod("two", {"running": {}})
        _until(lambda: ("GET", f"{PODS}/job-worker-0/log") in api.requests)
        api.set_condition("Succeeded")

    soon(*[answer_otherwise] * len(IN_THE_APIS_PLACE), come_back)
    assert ours.follow()["final_loss_nats"] == 1.5
    told = capfd.readouterr().out
    assert told.count("; the job goes on, and we try again for 15 minutes") == 1
    assert "answers again" in told
    assert "job-worker-0 | epoch 2" in told


@pytest.mark.parametrize("answer", IN_THE_APIS_PLACE[:2])
def test_answer_in_the_apis_place_that_stays_ends_the_launcher_and_not_the_job(
    api, backend, answer
):
    ours = backend(api_minutes=0.02)
    ours.submit()
    api.refuse = lambda *_: answer
    with pytest.raises(JobLostError, match=r"for 0\.02 minutes; the job may go on"):
        ours.follow()
    assert len(api.jobs) == 1


def test_api_that_stays_away_ends_the_launcher_and_not_the_job(api, backend):
    ours = backend(api_minutes=0.02)
    ours.submit()
    api.refuse = lambda *_: (500, "etcd is gone")
    with pytest.raises(JobFailedError, match="the same command follows it again"):
        ours.follow()
    assert len(api.jobs) == 1


@pytest.mark.parametrize(
    ("status", "message", "told"),
    [
        (404, "the server could not find the requested resource", "install Kubeflow's Training"),
        (404, 'namespaces "team" not found', "there is no namespace team: kubectl apply"),
        (403, 'User "eve" cannot get resource "pytorchjobs"', "bind the role sightline-launcher"),
        (401, "Unauthorized", "does not accept who we are"),
        (403, 'User "system:anonymous" cannot get resource "pytorchjobs"', "renew the login"),
        (400, "admission webhook denied the request", "refuses the job"),
    ],
)
def test_cluster_that_will_not_take_the_job_is_told_before_anything_is_made(
    api, backend, status, message, told
):
    api.refuse = lambda *_: (status, message)
    with pytest.raises(UserError, match=told):
        backend().submit()
    assert "POST" not in {method for method, _ in api.requests}


def test_results_that_the_launcher_cannot_read_are_told_before_anything_is_made(api):
    uris = {"dataset_uri": FLAGS[1], "out_uri": "s3://sightline-none-such/runs/r/pretrain"}
    ours = PyTorchJobBackend(make_task("pretrain", uris, {}, {}), ClusterConfig())
    for ask in (ours.check, ours.submit):
        with pytest.raises(UserError, match=r"could not read the job's result, .* no bucket"):
            ask()
    assert {method for method, _ in api.requests} == {"GET"}


def quota(**hard):
    return {"metadata": {"name": "small"}, "status": {"hard": hard}}


def test_quota_that_could_never_hold_the_job_is_told_before_anything_is_made(api, backend):
    api.quotas = [quota(**{"limits.cpu": "1500m", "pods": "10"})]
    with pytest.raises(UserError, match=r"quota small .* allows limits.cpu 1500m, .* pod needs 2:"):
        backend(cpu="2").submit()
    assert api.jobs == {}


def test_quota_that_never_holds_the_job_beside_its_launcher_is_told(api, backend):
    container = {"resources": {"limits": {"cpu": "500m"}}}
    api.own_pod = {"metadata": {"name": "launcher"}, "spec": {"containers": [container]}}
    api.quotas = [quota(**{"limits.cpu": "2"})]
    outside = backend(cpu="2")
    reached = connect()
    inside = Api(reached.configuration, reached.namespace, own_pod="launcher")
    with pytest.raises(UserError, match=r"pod needs 2, and the launcher's own pod 0.5: ask for"):
        PyTorchJobBackend(outside._task, outside._config, inside).submit()
    assert api.jobs == {}
    outside.submit()


@pytest.mark.parametrize("hard", ["2", "1"])
def test_quota_is_waited_for_while_it_is_full_and_given_up_when_it_is_too_small(
    api, backend, capfd, hard
):
    ours = backend(cpu="2", startup_seconds=0)
    ours.submit()
    publish(ours)
    full = "exceeded quota: small, requested: limits.cpu=2, used: limits.cpu=1, limited: limits.cpu"
    api.events = [{"reason": "FailedCreatePod", "message": f"Error creating: {full}={hard}"}]
    api.quotas = [quota(**{"limits.cpu": hard})]
    soon(
        lambda: None,
        lambda: None,
        lambda: None,
        lambda: None,
        lambda: None,
        lambda: api.jobs and api.set_condition("Succeeded"),
    )
    if hard == "2":
        soon(lambda: api.wait_for("GET", QUOTAS, times=2), lambda: api.set_condition("Succeeded"))
        assert ours.follow()["final_loss_nats"] == 1.5
        told = "one more needs limits.cpu 2 (1 of 2 are used)"
        assert capfd.readouterr().out.count(told) == 1
    else:
        with pytest.raises(
            UserError, match=r"was given up and deleted: quota small .* pod needs 2"
        ):
            ours.follow()
        assert api.jobs == {}


def test_what_befell_an_earlier_job_of_the_name_is_not_held_against_this_one(api, backend, capfd):
    ours = backend(startup_seconds=0, restarts=0)
    ours.submit()
    publish(ours)
    refused = "Error creating: violates PodSecurity"
    earlier = {"kind": "PyTorchJob", "name": ours.name, "uid": "earlier"}
    event = {"reason": "FailedCreatePod", "message": refused, "involvedObject": earlier}
    api.events = [event]
    api.set_pod("old", {"terminated": {"exitCode": 143}}, owner="earlier")
    soon(
        lambda: api.wait_for("GET", f"{PODS[: -len('/pods')]}/events"),
        lambda: api.set_pod("new", {"running": {}}),
        lambda: api.set_condition("Succeeded"),
    )
    assert ours.follow()["final_loss_nats"] == 1.5
    assert "was replaced" not in capfd.readouterr().out


def test_job_that_somebody_deletes_and_another_makes_anew_is_gone(api, backend):
    ours = backend()
    ours.submit()

    def anew():
        api.jobs.clear()
        backend().submit()

    soon(anew)
    with pytest.raises(JobFailedError, match="somebody deleted it"):
        ours.follow()


def test_what_lasts_ends_the_job_after_the_time_that_was_set(api, backend, capfd):
    ours = backend(startup_seconds=0)
    ours.submit()
    api.set_pod("one", {"waiting": {"reason": "ErrImagePull", "message": "no such tag"}})
    with pytest.raises(
        UserError, match=r"image sightline/train:1 cannot be pulled \(no such tag\)"
    ):
        ours.follow()
    assert api.jobs == {}


def test_first_request_after_sigterm_deletes_the_job(api, tmp_path):
    with subprocess.Popen(
        [*RUN, "pretrain", *FLAGS], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as launcher:
        api.wait_for("POST", JOBS)
        api.wait_for("GET", PODS)
        time.sleep(3)
        sent = len(api.requests)
        launcher.send_signal(signal.SIGTERM)
        told, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == 143, told
    # A poll may have been on its way when the signal came; nothing else comes before the deletion,
    # which is sent on a connection that was open already.
    after = [method for method, _ in api.requests[sent:]]
    place = after.index("DELETE")
    assert after[:place] in ([], ["GET"])
    assert api.ports[sent + place] in api.ports[:sent]
    assert api.jobs == {}
    assert re.search(r"asked to end; job sl-pretrain-r-[0-9a-f]{8} is deleted", told)


def test_sigterm_before_the_first_answer_leaves_another_tasks_job_alone(api):
    uris = dict(zip(("dataset_uri", "out_uri"), FLAGS[1::2], strict=True))
    other = make_task("pretrain", uris, {"epochs": 7}, {})
    PyTorchJobBackend(other, ClusterConfig()).submit()
    seen = len(api.requests)
    api.refuse = lambda *_: time.sleep(1)
    with subprocess.Popen([*RUN, "pretrain", *FLAGS], stderr=subprocess.PIPE, text=True) as run:
        _until(lambda: len(api.requests) > seen)
        run.send_signal(signal.SIGTERM)
        _, told = run.communicate(timeout=30)
    assert run.returncode == 143
    assert len(api.jobs) == 1
    assert "DELETE" not in {method for method, _ in api.requests}
    assert re.search(r"asked to end; job sl-pretrain-r-\w+ of ours is not there", told)


@pytest.mark.parametrize("is_made_at_once", [True, False])
@pytest.mark.parametrize("epochs", [[], ["--epochs", "7"]])
def test_sigterm_before_the_creation_is_answered_deletes_what_it_made(api, is_made_at_once, epochs):
    uris = dict(zip(("dataset_uri", "out_uri"), FLAGS[1::2], strict=True))
    placed = ClusterConfig(s3_endpoint_url=IN_CLUSTER)
    ours = PyTorchJobBackend(make_task("pretrain", uris, {}, {}), placed)

    def admit(_job):
        if is_made_at_once:
            api.jobs[ours.name] = ours._manifest
        time.sleep(0.7 if not is_made_at_once else 3)
        api.jobs[ours.name] = ours._manifest

    api.admit = admit
    with subprocess.Popen([*RUN, "pretrain", *FLAGS, *epochs]) as run:
        api.wait_for("POST", JOBS)
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=30) == 143
    # With other epochs it is another launcher's, which was faster.
    assert list(api.jobs) == ([ours.name] if epochs else [])


@pytest.mark.parametrize("status", [503, 403])
def test_job_that_cannot_be_deleted_is_not_called_deleted(api, status):
    with subprocess.Popen([*RUN, "pretrain", *FLAGS], stderr=subprocess.PIPE, text=True) as run:
        api.wait_for("POST", JOBS)
        api.wait_for("GET", PODS)
        time.sleep(3)
        api.refuse = lambda method, _path: (status, "not now") if method == "DELETE" else None
        run.send_signal(signal.SIGTERM)
        _, told = run.communicate(timeout=60)
    assert run.returncode == 143
    assert re.search(r"job sl-pretrain-r-[0-9a-f]{8} could not be deleted \(.*reap", told)
    assert [method for method, _ in api.requests].count("DELETE") == 3
    assert len(api.jobs) == 1


def test_command_that_the_api_kept_waiting_asks_to_be_started_again_later(api):
    command = [*RUN, "--set", "api_minutes=0.02", "pretrain", *FLAGS]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        _follows(api)
        api.refuse = lambda *_: (500, "etcd is gone")
        _, told = run.communicate(timeout=60)
    assert run.returncode == 75  # EX_TEMPFAIL of sysexits.h
    assert "the same command follows it again" in told
    assert len(api.jobs) == 1


def test_launcher_that_was_told_so_leaves_its_job_when_it_ends(api):
    detached = ["--set", "cancel_on_sigterm=false"]
    with subprocess.Popen([*RUN, *detached, "pretrain", *FLAGS]) as launcher:
        api.wait_for("POST", JOBS)
        api.wait_for("GET", PODS)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=30) == 143
    assert len(api.jobs) == 1


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_signal_that_comes_while_python_ends_an_object_is_followed(
    api, backend, is_cancelled, capfd
):
    class Connection(io.RawIOBase):
        def close(self):
            # What a handler raises in here is dropped by Python, for no one could catch it.
            if not self.closed:
                super().close()
                signal.raise_signal(signal.SIGTERM)

    ours = backend(cancel_on_sigterm=is_cancelled)

    def follow():
        with cancelled_with_us(ours, ours._config):
            ours.submit()
            connection = Connection()
            del connection
            time.sleep(20)

    with pytest.raises(SystemExit) as ended:
        follow()
    assert ended.value.code == 143
    assert len(api.jobs) == (0 if is_cancelled else 1)
    assert ("is deleted" if is_cancelled else "goes on") in capfd.readouterr().err
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_closed_terminal_and_its_keyboard_delete_the_job(api, number):
    with subprocess.Popen([*RUN, "pretrain", *FLAGS], stderr=subprocess.PIPE) as launcher:
        _follows(api)
        launcher.stderr.close()  # nobody is there to be told
        launcher.send_signal(number)
        assert launcher.wait(timeout=30) == 128 + number
    assert api.jobs == {}


@pytest.mark.parametrize("output", ["pipe", "pipe of both", "full disk"])
def test_launcher_whose_output_nobody_gets_follows_its_job_to_its_end(api, output):
    stderr = subprocess.STDOUT if output == "pipe of both" else subprocess.PIPE
    with Path("/dev/full").open("w") as full:
        stdout = full if output == "full disk" else subprocess.PIPE
        run = subprocess.Popen([*RUN, "pretrain", *FLAGS], stdout=stdout, stderr=stderr, text=True)
    with run:
        if run.stdout:
            assert "submitted job" in run.stdout.readline()
            run.stdout.close()  # as head does
        _follows(api)
        api.logs["job-worker-0"] = ["epoch 1", "epoch 2"]
        api.set_pod("one", {"running": {}})
        api.wait_for("GET", f"{PODS}/job-worker-0/log")
        fail(api, 2, "pretrain: no images there")
        told = run.stderr.read() if run.stderr else ""
        assert run.wait(timeout=30) == 2
    assert "DELETE" not in {method for method, _ in api.requests}
    if run.stderr:
        assert told.count("nobody gets this output any more") == 1
        assert told.endswith("ended with exit code 2: no images there\n")
        assert told.count("\n") == 2


def test_launcher_under_nohup_goes_on_when_its_terminal_is_closed(api):
    with subprocess.Popen(["nohup", *RUN, "pretrain", *FLAGS]) as launcher:
        _follows(api)
        launcher.send_signal(signal.SIGHUP)
        _follows(api)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=30) == 143


PIPELINE = """
import subprocess, sys, tempfile
from pathlib import Path
from pipelines.local_run import _stopped_with_us, steps_environment

with tempfile.TemporaryDirectory() as scratch, _stopped_with_us(Path(scratch)):
    with steps_environment(Path(scratch)):
        # As KFP's runner does it: a shell with the step below, whose output is read.
        command = ["sh", "-c", '"$@"; :', "sh", "python3", *sys.argv[1:]]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as step:
            for line in step.stdout:
                print(line, end="")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_end_of_a_pipeline_on_this_machine_deletes_its_steps_job(api, name, tmp_path):
    command = [sys.executable, "-c", PIPELINE, *RUN[1:], "pretrain", *FLAGS]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    # A signal for that process alone, as of kill.
    with subprocess.Popen(command, env=environment, start_new_session=True) as pipeline:
        _follows(api)
        pipeline.send_signal(signal.Signals[name])
        _until(lambda: api.jobs == {})
        assert pipeline.wait(timeout=30) != 0


@pytest.fixture
def step(api):
    """Return a process like KFP's launcher, which dies of SIGTERM; a step with a job is below."""
    program = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    shell = ["sh", "-c", '"$@"\n:\n', "sh"]
    launcher = subprocess.Popen(
        [sys.executable, "-c", program, *shell, *RUN, "pretrain", *FLAGS],
        env={**os.environ, "KFP_POD_NAME": "run-1-system-container-impl"},
        start_new_session=True,
    )
    try:
        api.wait_for("POST", JOBS)
        # Once it follows: asked to end before the answer, it rightly deletes twice.
        sent = len(api.requests)
        _until(lambda: len(api.requests) > sent)
        yield launcher
    finally:
        launcher.terminate()
        assert launcher.wait(timeout=30) == -signal.SIGTERM


def test_step_whose_launcher_dies_deletes_its_job_under_kubeflow_pipelines(api, step):
    step.terminate()  # it hands that on neither to its shell nor to the step behind that
    _until(lambda: api.jobs == {})
    assert [method for method, _ in api.requests if method != "GET"] == ["POST", "DELETE"]


def test_step_that_is_asked_twice_to_end_goes_on_with_the_first_deletion(api, step):
    # Argo signals the launcher's whole group; then the launcher dies, which counts as well.
    api.refuse = lambda method, _: time.sleep(1) if method == "DELETE" else None
    os.killpg(step.pid, signal.SIGTERM)
    _until(lambda: api.jobs == {})
    time.sleep(1)
    assert [method for method, _ in api.requests if method != "GET"] == ["POST", "DELETE"]


def test_job_belongs_to_what_the_launchers_pod_belongs_to(api, backend):
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "1"}
    other = {"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "2"}
    owners = [other, {**workflow, "controller": True, "blockOwnerDeletion": True}]
    metadata = {"name": "launcher", "ownerReferences": owners}
    api.own_pod = {"metadata": metadata, "spec": {"containers": [{"name": "launcher"}]}}
    outside = backend()
    outside.submit()
    assert "ownerReferences" not in api.jobs[outside.name]["metadata"]
    api.jobs.clear()
    reached = connect()
    inside = Api(reached.configuration, reached.namespace, own_pod="launcher")
    PyTorchJobBackend(outside._task, outside._config, inside).submit()
    assert api.jobs[outside.name]["metadata"]["ownerReferences"] == [workflow]


def test_reaper_deletes_what_has_lost_its_annotations(api, backend):
    ours = backend()
    ours.submit()
    api.jobs[ours.name]["metadata"]["annotations"] = None
    del api.jobs[ours.name]["metadata"]["labels"][STEP_LABEL]
    assert main(["reap", "--run-id", "r"]) == 0
    assert api.jobs == {}


def test_reaper_deletes_what_is_there_and_is_content_with_nothing(api, backend):
    ours = backend()
    ours.submit()
    assert reap(connect(), "sightline.dev/run-id=r") == [ours.name]
    assert reap(connect(), "sightline.dev/run-id=r") == []


def test_end_of_a_pipelines_run_reaps_what_runs_of_it_and_nothing_else(api, backend, capfd):
    ours = backend()
    ours.submit()
    out = ours._task.out_uri.removesuffix("/runs/r/pretrain")
    cluster = {"backend": "pytorchjob"}
    for other_out, other in (
        (f"{out}-of-others", cluster),
        (out, {"backend": "local"}),
        (out, {**cluster, "cancel_on_sigterm": False}),
    ):
        reap_run(other_out, "r", "job", other)
        assert list(api.jobs) == [ours.name]
    reap_run(f"{out}//", "r", "job", cluster)
    assert api.jobs == {}
    reap_run(out, "", "r", cluster)
    told = capfd.readouterr().out
    assert f"reap: deleted {ours.name}\nreap: nothing was left running\n" in told


@pytest.mark.parametrize("end", ["Succeeded", "Failed"])
def test_end_of_a_pipelines_run_leaves_finished_jobs_for_inspection(api, backend, end):
    ours = backend()
    ours.submit()
    api.set_condition(end)
    reap_run(
        ours._task.out_uri.removesuffix("/runs/r/pretrain"), "r", "", {"backend": "pytorchjob"}
    )
    assert list(api.jobs) == [ours.name]


@pytest.mark.parametrize(("answer", "code"), [((403, "no"), 2), ((503, "away"), 1)])
def test_end_of_a_pipelines_run_says_what_hinders_the_reaper(api, capfd, answer, code):
    api.refuse = lambda *_: answer
    with pytest.raises(SystemExit) as ended:
        reap_run("s3://b", "r", "", {"backend": "pytorchjob"})
    assert ended.value.code == code
    assert capfd.readouterr().err.startswith("sightline reap: ")


def test_end_of_a_run_on_one_machine_asks_no_cluster(monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    reap_run("/home/me/out", "", "1234", {})


def test_no_cluster_at_all_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UserError, match="set KUBECONFIG to a readable file"):
        connect()


def test_wrong_settings_are_refused_in_one_line_without_a_cluster(capfd):
    environment = {**os.environ, "KUBECONFIG": "/nowhere"}
    done = subprocess.run(
        [*RUN, "--set", "cpus=2", "pretrain", *FLAGS],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cpus is unknown, did you mean cpu?" in done.stderr


def _follows(api):
    """Wait until a launcher asks for its job, which it has submitted or found."""
    api.wait_for("POST", JOBS)
    sent = len(api.requests)
    _until(lambda: len(api.requests) > sent + 1)


def _until(found):
    deadline = time.monotonic() + 20
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)

"""Two-worker pretraining on a cluster, from a bucket to a bucket, and what may come between."""

import base64
import os
import subprocess
import sys

import pytest
from canary import places_with
from conftest import local_losses, require_equal, wait_for_pods

from sightline.storage import fetch_artifacts, open_storage


@pytest.fixture(scope="module")
def finished(launch):
    """Return a launcher whose job nothing disturbed."""
    return launch().wait()


def test_two_pods_learn_what_two_processes_here_learn(finished, dataset, tmp_path):
    require_equal(finished.losses(), local_losses(dataset, tmp_path / "local"))


def test_finished_job_says_who_it_was_and_shows_each_pods_log(finished, namespace):
    (job,) = namespace.get("pytorchjobs", f"sightline.dev/run-id={finished.run}")
    name = job["metadata"]["name"]
    described = namespace.kubectl("describe", "pytorchjob", name).stdout
    for word in ("sightline.dev/step=pretrain", finished.out_uri, "Succeeded"):
        assert word in described
    ours = ["-l", f"sightline.dev/run-id={finished.run}"]
    for line in namespace.kubectl("logs", *ours, "--tail=-1", "--prefix").stdout.splitlines():
        head, _, said = line.partition(" ")
        assert f"{head.split('/')[1]} | {said}".rstrip() in finished.told
    assert f"{name}-worker-0 | " in finished.told or f"{name}-worker-1 | " in finished.told


def seen_of(launcher, namespace):
    """Return what anybody sees of a run, by where: objects, events, logs, what it published."""
    kinds = ("pytorchjobs", "pods", "events", "configmaps", "services")
    seen = {kind: namespace.kubectl("get", kind, "-o", "yaml").stdout for kind in kinds}
    seen["launcher"] = launcher.told
    ours = ["-l", f"sightline.dev/run-id={launcher.run}"]
    seen["logs"] = namespace.kubectl("logs", *ours, "--tail=-1").stdout
    return seen


def test_no_secret_is_anywhere_but_in_its_secret(finished, namespace):
    canary = os.environ["TESTBED_S3_SECRET_KEY"]
    seen = seen_of(finished, namespace)
    files = [path for path in fetch_artifacts(finished.out_uri).rglob("*") if path.is_file()]
    assert files
    seen |= {path.name: path.read_bytes() for path in files}
    assert places_with(canary, seen) == []
    planted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "planted"}}
    hidden = base64.b64encode(f"key={canary}".encode()).decode()
    namespace.apply({**planted, "binaryData": {"file": hidden}})
    try:
        assert "configmaps" in places_with(canary, seen_of(finished, namespace))
    finally:
        namespace.kubectl("delete", "configmap", "planted")


def test_no_secret_is_told_where_a_run_fails_for_it(launch, namespace):
    canary = "canary/0123456789+abcdefghijklmnopqrstuvw"
    address = f"http://me:{canary}@s3.example:9000"
    refused = launch(cluster={"s3_endpoint_url": address}).wait(2)
    assert "an address holds no credentials" in refused.told
    assert places_with(canary, {"launcher": refused.told}) == []
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong-keys"}}
    keys = {"AWS_ACCESS_KEY_ID": os.environ["TESTBED_S3_ACCESS_KEY"]}
    namespace.apply({**secret, "stringData": {**keys, "AWS_SECRET_ACCESS_KEY": canary}})
    try:
        failed = launch(cluster={"s3_secret": "wrong-keys"}).wait(2)
        assert "ended with exit code 2" in failed.told
        assert places_with(canary, seen_of(failed, namespace)) == []
    finally:
        namespace.kubectl("delete", "secret", "wrong-keys")


def test_same_command_after_the_end_finds_the_result(finished, launch):
    again = launch(run=finished.run).wait()
    assert "found job" in again.told


def test_same_command_starts_anew_where_its_result_was_removed(finished, launch, namespace):
    open_storage(finished.out_uri).clear()  # the last test that looks at it
    anew = launch(run=finished.run)
    anew.wait_for("its result is no longer in")
    anew.wait_for("submitted job")
    anew.process.terminate()
    anew.wait(143)
    namespace.wait_until_nothing_is_left(anew.run)


def test_launcher_that_was_killed_finds_its_job_again_and_others_are_refused(launch, namespace):
    first = launch(epochs=40)
    first.wait_for("submitted job")
    first.process.kill()
    other = launch(run=first.run, epochs=41).wait(2)
    assert "with another task (epochs 40 there, 41 here)" in other.told
    second, third = launch(run=first.run, epochs=40), launch(run=first.run, epochs=40)
    second.wait_for("found job")
    third.wait_for("found job")
    assert len(namespace.get("pytorchjobs", f"sightline.dev/run-id={first.run}")) == 1
    second.process.terminate()
    second.wait(143)
    third.wait(1)
    assert "somebody deleted it" in third.told
    namespace.wait_until_nothing_is_left(first.run)


def test_stopped_run_leaves_nothing(launch, namespace):
    launcher = launch(epochs=40)
    wait_for_pods(namespace, launcher, 2)
    launcher.process.terminate()
    launcher.wait(143)
    assert "is deleted" in launcher.told
    namespace.wait_until_nothing_is_left(launcher.run)


def test_job_deleted_by_hand_is_told(launch, namespace):
    launcher = launch(epochs=40)
    wait_for_pods(namespace, launcher, 2)
    namespace.kubectl("delete", "pytorchjobs", "-l", f"sightline.dev/run-id={launcher.run}")
    launcher.wait(1)
    assert "somebody deleted it; the same command starts it again" in launcher.told
    namespace.wait_until_nothing_is_left(launcher.run)


def test_reaper_deletes_what_a_launcher_left_behind(launch, namespace):
    launcher = launch(epochs=40)
    launcher.wait_for("submitted job")
    launcher.process.kill()
    command = [sys.executable, "-m", "sightline_cluster", "reap", "--run-id", launcher.run]
    environment = {**os.environ, "KUBECONFIG": str(namespace.kubeconfig("sightline-launcher"))}
    for told in ("deleted: sl-pretrain-", "nothing was left"):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr
        assert told in done.stdout
    namespace.wait_until_nothing_is_left(launcher.run, seconds=10)


def test_full_quota_is_waited_for_and_told(launch, namespace):
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"}}
    namespace.apply({**quota, "spec": {"hard": {"limits.cpu": "3"}}})
    try:
        one = launch(epochs=40)
        wait_for_pods(namespace, one, 2)
        two = launch(epochs=40)
        two.wait_for("waiting for room in quota full, until other pods end")
        assert "one more needs limits.cpu 1 (3 of 3 are used)" in two.told
        one.process.terminate()
        one.wait(143)
        wait_for_pods(namespace, two, 2)
        two.process.terminate()
        two.wait(143)
    finally:
        namespace.kubectl("delete", "resourcequota", "full")

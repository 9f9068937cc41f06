"""Pods as Kubernetes counts them against a ResourceQuota (its docs, "Resource Quotas")."""

import pytest

from sightline_cluster.config import ClusterConfig
from sightline_cluster.quota import what_never_fits
from sightline_cluster.render import render_pytorchjob


@pytest.fixture
def job(task):
    manifest = render_pytorchjob(task(workers=2), ClusterConfig(cpu="1500m", memory="1Gi"))
    manifest["metadata"]["namespace"] = "team"
    return manifest


def quota(name, hard, **spec):
    return {"metadata": {"name": "q"}, "spec": spec, "status": {"hard": {name: hard}}}


def pod(*cpus, before=()):
    def of(cpu):
        return {"resources": {"requests": {"cpu": cpu}}}

    return {"spec": {"containers": [*map(of, cpus)], "initContainers": [*map(of, before)]}}


@pytest.mark.parametrize(
    ("name", "enough", "short"),
    [
        ("limits.cpu", "3", "2999m"),
        ("requests.cpu", "3", "2.9"),
        ("cpu", "3", "2"),
        ("requests.memory", "2Gi", "2G"),
        ("pods", "2", "1"),
        ("count/pods", "2", "1"),
        ("services", "2", "1"),
    ],
)
def test_job_fits_where_all_its_pods_together_do(job, name, enough, short):
    assert what_never_fits([quota(name, enough)], job, None) == ""
    told = what_never_fits([quota(name, short)], job, None)
    assert told.startswith(f"quota q of namespace team allows {name} {short}, the job's 2 pods")


def test_quota_of_something_that_a_job_does_not_ask_for_holds_it(job):
    assert what_never_fits([quota("requests.nvidia.com/gpu", "0")], job, pod("1")) == ""


def test_quota_of_some_pods_alone_is_not_ours_to_judge(job):
    assert what_never_fits([quota("pods", "1", scopes=["BestEffort"])], job, None) == ""


@pytest.mark.parametrize(
    ("launcher", "enough", "short"),
    [
        # Containers of a pod count together; those that run before them count by the largest.
        (pod("500m"), "3.5", "3.4"),
        (pod("500m", "500m"), "4", "3.9"),
        (pod("500m", before=["1", "2"]), "5", "4.9"),
    ],
)
def test_launchers_pod_stays_as_long_as_its_job(job, launcher, enough, short):
    assert what_never_fits([quota("requests.cpu", enough)], job, launcher) == ""
    told = what_never_fits([quota("requests.cpu", short)], job, launcher)
    assert "pods need 3, and the launcher's own pod" in told


def test_launchers_pod_takes_a_place_among_pods(job):
    assert what_never_fits([quota("pods", "3")], job, pod("1")) == ""
    assert "and the launcher's own pod 1" in what_never_fits([quota("pods", "2")], job, pod("1"))


@pytest.mark.parametrize(("memory", "told"), [("1Gi", "2Gi"), ("100Mi", "200Mi"), ("1G", "2e+09")])
def test_memory_is_told_in_the_units_of_a_quota(task, memory, told):
    config = ClusterConfig(memory=memory, shared_memory="10Mi")
    job = render_pytorchjob(task(workers=2), config)
    job["metadata"]["namespace"] = "team"
    assert f"pods need {told}:" in what_never_fits([quota("limits.memory", "1k")], job, None)

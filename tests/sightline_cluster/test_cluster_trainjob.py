import kubernetes_validate
import pytest
from sightline_cluster_crd import problems

from sightline_cluster.config import ClusterConfig
from sightline_cluster.render import render_pytorchjob
from sightline_cluster.trainjob import render_trainjob


@pytest.fixture(params=[1, 4])
def rendered(request, task):
    return render_trainjob(task(workers=request.param), ClusterConfig(queue="vision", gpus=1))


def job_of(runtime):
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def test_trainers_schemas_know_every_field(rendered):
    assert [problems(manifest) for manifest in rendered] == [[], []]


def test_schemas_with_unknown_fields_refused_find_a_misplaced_one(rendered):
    runtime, trainjob = rendered
    runtime["spec"]["numNodes"] = trainjob["spec"]["numNodes"] = 1
    assert all(problems(manifest) for manifest in rendered)


def test_jobs_inside_are_what_kubernetes_knows(rendered):
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "node"}}
    kubernetes_validate.validate({**job, "spec": job_of(rendered[0])}, "1.34", strict=True)


def test_pod_is_that_of_a_pytorchjob_but_for_what_trainer_names(task):
    runtime, _ = render_trainjob(task(workers=2), ClusterConfig())
    old = render_pytorchjob(task(workers=2), ClusterConfig())
    expected = old["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    expected["restartPolicy"] = "Never"
    (container,) = expected["containers"]
    container["name"] = "node"
    container["ports"] = container["ports"][:1]
    assert job_of(runtime)["template"]["spec"] == expected


def test_codes_that_no_restart_mends_end_the_job_at_once(rendered):
    (rule,) = job_of(rendered[0])["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [1, 2]


def test_job_names_its_own_runtime_and_as_many_pods(task):
    config = ClusterConfig(processes_per_pod=2)
    runtime, trainjob = render_trainjob(task(workers=4), config)
    assert trainjob["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert trainjob["spec"]["trainer"] == {"numNodes": 2, "numProcPerNode": 2}
    assert runtime["spec"]["mlPolicy"] == {"numNodes": 2, "torch": {}}

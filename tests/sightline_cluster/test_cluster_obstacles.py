"""Words of a real cluster (Kubernetes 1.34, Training Operator 1.9.4), and what is made of them."""

import re

import pytest

from sightline_cluster.config import ClusterConfig
from sightline_cluster.obstacles import Prospect, condition, find_obstacles

SELECTOR = (
    "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. preemption: "
    "0/3 nodes are available: 3 Preemption is not helpful for scheduling."
)
FULL = "0/3 nodes are available: 1 node(s) had untolerated taint {gpu: }, 2 Insufficient cpu."
QUOTA = (
    'Error creating: pods "job-worker-0" is forbidden: exceeded quota: sightline, requested: '
    "limits.cpu=2,pods=1, used: limits.cpu=4,pods=2, limited: limits.cpu=4,pods=2"
)
SECURITY = (
    'Error creating: pods "job-worker-0" is forbidden: violates PodSecurity "restricted:latest": '
    "allowPrivilegeEscalation != false"
)
ACCOUNT = (
    'Error creating: pods "job-worker-0" is forbidden: error looking up service account team/none: '
    'serviceaccount "none" not found'
)


def job(pods=1, **run_policy):
    return {
        "spec": {"runPolicy": run_policy, "pytorchReplicaSpecs": {"Worker": {"replicas": pods}}}
    }


def pod(reason="", message="", unschedulable=""):
    state = {"waiting": {"reason": reason, "message": message}} if reason else {}
    conditions = [
        {"type": "PodScheduled", "reason": "Unschedulable", "message": unschedulable},
    ]
    return {
        "metadata": {"name": "job-worker-0", "namespace": "team"},
        "spec": {"containers": [{"name": "pytorch", "image": "registry/train:1"}]},
        "status": {
            "containerStatuses": [{"name": "pytorch", "state": state}],
            "conditions": conditions if unschedulable else [],
        },
    }


def obstacle_of(pods=(), events=(), job_=None, **settings):
    (found,) = find_obstacles(job_ or job(), pods, events, ClusterConfig(**settings))
    return found


def refusal(message):
    return {"reason": "FailedCreatePod", "message": message}


@pytest.mark.parametrize(
    ("reason", "message", "prospect", "told"),
    [
        ("InvalidImageName", "", Prospect.REFUSED, "'registry/train:1' is no name of an image"),
        ("ErrImagePull", "not found", Prospect.LASTS, r"cannot be pulled \(not found\): push it"),
        ("ImagePullBackOff", "Back-off pulling", Prospect.LASTS, "cannot be pulled: push it"),
        (
            "CreateContainerConfigError",
            'secret "keys" not found',
            Prospect.LASTS,
            "there is no secret keys in namespace team",
        ),
        ("CreateContainerError", "no such command", Prospect.LASTS, "cannot be started: no such"),
        ("CreateContainerError", "context deadline exceeded", Prospect.PASSES, "context deadline"),
    ],
)
def test_container_that_cannot_start_is_given_a_while(reason, message, prospect, told):
    found = obstacle_of([pod(reason, message)])
    assert found.prospect is prospect
    assert re.search(told, found.text)


def test_container_that_is_being_created_is_no_obstacle():
    assert find_obstacles(job(), [pod("ContainerCreating")], [], ClusterConfig()) == []


def test_selector_that_no_node_meets_lasts_unless_nodes_may_come():
    chosen = {"node_selector": ("gpu=a100",)}
    found = obstacle_of([pod(unschedulable=SELECTOR)], **chosen)
    assert found.prospect is Prospect.LASTS
    assert found.text.startswith("no node suits the job (cluster.node_selector: gpu=a100")
    waiting = obstacle_of([pod(unschedulable=SELECTOR)], wait_for_nodes=True, **chosen)
    assert waiting.prospect is Prospect.PASSES


PRESSURE = "had untolerated taint {node.kubernetes.io/disk-pressure: }"
OTHERS = "had untolerated taint {team: vision}"
SELECTED = "didn't match Pod's node affinity/selector"
# Since Kubernetes 1.34.2 the scheduler does not name them.
UNNAMED = "had untolerated taint(s)"


@pytest.mark.parametrize(
    ("one", "two", "prospect"),
    [
        (PRESSURE, PRESSURE, Prospect.PASSES),
        (PRESSURE, SELECTED, Prospect.PASSES),
        (PRESSURE.replace("disk-pressure", "not-ready"), OTHERS, Prospect.PASSES),
        (
            "had untolerated taint {node.cloudprovider.kubernetes.io/uninitialized: true}",
            OTHERS,
            Prospect.PASSES,
        ),
        (UNNAMED, SELECTED, Prospect.PASSES),
        (OTHERS, SELECTED, Prospect.LASTS),
        (
            "had untolerated taint {node-role.kubernetes.io/control-plane: }",
            SELECTED,
            Prospect.LASTS,
        ),
    ],
)
def test_taints_that_kubernetes_sets_by_itself_or_does_not_name_are_waited_for(one, two, prospect):
    message = f"0/3 nodes are available: 1 node(s) {one}, 2 node(s) {two}. preemption: 0/3 nodes"
    found = obstacle_of([pod(unschedulable=message)], tolerations=("spot",))
    assert found.prospect is prospect
    waits = " now, and it waits for one" if prospect is Prospect.PASSES else ": mend them"
    told = f"no node suits the job (cluster.node_selector: none; cluster.tolerations: spot){waits}"
    assert found.text.startswith(told)


def test_full_nodes_pass_though_some_would_never_do():
    found = obstacle_of([pod(unschedulable=FULL)], cpu="4")
    assert found.prospect is Prospect.PASSES
    assert "waits for room (cpu 4, memory 8Gi)" in found.text


@pytest.mark.parametrize(
    ("message", "prospect", "told"),
    [
        (
            QUOTA,
            Prospect.PASSES,
            "waiting for room in quota sightline, until other pods end: one more needs "
            "limits.cpu 2 (4 of 4 are used), pods 1 (2 of 2 are used)",
        ),
        ("exceeded quota: in other words", Prospect.PASSES, "quota: exceeded quota: in other"),
        (SECURITY, Prospect.REFUSED, "the namespace's pod security refuses the workers"),
        (ACCOUNT, Prospect.LASTS, "there is no such service account"),
        ("Error creating: pods is forbidden: maximum cpu is 1", Prospect.LASTS, "maximum cpu"),
    ],
)
def test_pods_that_the_operator_cannot_make_are_told_by_its_event(message, prospect, told):
    found = obstacle_of(events=[refusal("Error creating: older"), refusal(message)])
    assert found.prospect is prospect
    assert told in found.text


def test_events_of_pods_that_were_made_after_all_are_old_news():
    assert find_obstacles(job(), [pod()], [refusal(QUOTA)], ClusterConfig()) == []


def test_suspended_job_waits_in_its_queue():
    found = obstacle_of(job_=job(suspend=True), queue="vision")
    assert found.text.startswith("waiting in queue vision until Kueue admits the job; why not yet")
    assert found.prospect is Prospect.PASSES


def test_gravest_comes_first():
    pods = [pod("ErrImagePull", "slow"), pod("InvalidImageName")]
    found = find_obstacles(job(2), pods, [], ClusterConfig())
    assert [entry.prospect for entry in found] == [Prospect.REFUSED, Prospect.LASTS]


def test_condition_counts_only_while_it_holds():
    running = {"type": "Running", "status": "False"}
    failed = {"type": "Failed", "status": "True", "message": "why"}
    seen = {"status": {"conditions": [running, failed]}}
    assert condition(seen, "Running") is None
    assert condition(seen, "Failed") == failed
    assert condition({}, "Failed") is None

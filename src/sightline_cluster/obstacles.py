"""Why a job does not run: what its conditions, pods and events say, in words, as pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from sightline_cluster.config import ClusterConfig
from sightline_cluster.pods import container_state
from sightline_cluster.render import Manifest


class Prospect(Enum):
    """What may still become of an obstacle."""

    PASSES = "it passes by itself, as a queue does: wait for it, however long"
    LASTS = "somebody would have to do something: give it a while"
    REFUSED = "it cannot change for this job: give up at once"


@dataclass(frozen=True)
class Obstacle:
    """One reason why a job does not run, and what to do about it."""

    text: str
    prospect: Prospect
    is_quota: bool = False
    """Whether a quota of the namespace is what is in the way."""


_PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "RegistryUnavailable")
# Kubernetes since 1.34.2 does not name the taints: "had untolerated taint(s)".
_BARRED = re.compile(
    r"(\d+) node\(s\) (?:(didn't match Pod's node affinity/selector)|had untolerated taint"
    r"(?: \{([^:}]*))?)"
)
# Those that Kubernetes puts on a node and takes from it by itself: node.kubernetes.io/not-ready, …
_PASSING_TAINT = re.compile(r"node(\.cloudprovider)?\.kubernetes\.io/")


def find_obstacles(
    job: Manifest, pods: Iterable[Manifest], events: Iterable[Manifest], config: ClusterConfig
) -> list[Obstacle]:
    """Return why a job does not run, the gravest first; none, if nothing is known of any."""
    pods = list(pods)
    found = [*_of_job(job, config), *(o for pod in pods for o in _of_pod(pod, config))]
    if len(pods) < _wanted_pods(job):
        found += _of_missing_pods(list(events))
    order = [Prospect.REFUSED, Prospect.LASTS, Prospect.PASSES]
    return sorted(dict.fromkeys(found), key=lambda obstacle: order.index(obstacle.prospect))


def condition(job: Manifest, kind: str) -> Manifest | None:
    """Return a job's condition of a kind, if it holds."""
    for entry in job.get("status", {}).get("conditions") or []:
        if entry["type"] == kind and entry["status"] == "True":
            return dict(entry)
    return None


def _wanted_pods(job: Manifest) -> int:
    return int(job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"])


def _of_job(job: Manifest, config: ClusterConfig) -> Iterator[Obstacle]:
    suspended = job["spec"].get("runPolicy", {}).get("suspend")
    if not suspended:
        return
    if config.queue:
        yield Obstacle(
            f"waiting in queue {config.queue} until Kueue admits the job; why not yet, say "
            f"kubectl get workloads -o wide and kubectl describe localqueue {config.queue}",
            Prospect.PASSES,
        )
    else:
        yield Obstacle("the job is suspended: somebody has to resume it", Prospect.PASSES)


def _of_pod(pod: Manifest, config: ClusterConfig) -> Iterator[Obstacle]:
    name = pod["metadata"]["name"]
    waiting = container_state(pod).get("waiting", {})
    reason, message = waiting.get("reason", ""), _one_line(waiting.get("message", ""))
    if reason == "InvalidImageName":
        image = pod["spec"]["containers"][0]["image"]
        yield Obstacle(
            f"{image!r} is no name of an image: mend cluster.train_image or cluster.detect_image",
            Prospect.REFUSED,
        )
    elif reason in _PULL_REASONS:
        image = pod["spec"]["containers"][0]["image"]
        told = "" if message.startswith("Back-off") else f" ({message})"
        yield Obstacle(
            f"image {image} cannot be pulled{told}: push it, or mend cluster.train_image, "
            "cluster.detect_image or cluster.image_pull_secret",
            Prospect.LASTS,
        )
    elif reason == "CreateContainerConfigError":
        secret = re.search(r'secret "([^"]+)" not found', message)
        if secret:
            told = (
                f"there is no secret {secret[1]} in namespace {pod['metadata']['namespace']}: make "
                "it (docs/cluster.md), or mend cluster.s3_secret"
            )
        else:
            told = f"{name} cannot be configured: {message}"
        yield Obstacle(told, Prospect.LASTS)
    elif reason in ("CreateContainerError", "RunContainerError"):
        # A node that has just fetched gigabytes may need minutes to unpack them.
        is_slow = "deadline exceeded" in message
        prospect = Prospect.PASSES if is_slow else Prospect.LASTS
        yield Obstacle(f"{name} cannot be started: {message}", prospect)
    for entry in pod.get("status", {}).get("conditions") or []:
        if entry["type"] == "PodScheduled" and entry.get("reason") == "Unschedulable":
            yield _unschedulable(pod, _one_line(entry.get("message", "")), config)


def _unschedulable(pod: Manifest, message: str, config: ClusterConfig) -> Obstacle:
    total = re.match(r"0/(\d+) nodes are available", message)
    nodes = int(total[1]) if total else 0
    barred = lasting = 0
    for count, by_selector, taint in _BARRED.findall(message.partition("preemption:")[0]):
        barred += int(count)
        if by_selector or (taint and not _PASSING_TAINT.match(taint)):
            lasting += int(count)
    if nodes and barred >= nodes:
        suits = (
            f"no node suits the job (cluster.node_selector: {_listed(config.node_selector)}; "
            f"cluster.tolerations: {_listed(config.tolerations)})"
        )
        if lasting >= nodes and not config.wait_for_nodes:
            return Obstacle(
                f"{suits}: mend them, or set cluster.wait_for_nodes where an autoscaler brings "
                f"nodes; the scheduler says: {message}",
                Prospect.LASTS,
            )
        return Obstacle(
            f"{suits} now, and it waits for one; the scheduler says: {message}", Prospect.PASSES
        )
    asked = [*config.node_selector, *config.tolerations]
    needs = f"cpu {config.cpu}, memory {config.memory}" + (
        f", {config.gpus} GPUs" if config.gpus else ""
    )
    where = f" on nodes with {', '.join(asked)}" if asked else ""
    return Obstacle(
        f"{pod['metadata']['name']} waits for room{where} ({needs}): {message}", Prospect.PASSES
    )


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(texts) or "none"


def _of_missing_pods(events: list[Manifest]) -> Iterator[Obstacle]:
    """Read why the operator could make no pod: nothing but an event tells it."""
    refusals = [event for event in events if event.get("reason") == "FailedCreatePod"]
    if not refusals:
        return
    message = _one_line(refusals[-1].get("message", ""))
    message = message.removeprefix("Error creating: ")
    if "exceeded quota" in message:
        yield Obstacle(_full_quota(message), Prospect.PASSES, is_quota=True)
    elif "PodSecurity" in message or "violates" in message:
        yield Obstacle(
            f"the namespace's pod security refuses the workers: {message}", Prospect.REFUSED
        )
    elif "serviceaccount" in message and "not found" in message:
        yield Obstacle(
            f"there is no such service account ({message}): kubectl apply -k k8s/overlays/dev "
            "makes sightline-trainer; or mend cluster.service_account",
            Prospect.LASTS,
        )
    else:
        yield Obstacle(f"the cluster refuses the workers: {message}", Prospect.LASTS)


def _full_quota(message: str) -> str:
    """Say of a full quota what one pod more needs, what is used, and what there is."""
    told = re.search(
        r"exceeded quota: (\S+), requested: (\S+), used: (\S+), limited: (\S+)", message
    )
    if told is None:
        return f"waiting for room in the namespace's quota: {message}"
    needed, used, hard = (
        dict(pair.split("=", 1) for pair in part.split(",")) for part in told.groups()[1:]
    )
    amounts = ", ".join(
        f"{name} {amount} ({used.get(name)} of {hard.get(name)} are used)"
        for name, amount in needed.items()
    )
    return f"waiting for room in quota {told[1]}, until other pods end: one more needs {amounts}"


def _one_line(text: str) -> str:
    return " ".join(text.split())

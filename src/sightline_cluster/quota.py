"""What a job asks of its namespace's quotas, and whether they could ever hold it; no requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

from sightline_cluster.api import amount
from sightline_cluster.render import Manifest

Amounts = dict[str, Fraction]
"""Amounts under the names that a quota's `hard` knows them by."""


def what_never_fits(quotas: Iterable[Manifest], job: Manifest, launcher: Manifest | None) -> str:
    """Return which quota cannot hold a job even when everybody else is gone; "" if each can.

    What others use now does not count: it may end, and the job waits for that.

    Args:
        quotas: The namespace's.
        job: The job's manifest.
        launcher: The pod that waits for the job, and therefore stays as long; None: not there.
    """
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    pods = int(worker["replicas"])
    asked = _of_pod(worker["template"])
    # The operator makes a service for each pod.
    asked |= {name: Fraction(1) for name in ("services", "count/services")}
    beside = _of_pod(launcher) if launcher else {}
    for quota in quotas:
        spec = quota.get("spec", {})
        if spec.get("scopes") or spec.get("scopeSelector"):
            continue  # it is of some pods alone, such as those of a priority
        for name, allowed in quota.get("status", {}).get("hard", {}).items():
            needed, taken = pods * asked.get(name, Fraction(0)), beside.get(name, Fraction(0))
            if needed and needed + taken > amount(allowed):
                who = f"{pods} pods need" if pods > 1 else "pod needs"
                also = f", and the launcher's own pod {_told(taken)}" if taken else ""
                return (
                    f"quota {quota['metadata']['name']} of namespace "
                    f"{job['metadata']['namespace']} allows {name} {allowed}, the job's {who} "
                    f"{_told(needed)}{also}: ask for less by cluster.cpu, cluster.memory, "
                    "cluster.gpus or workers, or raise the quota"
                )
    return ""


def _told(needed: Fraction) -> str:
    """Return an amount as Kubernetes writes it: whole GiB or MiB, or a plain number."""
    for unit, suffix in ((2**30, "Gi"), (2**20, "Mi")):
        if needed >= unit and not needed % unit:
            return f"{needed // unit}{suffix}"
    return f"{float(needed):g}"


def _of_pod(pod: Manifest) -> Amounts:
    """Return what one pod takes: its containers together, or the largest that runs before them."""
    spec = pod["spec"]
    found = {name: Fraction(1) for name in ("pods", "count/pods")}
    for container in spec["containers"]:
        for name, more in _of_container(container):
            found[name] = found.get(name, Fraction(0)) + more
    for container in spec.get("initContainers", []):
        for name, more in _of_container(container):
            found[name] = max(found.get(name, Fraction(0)), more)
    return found


def _of_container(container: Manifest) -> Iterator[tuple[str, Fraction]]:
    for kind, quantities in container.get("resources", {}).items():
        for name, quantity in quantities.items():
            yield f"{kind}.{name}", amount(quantity)
            if kind == "requests":  # which is what a name alone means
                yield name, amount(quantity)

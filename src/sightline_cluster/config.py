"""Settings of a cluster job: where it runs, what it may use, how long it may wait."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from sightline.config import Rule, StepConfig, check_http_address

_UNITS = {
    **{"": Fraction(1), "m": Fraction(1, 1000)},
    **{unit: Fraction(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Fraction(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}
_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DOMAIN = r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?"
_PATH = r"[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*"


def amount_of(quantity: str) -> Fraction:
    """Return how many processors or bytes a setting says; other quantities are not read here."""
    number = quantity.rstrip("mkKMGTPEi")
    return Fraction(number) * _UNITS[quantity.removeprefix(number)]


def _written(pattern: str, needed: str) -> AfterValidator:
    """Return a check that a text is written as Kubernetes reads it, with what it should be."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            # Before an @ stands what somebody logs in with.
            raise ValueError(
                f"needs {needed}, got {repr(text) if '@' not in text else 'one with @'}"
            )
        return text

    return AfterValidator(check)


def _bytes_from(least: str) -> AfterValidator:
    """Return a check that a quantity is of so many bytes, or more."""

    def check(quantity: str) -> str:
        if not amount_of(least) <= amount_of(quantity) <= amount_of("1Ei"):
            raise ValueError(f"needs bytes, such as 8Gi, from {least} to 1Ei, got {quantity!r}")
        return quantity

    return AfterValidator(check)


# Quantities as Kubernetes writes them, of processors and of bytes; none of zero.
Processors = Annotated[
    str,
    _written(
        r"(?=[0-9.]*[1-9])([0-9]{1,9}(\.[0-9]{1,3})?|[0-9]{1,9}m)",
        "processors, such as 2, 0.5 or 500m",
    ),
]
Quantity = Annotated[
    str,
    _written(r"[0-9]{1,18}(\.[0-9]{1,9})?(k|Ki|[MGTPE]i?)?", "bytes, such as 8Gi, 1.5G or 512Mi"),
    _bytes_from("1Ki"),  # of less the unit was forgotten
]
Name = Annotated[
    str,
    _written(
        rf"(?=.{{0,253}}$)({_LABEL}(\.{_LABEL})*)?",
        "a name of lower-case letters, digits and -, or some joined by dots",
    ),
]
Namespace = Annotated[
    str, _written(f"({_LABEL})?", "a name of at most 63 lower-case letters, digits and -")
]
LocalQueue = Annotated[Name, _written(".{0,63}", "a name of at most 63 characters")]
Image = Annotated[
    str,
    _written(
        rf"(({_DOMAIN}/)?{_PATH}(/{_PATH})*(:\w[\w.-]{{0,127}})?(@\w+:[0-9a-f]{{32,128}})?)?",
        "an image, such as registry.example:5000/team/train:2",
    ),
]
Pair = Annotated[str, _written(r"[^=\s]+=[^=\s:]*", "name=value")]
Toleration = Annotated[
    str,
    _written(
        r"[^=:\s]+(=[^=:\s]*)?(:(NoSchedule|PreferNoSchedule|NoExecute))?",
        "key[=value][:effect] with effect NoSchedule, PreferNoSchedule or NoExecute",
    ),
]


class ClusterConfig(StepConfig):
    """How pretrain, finetune and detect run: in the step's own process, or as a PyTorchJob."""

    backend: Literal["local", "pytorchjob"] = "local"
    """Where the step's work is done: local, in the process of the step itself; or pytorchjob, in
    pods of a PyTorchJob that the step submits and follows."""

    namespace: Namespace = ""
    """Namespace of the job; empty: the launcher's own, or the kubeconfig's."""

    train_image: Image = ""
    """Image of the workers; empty: the one that `make images` builds for this version."""

    detect_image: Image = ""
    """Image of the workers of step detect and of YOLO encoders; empty: as for train_image."""

    image_pull_policy: Literal["IfNotPresent", "Always"] = "IfNotPresent"
    """When a node asks the registry for the image."""

    image_pull_secret: Name = ""
    """Name of the secret that the registry wants; empty: none."""

    service_account: Name = "sightline-trainer"
    """Service account of the workers; it needs no rights in the cluster."""

    s3_secret: Name = "sightline-s3"  # noqa: S105 - a name, not a secret
    """Name of the secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; empty: the service
    account's own identity is used."""

    s3_endpoint_url: str = ""
    """Address of the S3 server as pods reach it; empty: the same as here."""

    pushgateway_url: str = ""
    """Pushgateway that receives the outcome of each job; empty: none."""

    processes_per_pod: Annotated[int, Field(ge=1, le=64)] = 1
    """How many of the `workers` run in one pod; with GPUs, one each, so no more than `gpus`."""

    cpu: Processors = "2"
    """Processors of a pod, requested and limited."""

    # Python with torch takes more before it does anything.
    memory: Annotated[Quantity, _bytes_from("64Mi")] = "8Gi"
    """Memory of a pod, requested and limited; shared memory counts."""

    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs (nvidia.com/gpu) of a pod; 0 trains on processors."""

    shared_memory: Quantity = "1Gi"
    """Size limit of /dev/shm, through which loader processes hand on batches."""

    scratch: Quantity = "64Gi"
    """Size limit of /tmp, the only place that a worker may write to; a worker that exceeds it is
    evicted. Step detect copies its images there: less than its `max_local_gib` is refused."""

    node_selector: tuple[Pair, ...] = ()
    """Labels that a node must have, each as name=value."""

    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes to accept, each as key[=value][:effect]."""

    queue: LocalQueue = ""
    """Kueue's LocalQueue that admits the job; empty: none. Refused where no Kueue takes
    PyTorchJobs, since the job would not wait its turn there."""

    restarts: Annotated[int, Field(ge=0, le=1000)] = 10
    """How often workers may be started again from the last checkpoint, after they were preempted,
    killed or lost each other. An error that the user can mend ends the job at once."""

    deadline_hours: Annotated[float, Field(ge=0.01, le=8760)] = 168.0
    """How long the job may take from its start, all in all."""

    keep_hours: Annotated[float, Field(ge=0.1, le=8760)] = 24.0
    """How long a finished job and its logs stay for inspection, and for a launcher that was away to
    learn how it ended."""

    startup_seconds: Annotated[float, Field(ge=0, le=86400)] = 60.0
    """How long an image that cannot be pulled, a missing secret or a node selector that no node
    meets may stay so before the job is given up. Waiting for room has no limit."""

    wait_for_nodes: bool = False
    """Wait for nodes that meet node_selector and tolerations, as an autoscaler may bring them,
    instead of giving up after startup_seconds."""

    api_minutes: Annotated[float, Field(gt=0, le=1440)] = 15.0
    """How long the cluster's API may give no answer before the launcher ends; the job goes on,
    and the same command follows it again."""

    cancel_on_sigterm: bool = True
    """Delete the job when the launcher is asked to end. Off, the job goes on, and the same command
    follows it again."""

    @field_validator("s3_endpoint_url", "pushgateway_url")
    @classmethod
    def _check_address(cls, value: str, info: ValidationInfo) -> str:
        if info.field_name == "s3_endpoint_url":
            return check_http_address(value, "give them by the secret that cluster.s3_secret names")
        return check_http_address(value, "jobs send none")

    @field_validator("node_selector", "tolerations", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [part for part in re.split(r"[,\s]+", value) if part]
        return value

    @field_validator("node_selector")
    @classmethod
    def _name_labels_once(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        names = [pair.partition("=")[0] for pair in pairs]
        if twice := [pair for pair in pairs if names.count(pair.partition("=")[0]) > 1]:
            raise ValueError(f"a node has one value of a label, got {', '.join(twice)}: keep one")
        return pairs

    rules: ClassVar[Sequence[Rule]] = (
        (
            "each process of a pod needs a GPU of its own, got processes_per_pod "
            "{0.processes_per_pod} and gpus {0.gpus}: raise gpus, or lower the processes",
            lambda config: not config.gpus or config.processes_per_pod <= config.gpus,
        ),
        (
            "shared_memory is a part of memory, got shared_memory {0.shared_memory} and memory "
            "{0.memory}: raise memory, or lower shared_memory",
            lambda config: amount_of(config.shared_memory) <= amount_of(config.memory),
        ),
    )

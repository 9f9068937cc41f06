"""A task as a PyTorchJob: a pure function to a dict.

The shape is what Pod Security `restricted` admits and what comes back after a lost pod: workers
only, since the operator gives them an init container without a security context where there is a
master, and an elasticPolicy of fixed size, without which they would have no place to meet.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import math
import re
import socket
import urllib.parse
from typing import Any

from sightline import __version__
from sightline.cli import show_value
from sightline.errors import UserError
from sightline_cluster.config import ClusterConfig, amount_of
from sightline_cluster.images import DETECT, TRAIN, image_of
from sightline_cluster.task import Task, label_value, short_hash

API_VERSION, KIND, PLURAL = "kubeflow.org/v1", "PyTorchJob", "pytorchjobs"
RUN_LABEL = "sightline.dev/run-id"
STEP_LABEL = "sightline.dev/step"
OUT_ANNOTATION = "sightline.dev/out-uri"
SPEC_ANNOTATION = "sightline.dev/spec-sha256"
SETTINGS_ANNOTATION = "sightline.dev/settings"
RESTARTS_ANNOTATION = "sightline.dev/restarts"
FAILURE_ANNOTATION = "sightline.dev/failure"
MESSAGE_PATH = "/dev/termination-log"
METRICS_PORT = 9400
USER_ID = 10001
_LOG_MIB = 1024
# The launcher's own, and those that `_settings` names by what became of them.
_NOT_THE_JOBS = {
    *("backend", "namespace", "restarts", "startup_seconds", "wait_for_nodes", "api_minutes"),
    *("cancel_on_sigterm", "train_image", "detect_image", "s3_endpoint_url"),
}
# RFC 6761, and what /etc/hosts of the usual systems has beside it; a dot at the end says "whole".
_OWN_NAME = re.compile(
    r"(.+\.)?localhost\.?|localhost[46]?(\.localdomain[46]?)?\.?|ip6-(localhost|loopback)\.?"
)
_VARIABLES = "SIGHTLINE_"

Manifest = dict[str, Any]


def render_pytorchjob(task: Task, config: ClusterConfig) -> Manifest:
    """Return the manifest of a task's job; the namespace is left to whoever submits it.

    Raises:
        UserError: If the workers cannot be divided among pods, the step's files do not fit, or a
            server's address is one of this machine alone.
    """
    pods = pod_count(task, config)
    labels = labels_of(task)
    manifest: Manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": job_name(task),
            "labels": labels
            | ({"kueue.x-k8s.io/queue-name": config.queue} if config.queue else {}),
            "annotations": {OUT_ANNOTATION: task.out_uri},
        },
        "spec": {
            "nprocPerNode": str(config.processes_per_pod),
            "runPolicy": {
                # ExitCode below knows no limit of restarts; the launcher keeps the budget.
                "activeDeadlineSeconds": round(3600 * config.deadline_hours),
                "ttlSecondsAfterFinished": round(3600 * config.keep_hours),
                "cleanPodPolicy": "Running",
            },
            "pytorchReplicaSpecs": {
                "Worker": {
                    "replicas": pods,
                    "restartPolicy": "ExitCode",
                    "template": {
                        "metadata": {
                            "labels": labels,
                            "annotations": {OUT_ANNOTATION: task.out_uri},
                        },
                        "spec": render_pod(task, config),
                    },
                }
            },
        },
    }
    if pods > 1:
        manifest["spec"]["elasticPolicy"] = {
            "rdzvBackend": "c10d",
            "rdzvId": job_name(task),
            "minReplicas": pods,
            "maxReplicas": pods,
            "maxRestarts": 0,
        }
    manifest["metadata"]["annotations"] |= {
        SPEC_ANNOTATION: spec_hash(manifest),
        SETTINGS_ANNOTATION: json.dumps(_settings(task, config), sort_keys=True),
    }
    return manifest


def job_name(task: Task) -> str:
    """Return the job's name: the same for the same results, so that a second launcher finds it.

    At most 50 characters, because pods and services are called `<job>-worker-<n>`.
    """
    run = re.sub(r"[^a-z0-9]+", "-", task.run_id.lower()).strip("-")[:26].strip("-")
    return "-".join(part for part in ("sl", task.step, run, short_hash(task.out_uri)) if part)


def pod_count(task: Task, config: ClusterConfig) -> int:
    """Return how many pods a task's workers fill.

    Raises:
        UserError: If they cannot be divided.
    """
    workers, each = task.workers, config.processes_per_pod
    if workers == 1:
        return 1
    if workers % each:
        raise UserError(
            f"workers must be a multiple of processes_per_pod, got {workers} and {each}: change one"
        )
    return workers // each


def spec_hash(manifest: Manifest) -> str:
    """Return what tells two jobs of one name apart: a digest of everything that was asked for."""
    said = {"labels": manifest["metadata"]["labels"], "spec": manifest["spec"]}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def annotations_of(manifest: Manifest) -> dict[str, str]:
    """Return a manifest's annotations; none, where it has null in their place."""
    return manifest["metadata"].get("annotations") or {}


def differences(found: Manifest, wanted: Manifest) -> list[str]:
    """Return the settings that two jobs of one step were given differently; none, if unknown."""
    try:
        seen, asked = (
            json.loads(annotations_of(manifest)[SETTINGS_ANNOTATION])
            for manifest in (found, wanted)
        )
    except (KeyError, ValueError):
        seen = None
    if not isinstance(seen, dict):
        return []  # not of this program's making
    names = sorted(name for name in {*seen, *asked} if seen.get(name) != asked.get(name))
    return [
        f"{name} {show_value(seen.get(name))} there, {show_value(asked.get(name))} here"
        for name in names
    ]


def _settings(task: Task, config: ClusterConfig) -> dict[str, Any]:
    """Return all that a job is asked for by the names that its user knows."""
    placed = config.model_dump(mode="json", exclude=_NOT_THE_JOBS)
    return {
        "sightline": __version__,
        **task.uris.to_json(),
        **task.config.to_json(),
        **_storage(task, config),
        "image": _image(task, config),
        **{f"cluster.{name}": value for name, value in placed.items()},
    }


def labels_of(task: Task) -> dict[str, str]:
    """Return what a task's job and pods are found by."""
    return {
        "app.kubernetes.io/name": "sightline",
        "app.kubernetes.io/part-of": "sightline",
        "app.kubernetes.io/component": task.step,
        "app.kubernetes.io/version": __version__,
        "app.kubernetes.io/managed-by": "sightline-cluster",
        RUN_LABEL: label_value(task.run_id),
        STEP_LABEL: task.step,
    }


def render_pod(task: Task, config: ClusterConfig) -> Manifest:
    """Return a worker's pod, as Pod Security `restricted` admits it.

    Raises:
        UserError: If what the step may keep in its scratch would not fit there, or a server's
            address is one of this machine alone.
    """
    _require_scratch(task, config)
    spec: Manifest = {
        "serviceAccountName": config.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # A checkpoint and the words to the others need their time; SIGKILL comes after it.
        "terminationGracePeriodSeconds": 60,
        # The pod's pause is process 1 then. The worker as process 1 would not hear a SIGTERM that
        # comes while Python still starts, and run on to SIGKILL.
        "shareProcessNamespace": True,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(task, config)],
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": config.scratch}},
            {
                "name": "shared-memory",
                "emptyDir": {"medium": "Memory", "sizeLimit": config.shared_memory},
            },
        ],
    }
    if config.node_selector:
        spec["nodeSelector"] = dict(pair.split("=", 1) for pair in config.node_selector)
    if config.tolerations:
        spec["tolerations"] = [_toleration(text) for text in config.tolerations]
    if config.image_pull_secret:
        spec["imagePullSecrets"] = [{"name": config.image_pull_secret}]
    return spec


def _require_scratch(task: Task, config: ClusterConfig) -> None:
    local_gib = getattr(task.config, "max_local_gib", 0)  # detect keeps its images as files
    if task.has_data and local_gib and local_gib >= amount_of(config.scratch) / 2**30:
        raise UserError(
            f"{task.step} may keep {local_gib:g} GiB of images (max_local_gib) in cluster.scratch "
            f"{config.scratch}, and a worker that exceeds that is evicted: lower max_local_gib, or "
            "raise cluster.scratch above it"
        )


def _container(task: Task, config: ClusterConfig) -> Manifest:
    resources = {"cpu": config.cpu, "memory": config.memory}
    if config.gpus:
        resources["nvidia.com/gpu"] = str(config.gpus)
    # What lies in /tmp counts, and so does the log. Without a limit of its own the container would
    # get the namespace's default, and be evicted at that; a node need not have all of it free.
    scratch_mib = math.ceil(amount_of(config.scratch) / 2**20)
    disk_limit = {"ephemeral-storage": f"{scratch_mib + _LOG_MIB}Mi"}
    disk_request = {"ephemeral-storage": "1Gi"}
    container: Manifest = {
        "name": "pytorch",  # the operator looks for this name
        "image": _image(task, config),
        "imagePullPolicy": config.image_pull_policy,
        "command": ["python", "-m", "sightline_cluster.worker"],
        "args": [_literal(argument) for argument in _arguments(task)],
        "env": [
            {"name": name, "value": _literal(value)} for name, value in _environment(task, config)
        ],
        # The second is the operator's own, which it would add to the first.
        "ports": [
            {"name": "metrics", "containerPort": METRICS_PORT},
            {"name": "pytorchjob-port", "containerPort": 23456},
        ],
        "resources": {"requests": resources | disk_request, "limits": resources | disk_limit},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePath": MESSAGE_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            # Volumes of the pod's own, which nobody else can write to.
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }
    if config.s3_secret:
        container["envFrom"] = [{"secretRef": {"name": config.s3_secret}}]
    return container


def _image(task: Task, config: ClusterConfig) -> str:
    needed = image_of(task.step, str(getattr(task.config, "encoder", "")))
    if not task.has_data:
        needed = TRAIN
    return {TRAIN: config.train_image, DETECT: config.detect_image}[needed] or needed


def _literal(text: str) -> str:
    """Return a text as Kubernetes hands it on unchanged: it reads `$(NAME)` and `$$`."""
    return text.replace("$", "$$")


def _arguments(task: Task) -> list[str]:
    arguments = [task.step]
    required = {name for name, field in type(task.uris).model_fields.items() if field.is_required()}
    for name, uri in task.uris.to_json().items():
        if uri or name in required:  # an empty one says that there are no such data
            arguments += [f"--{name.replace('_', '-')}", uri]
    return [*arguments, "--config", json.dumps(task.config.to_json(), sort_keys=True)]


def _environment(task: Task, config: ClusterConfig) -> list[tuple[str, str]]:
    storage = _storage(task, config)
    s3_endpoint_url = str(storage.get("s3_endpoint_url", ""))
    _refuse_own_address(s3_endpoint_url, "the S3 server", "s3_endpoint_url")
    _refuse_own_address(config.pushgateway_url, "the Pushgateway", "pushgateway_url")
    variables = {f"{_VARIABLES}{name.upper()}": str(value) for name, value in storage.items()}
    variables[f"{_VARIABLES}METRICS_PORT"] = str(METRICS_PORT)
    # Without it every process takes as many threads as the node has cores.
    variables["OMP_NUM_THREADS"] = str(
        max(1, int(amount_of(config.cpu)) // config.processes_per_pod)
    )
    if config.pushgateway_url:
        variables[f"{_VARIABLES}PUSHGATEWAY_URL"] = config.pushgateway_url
    return sorted(variables.items())


def _storage(task: Task, config: ClusterConfig) -> dict[str, Any]:
    there = {"s3_endpoint_url": config.s3_endpoint_url} if config.s3_endpoint_url else {}
    return {**task.storage, **there}


def _refuse_own_address(url: str, server: str, setting: str) -> None:
    if _is_own_host(urllib.parse.urlsplit(url).hostname or ""):
        raise UserError(
            f"pods do not reach {server} at {url}, which names every machine itself: set "
            f"cluster.{setting} to its address inside the cluster"
        )


def _is_own_host(host: str) -> bool:
    """Say whether every machine takes a name or an address for its own, as an HTTP client does."""
    with contextlib.suppress(ValueError):  # a name
        address = ipaddress.ip_address(host)
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or address.is_unspecified
    with contextlib.suppress(OSError):  # 127.1 and 2130706433 are 127.0.0.1
        return _is_own_host(socket.inet_ntoa(socket.inet_aton(host)))
    return bool(_OWN_NAME.fullmatch(host))


def _toleration(text: str) -> Manifest:
    taint, _, effect = text.partition(":")
    key, equals, value = taint.partition("=")
    found = (
        {"key": key, "operator": "Equal", "value": value}
        if equals
        else {"key": key, "operator": "Exists"}
    )
    return found | ({"effect": effect} if effect else {})

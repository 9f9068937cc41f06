"""A task as a TrainJob of Kubeflow Trainer v2: a pure function to two dicts.

PyTorchJob v1 is maintained and not developed further; this is what takes its place. Trainer keeps
a pod's shape in a runtime, so a task is a TrainingRuntime of its own and the TrainJob that names
it. Nothing submits them yet: there is no back end `trainjob`.
"""

from __future__ import annotations

from sightline_cluster.config import ClusterConfig
from sightline_cluster.render import (
    OUT_ANNOTATION,
    Manifest,
    job_name,
    labels_of,
    pod_count,
    render_pod,
)
from sightline_cluster.task import Task

API_VERSION = "trainer.kubeflow.org/v1alpha1"
_CONTAINER = "node"  # Trainer looks for this name
_FINAL_CODES = [1, 2]  # of sightline_cluster.worker: a defect, and what the user can mend


def render_trainjob(task: Task, config: ClusterConfig) -> tuple[Manifest, Manifest]:
    """Return a task's TrainingRuntime and its TrainJob; the namespace is left to the submitter.

    Here the cluster itself keeps the restart budget: a pod that ends with a final code fails the
    job at once, any other is made anew, `restarts` times at most.

    Raises:
        UserError: If the workers cannot be divided among pods, or the step's files do not fit.
    """
    labels, name = labels_of(task), job_name(task)
    annotations = {OUT_ANNOTATION: task.out_uri}
    pod = render_pod(task, config)
    (container,) = pod["containers"]
    container["name"] = _CONTAINER
    container["ports"] = [port for port in container["ports"] if port["name"] == "metrics"]
    pod["restartPolicy"] = "Never"  # a failure policy wants pods that end
    job = {
        "backoffLimit": config.restarts,
        "ttlSecondsAfterFinished": round(3600 * config.keep_hours),
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": _CONTAINER,
                        "operator": "In",
                        "values": _FINAL_CODES,
                    },
                }
            ]
        },
        "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
    }
    replicated = {
        "name": _CONTAINER,
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": job,
        },
    }
    runtime: Manifest = {
        "apiVersion": API_VERSION,
        "kind": "TrainingRuntime",
        "metadata": {"name": name, "labels": labels | {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": pod_count(task, config), "torch": {}},
            "template": {"spec": {"replicatedJobs": [replicated]}},
        },
    }
    queue = {"kueue.x-k8s.io/queue-name": config.queue} if config.queue else {}
    trainjob: Manifest = {
        "apiVersion": API_VERSION,
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": labels | queue, "annotations": annotations},
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "TrainingRuntime",
                "name": name,
            },
            "activeDeadlineSeconds": round(3600 * config.deadline_hours),
            "trainer": {
                "numNodes": pod_count(task, config),
                "numProcPerNode": min(task.workers, config.processes_per_pod),
            },
        },
    }
    return runtime, trainjob

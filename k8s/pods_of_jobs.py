"""Prints the pods of every kind of job as Pods: scanners look into no PyTorchJob."""

import yaml

from sightline.telemetry import print_answer
from sightline_cluster.config import ClusterConfig
from sightline_cluster.render import render_pytorchjob
from sightline_cluster.task import STEPS, make_task


def pod_of(step: str) -> dict:
    """Return the pod of a step's job with default settings."""
    uris = {"dataset_uri": "s3://b/datasets/1", "out_uri": f"s3://b/runs/r/{step}"}
    if step != "pretrain":
        uris["encoder_uri"] = "s3://b/runs/r/pretrain"
    job = render_pytorchjob(make_task(step, uris, {}, {}), ClusterConfig())
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    metadata = {**template["metadata"], "name": step, "namespace": "sightline"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


if __name__ == "__main__":
    print_answer(yaml.safe_dump_all(map(pod_of, STEPS)))

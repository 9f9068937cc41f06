"""The operators' own schemas, closed: a field that they do not know is refused.

Without their descriptions, the openAPIV3Schema of: PyTorchJob in Training Operator v1.9.4, and the
two of Trainer v2.3.0 (github.com/kubeflow/trainer, manifests/base/crds); LocalQueue v1beta2 in
Kueue v0.19.0 (github.com/kubernetes-sigs/kueue, config/components/crd/bases). All are Apache-2.0.
"""

import json
from pathlib import Path

import jsonschema

FILES = {
    "PyTorchJob": "pytorchjobs.kubeflow.org.json",
    "LocalQueue": "localqueues.kueue.x-k8s.io.json",
    "TrainJob": "trainjobs.trainer.kubeflow.org.json",
    "TrainingRuntime": "trainingruntimes.trainer.kubeflow.org.json",
}


def problems(manifest):
    """Return what the schema has against a manifest, one text each."""
    schema = json.loads(Path(__file__).with_name(FILES[manifest["kind"]]).read_text())
    validator = jsonschema.Draft7Validator(_closed(schema))
    return [
        f"{'/'.join(map(str, e.absolute_path))}: {e.message}"
        for e in validator.iter_errors(manifest)
    ]


def _closed(node):
    if isinstance(node, list):
        return [_closed(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    closed = {name: _closed(value) for name, value in node.items()}
    if "properties" in node and isinstance(node["properties"], dict):
        closed.setdefault("additionalProperties", False)
    if node.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed

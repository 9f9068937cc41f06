from pathlib import Path

import yaml
from sightline_cluster_crd import problems

ROOT = Path(__file__).parents[2]


def test_overlays_queue_is_what_kueue_stores():
    queue = yaml.safe_load((ROOT / "k8s/overlays/kueue/local-queue.yaml").read_text())
    assert queue["apiVersion"] == "kueue.x-k8s.io/v1beta2"
    assert problems(queue) == []
    queue["spec"]["queue"] = "other"
    assert len(problems(queue)) == 1

"""The whole pipeline, its three trainings as jobs: two pods, one pod, one pod with the detector."""

import json
import os
import subprocess
import sys

import pytest

from sightline.storage import fetch_artifacts
from sightline_cluster.images import DETECT, TRAIN


@pytest.mark.long
def test_pipeline_that_is_killed_goes_on_from_images_to_a_report(namespace, bucket, tmp_path):
    few = ["--patients", "40", "--unlabelled-patients", "4"]
    data = tmp_path / "data"
    subprocess.run(
        [sys.executable, "-m", "sightline", "demo-data", "--out-uri", str(data), *few], check=True
    )
    cluster = {"cpu": "1", "memory": "3Gi", "shared_memory": "512Mi", "scratch": "2Gi"}
    cluster["s3_endpoint_url"] = os.environ["TESTBED_S3_ENDPOINT_IN_CLUSTER"]
    small = {
        "pretrain": {"image_size": 32, "global_batch_size": 16, "epochs": 8},
        "evaluate": {"epochs": 2},
        "finetune": {"image_size": 32, "epochs": 1},
        "detect": {"image_size_px": 64, "epochs": 1, "max_local_gib": 1},
        "cluster": cluster,
    }
    command = [
        *(sys.executable, "-m", "pipelines", "run", "--preset", "demo", "--workers", "2"),
        *("--backend", "pytorchjob", "--run-id", "whole", "--out", f"{bucket}/out"),
        *("--images", str(data / "images"), "--labels", str(data / "labels")),
        *("--boxes", str(data / "boxes"), "--table", str(data / "table.csv")),
        *("--settings", json.dumps(small)),
    ]
    options = {
        "env": {**os.environ, "KUBECONFIG": str(namespace.kubeconfig("sightline-launcher"))},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    with subprocess.Popen(command, **options) as killed:
        assert any("worker-0 | pretrain: epoch 1/8" in line for line in killed.stdout)
        killed.kill()
    namespace.wait_until_nothing_is_left("whole")  # its step hears of that
    done = subprocess.run(command, **options, timeout=1500)
    assert done.returncode == 0, done.stdout
    assert "prepare: finished before in" in done.stdout
    assert "worker-0 | pretrain: going on from checkpoint" in done.stdout
    assert "reap: nothing was left running" in done.stdout
    ran = {}
    for job in namespace.get("pytorchjobs", "sightline.dev/run-id=whole"):
        worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
        image = worker["template"]["spec"]["containers"][0]["image"]
        assert job["status"]["conditions"][-1]["type"] == "Succeeded"
        ran[job["metadata"]["labels"]["sightline.dev/step"]] = (worker["replicas"], image)
    assert ran == {"pretrain": (2, TRAIN), "finetune": (1, TRAIN), "detect": (1, DETECT)}
    run = f"{bucket}/out/runs/whole"
    detected = json.loads((fetch_artifacts(f"{run}/detect") / "metrics.json").read_text())
    assert 0 <= detected["protocols"]["pretrained"]["map50_95"]["value"] <= 1
    assert (fetch_artifacts(f"{run}/report") / "report.html").stat().st_size > 10_000

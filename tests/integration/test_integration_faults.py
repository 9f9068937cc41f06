"""Steps from a bucket to a bucket by a way that fails in every manner, and is gone for a while."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fault_proxy import WRONG_BYTES

from sightline.data import open_dataset
from sightline.steps import run_step
from sightline.storage import fetch_artifacts, open_storage
from sightline.storage.retries import retry_counts

SHARE = 0.05
"""Of each of the eight faults: four requests in ten meet one."""
IMAGES = 36
PRETRAIN = {
    "preset": "demo",
    "image_size": 32,
    "global_batch_size": 8,
    "epochs": 2,
    "exclude_group_negatives": False,
    "precision": "float32",
}


@pytest.fixture
def hurried(monkeypatch):
    """Give up a silent server soon, so that the tests end soon."""
    monkeypatch.setenv("SIGHTLINE_S3_READ_TIMEOUT_SECONDS", "0.5")
    monkeypatch.setenv("SIGHTLINE_S3_RETRIES", "40")


def prepare(images_uri, target):
    uris = {"images_uri": images_uri, "store_uri": f"{target}/store", "out_uri": f"{target}/out"}
    return run_step("prepare", uris, {"shard_size_mib": 1})


def test_prepare_gives_the_version_that_a_folder_gives(
    faults, hurried, s3_bucket, make_images, tmp_path, capsys, monkeypatch
):
    folder = make_images(tmp_path / "in", groups_per_class=IMAGES // 6)
    with monkeypatch.context() as older:  # a program that stores no sum with its objects
        older.setenv("SIGHTLINE_S3_CHECKSUMS", "when_required")
        bucket = open_storage(f"{s3_bucket}/in")
        for path in folder.rglob("*.png"):
            bucket.write_bytes(path.relative_to(folder).as_posix(), path.read_bytes())
    calm = prepare(str(folder), str(tmp_path))["datasets"]["images"]
    faults.fail_in_every_way(SHARE)
    faults.be_down(after_requests=IMAGES, seconds=60)
    faulty = prepare(f"{s3_bucket}/in", s3_bucket)
    told = capsys.readouterr().err.splitlines()[-1]
    assert faults.faults > IMAGES / 5
    assert "requests were tried again" in told
    assert "no connection" in told
    faults.heal()
    dataset = open_dataset(faulty["datasets"]["images"])
    assert dataset.version == Path(calm).name
    assert list(dataset.iter_bytes()) == list(open_dataset(calm).iter_bytes())
    assert faulty["counts"]["images"]["images"] == IMAGES
    assert list(open_storage(s3_bucket).list_unfinished()) == []


def test_the_report_shows_no_picture_that_came_altered(faults, s3_bucket, make_images, tmp_path):
    folder = str(make_images(tmp_path / "in", groups_per_class=2))
    prepare(folder, str(tmp_path))
    calm = re.findall("data:image/[^\"']+", (tmp_path / "out/data_report.html").read_text())
    faults.fail(
        WRONG_BYTES, share=0.5, matches=lambda method, path: method == "GET" and ".tar" in path
    )
    prepare(folder, s3_bucket)
    assert faults.faults
    page = open_storage(f"{s3_bucket}/out").read_bytes("data_report.html").decode()
    assert re.findall("data:image/[^\"']+", page) == calm != []


def test_pretrain_gives_the_encoder_that_a_folder_gives(
    faults, hurried, labelled_dataset, on_s3, s3_bucket, tmp_path
):
    calm = str(tmp_path / "calm")
    run_step("pretrain", {"dataset_uri": labelled_dataset, "out_uri": calm}, PRETRAIN)
    dataset_uri = on_s3(labelled_dataset)
    before = retry_counts()
    faults.fail_in_every_way(SHARE)
    faults.be_down(after_requests=10, seconds=3)
    faulty = f"{s3_bucket}/pretrain"
    run_step("pretrain", {"dataset_uri": dataset_uri, "out_uri": faulty}, PRETRAIN)
    assert retry_counts() != before
    faults.heal()
    names = ["simclr_backbone.pth"]
    weights = [(fetch_artifacts(uri, names) / names[0]).read_bytes() for uri in (calm, faulty)]
    assert weights[0] == weights[1]

import csv
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from sightline.data import open_dataset, publish_dataset, write_dataset
from sightline.data.shards import PackedImage, ShardWriter
from sightline.detect import results
from sightline.detect.config import DetectUris
from sightline.detect.run import run
from sightline.encoders import load_encoder, save_encoder
from sightline.encoders.yolo_scoring import load_detector, score_detector
from sightline.errors import UserError
from sightline.storage import new_artifacts

PROTOCOLS = ("pretrained", "scratch")


def test_step_leaves_the_files_that_the_architecture_names(finished):
    assert {path.name for path in finished.folder.iterdir() if not path.name.startswith(".")} == {
        "artifacts.json",
        "config.json",
        "detector.pt",
        "detector_scratch.pt",
        "history.csv",
        "metrics.json",
        "pictures",
        "pr_curves.json",
    }
    assert json.loads((finished.folder / "metrics.json").read_text()) == finished.metrics


def test_each_protocol_has_its_numbers_with_intervals(finished):
    assert tuple(finished.metrics["protocols"]) == PROTOCOLS
    for entry in finished.metrics["protocols"].values():
        assert (entry["labels_used"], entry["test_images"], entry["test_groups"]) == (8, 4, 4)
        for name in ("map50", "map50_95", "precision", "recall"):
            assert set(entry[name]) == {"value", "low", "high"}
        assert set(entry["per_class"]) == {"disc", "square"}
        assert set(entry["per_class"]["disc"]) == {
            "map50",
            "map50_95",
            "precision",
            "recall",
            "boxes",
        }
    assert set(finished.metrics["difference"]["map50_95"]) == {"value", "low", "high"}


def test_history_has_each_epoch_of_each_protocol_once(finished):
    written = (finished.folder / "history.csv").read_bytes().decode()
    assert "\r" not in written
    rows = list(csv.DictReader(written.splitlines()))
    assert [(row["protocol"], row["epoch"]) for row in rows] == [
        (protocol, epoch) for protocol in PROTOCOLS for epoch in ("1", "2")
    ]
    assert all(float(row["box_loss"]) >= 0 and float(row["cls_loss"]) > 0 for row in rows)
    # A cosine from 0.001 to 0.00001 over two epochs: half way in the second.
    assert [float(row["learning_rate"]) for row in rows[:2]] == pytest.approx([0.001, 0.000505])


def test_precision_recall_curves_have_101_points_a_class(finished):
    curves = json.loads((finished.folder / "pr_curves.json").read_text())
    assert curves["recall"] == pytest.approx([place / 100 for place in range(101)])
    for protocol in PROTOCOLS:
        assert {len(values) for values in curves["protocols"][protocol].values()} == {101}


def test_pictures_of_both_protocols_show_the_same_images(finished):
    names = sorted(path.name for path in (finished.folder / "pictures").iterdir())
    assert names == sorted(f"{n:02d}-{p}.jpg" for n in (1, 2) for p in PROTOCOLS)
    with Image.open(finished.folder / "pictures" / names[0]) as picture:
        assert picture.size == (512, 512)


@pytest.mark.parametrize(
    ("file_name", "protocol"), [("detector.pt", "pretrained"), ("detector_scratch.pt", "scratch")]
)
def test_published_detector_scores_again_what_the_step_reported(file_name, protocol, finished):
    detector = load_detector(str(finished.folder), file_name)
    dataset = open_dataset(finished.uris.dataset_uri)
    again = score_detector(detector, dataset, bootstrap_samples=20, seed=0)
    entry = finished.metrics["protocols"][protocol]
    assert {name: entry[name] for name in again} == again


def test_test_split_is_read_only_after_epochs_and_confidences_are_chosen(
    boxes_dataset, encoder_uri, tiny_config, tmp_path, monkeypatch, reads
):
    at_choice = []
    choose = results.best_confidence

    def look(scored):
        at_choice.append((set(scored.groups), set(reads)))
        return choose(scored)

    monkeypatch.setattr(results, "best_confidence", look)
    uris = DetectUris(
        encoder_uri=encoder_uri("yolo12n"), dataset_uri=boxes_dataset, out_uri=str(tmp_path / "out")
    )
    run(uris, tiny_config(epochs=1, image_size_px=32, picture_count=1))
    val_groups = set(open_dataset(boxes_dataset).split("val").groups)
    assert at_choice == [(val_groups, {"train", "val"})] * 2
    assert set(reads) == {"train", "val", "test"}


def test_finished_result_is_never_overwritten(finished):
    with pytest.raises(UserError, match="already holds a finished result"):
        run(finished.uris, finished.config)


def test_without_boxes_the_step_says_so_and_does_no_work(tmp_path, tiny_config):
    uris = DetectUris(encoder_uri="/nowhere", dataset_uri="", out_uri=str(tmp_path / "out"))
    metrics = run(uris, tiny_config())
    assert "no boxes were given" in metrics["skipped"]
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics


def repacked(boxes_dataset, store, change):
    """Pack the data set again after `change` has had each image; None leaves it out."""
    dataset = open_dataset(boxes_dataset)
    images = []
    for index, sample in enumerate(dataset.samples):
        image = PackedImage(
            dataset.read_bytes(index),
            "png",
            sample.name,
            sample.group,
            sample.split,
            sample.width,
            sample.height,
            boxes=sample.boxes,
        )
        changed = change(image)
        if changed is not None:
            images.append(changed)
    return write_dataset(images, str(store), kind="boxes", classes=dataset.classes)


def refused(dataset_uri, encoder_uri, tmp_path, config, message):
    out = tmp_path / "out"
    uris = DetectUris(encoder_uri=encoder_uri("yolo12n"), dataset_uri=dataset_uri, out_uri=str(out))
    with pytest.raises(UserError, match=message):
        run(uris, config)
    assert not (out / "artifacts.json").exists()


def test_training_split_without_any_box_is_refused(
    boxes_dataset, encoder_uri, tmp_path, tiny_config
):
    uri = repacked(
        boxes_dataset,
        tmp_path / "store",
        lambda image: replace(image, boxes=()) if image.split == "train" else image,
    )
    refused(uri, encoder_uri, tmp_path, tiny_config(), "no training image of .* has any")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_split_without_annotated_images_is_refused(
    split, boxes_dataset, encoder_uri, tmp_path, tiny_config
):
    uri = repacked(
        boxes_dataset,
        tmp_path / "store",
        lambda image: replace(image, boxes=None) if image.split == split else image,
    )
    refused(uri, encoder_uri, tmp_path, tiny_config(), f"has none in {split}")


def test_class_without_test_boxes_is_null_and_told(
    boxes_dataset, encoder_uri, tmp_path, tiny_config, capsys
):
    def without_squares(image):
        if image.split != "test":
            return image
        return replace(image, boxes=tuple(b for b in image.boxes if b.class_name == "disc"))

    uris = DetectUris(
        encoder_uri=encoder_uri("yolo12n"),
        dataset_uri=repacked(boxes_dataset, tmp_path / "store", without_squares),
        out_uri=str(tmp_path / "out"),
    )
    config = tiny_config(epochs=1, image_size_px=32, scratch=False, picture_count=0)
    entry = run(uris, config)["protocols"]["pretrained"]
    assert entry["per_class"]["square"]["map50"] is None
    assert entry["per_class"]["square"]["boxes"] == 0
    assert entry["map50"]["value"] == entry["per_class"]["disc"]["map50"]
    assert "no box of square" in capsys.readouterr().out


def test_loss_that_is_no_number_stops_with_the_epoch_and_publishes_nothing(
    boxes_dataset, encoder_uri, tmp_path, tiny_config
):
    broken = load_encoder(encoder_uri("yolo12n"))
    with torch.no_grad():
        next(broken.parameters()).fill_(3e38)  # so that what it computes is no number
    uri = str(tmp_path / "encoder")
    nowhere = DetectUris(encoder_uri="-", dataset_uri="", out_uri=uri)
    with new_artifacts("pretrain", nowhere, tiny_config(), uri) as folder:
        save_encoder(broken, folder)
    message = "the loss became nan in epoch 1 of 2: lower learning_rate"
    refused(boxes_dataset, lambda name: uri, tmp_path, tiny_config(image_size_px=32), message)


def with_stored_side(dataset_uri, store, stored_short_side_px, scaled_down):
    """Publish the data set again, saying at which size its images were stored."""
    dataset = open_dataset(dataset_uri)
    with ShardWriter(str(store)) as writer:
        samples = []
        for sample, content in zip(dataset.samples, dataset.iter_bytes(), strict=True):
            member = writer.add(content, "png")
            samples.append(replace(sample, shard=member.shard, offset_bytes=member.offset_bytes))
        shards = writer.close()
    return publish_dataset(
        str(store),
        kind="boxes",
        classes=dataset.classes,
        shards=shards,
        samples=samples,
        counts=dataset.manifest["counts"],
        groups=dataset.manifest["groups"],
        stored_short_side_px=stored_short_side_px,
        scaled_down=scaled_down,
    )


def test_images_stored_smaller_than_the_detectors_input_are_refused(
    boxes_dataset, encoder_uri, tmp_path, tiny_config
):
    uri = with_stored_side(boxes_dataset, tmp_path / "store", 48, scaled_down=3)
    message = (
        "image_size_px 64 needs .* short side of 48 px: run prepare again with "
        "boxes_short_side_px 64, or set image_size_px to 32 or less"
    )
    refused(uri, encoder_uri, tmp_path, tiny_config(), message)


@pytest.mark.parametrize(("stored_short_side_px", "scaled_down"), [(64, 3), (48, 0)])
def test_images_stored_large_enough_or_as_they_came_are_taken(
    stored_short_side_px, scaled_down, boxes_dataset, encoder_uri, tmp_path, tiny_config
):
    uri = with_stored_side(boxes_dataset, tmp_path / "store", stored_short_side_px, scaled_down)
    # The next check speaks, and so this one was passed.
    limit = tiny_config(max_local_gib=1e-9)
    refused(uri, encoder_uri, tmp_path, limit, "more than max_local_gib 1e-09")

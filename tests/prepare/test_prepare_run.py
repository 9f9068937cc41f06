"""The prepare step on small real folders: what it packs, refuses, moves and tells."""

from __future__ import annotations

import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.__main__ import main
from sightline.data import SPLITS, open_dataset
from sightline.errors import SettingsError, UserError
from sightline.prepare.config import PrepareConfig, PrepareUris
from sightline.prepare.run import run
from sightline.prepare.splits import split_of

BY_GROUP = PrepareConfig(group_pattern=r"([a-z]+-p\d+)_")


class Workplace:
    """A folder to prepare from, and fresh places to write to."""

    def __init__(self, root: Path):
        self.root = root
        self.runs = 0

    def run(self, config=BY_GROUP, **uris):
        self.runs += 1
        self.out = self.root / f"out-{self.runs}"
        store = uris.pop("store_uri", str(self.root / "store"))
        given = {name: str(value) for name, value in uris.items()}
        return run(PrepareUris(store_uri=store, out_uri=str(self.out), **given), config)

    def refusal(self, config=BY_GROUP, **uris):
        with pytest.raises(UserError) as caught:
            self.run(config, **uris)
        assert not self.out.exists()
        return str(caught.value)


@pytest.fixture
def place(tmp_path):
    return Workplace(tmp_path)


@pytest.fixture
def labels(tmp_path, make_images):
    return make_images(tmp_path / "labels", groups_per_class=24, images_per_group=2)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **options)
    return path


def noise(seed, side=32):
    return np.random.default_rng(seed).integers(0, 256, size=(side, side), dtype=np.uint8)


def first_of(dataset_uri, split):
    return open_dataset(dataset_uri).split(split).samples[0]


def test_class_folders_become_a_labelled_set_and_a_set_for_pretraining(place, labels):
    metrics = place.run(labels_uri=labels)
    dataset = open_dataset(metrics["datasets"]["labels"])
    assert len(dataset) == 3 * 24 * 2
    assert dataset.classes == ("checks", "columns", "rows")
    assert all(s.label == s.name.split("/")[0] for s in dataset.samples)
    assert all(s.group == s.name.split("/")[1].split("_")[0] for s in dataset.samples)
    assert metrics["datasets"]["boxes"] == ""
    unlabelled = open_dataset(metrics["datasets"]["images"])
    splits = {sample.name: sample.split for sample in dataset.samples}
    assert {sample.name: sample.split for sample in unlabelled.samples} == splits
    assert all(sample.label is None for sample in unlabelled.samples)
    assert json.loads((place.out / "metrics.json").read_text()) == metrics


def test_no_group_is_in_two_splits(place, labels):
    dataset = open_dataset(place.run(labels_uri=labels)["datasets"]["labels"])
    groups = [{s.group for s in dataset.split(split).samples} for split in SPLITS]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups)) == 3 * 24


def test_same_input_gives_the_same_versions_and_another_split_seed_others(place, labels, tmp_path):
    first = place.run(labels_uri=labels)["datasets"]
    assert place.run(labels_uri=labels)["datasets"] == first
    moved = shutil.copytree(labels, tmp_path / "moved")
    assert place.run(labels_uri=moved)["datasets"] == first
    other = PrepareConfig(group_pattern=BY_GROUP.group_pattern, split_seed=1)
    assert place.run(other, labels_uri=labels)["datasets"]["labels"] != first["labels"]


def test_growing_folder_never_moves_a_group(place, labels, make_images):
    def splits():
        samples = open_dataset(place.run(labels_uri=labels)["datasets"]["labels"]).samples
        return {sample.group: sample.split for sample in samples}

    before = splits()
    make_images(labels, groups_per_class=40, images_per_group=1)
    after = splits()
    assert len(after) == 3 * 40
    assert {group: after[group] for group in before} == before


def test_growing_split_folders_never_move_an_image_without_group(place, labels):
    def splits():
        metrics = place.run(PrepareConfig(), labels_uri=labels)
        return {s.name: s.split for s in open_dataset(metrics["datasets"]["labels"]).samples}

    old = sorted(labels.rglob("*.png"))
    for place_in_order, path in enumerate(old):
        split = "test" if place_in_order % 4 == 0 else "train"
        moved = labels / split / path.relative_to(labels)
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)
    before = splits()
    # Other pictures with the names of those in train/.
    for number, path in enumerate(sorted((labels / "train").rglob("*.png"))):
        save(labels / "test" / path.relative_to(labels / "train"), noise(7000 + number))
    after = splits()
    assert len(after) > len(before)
    assert {name: after[name] for name in before} == before


def test_test_picture_of_the_labels_in_training_of_the_boxes_is_not_pretrained_on(
    place, labels, tmp_path
):
    # The same patients' pictures; no common name tells it.
    dataset_uri = place.run(labels_uri=labels)["datasets"]["labels"]
    held_out = first_of(dataset_uri, "test")
    boxes = make_boxes(tmp_path / "boxes")
    in_train = next(
        s.group
        for s in open_dataset(place.run(boxes_uri=boxes)["datasets"]["boxes"]).samples
        if s.split == "train"
    )
    shutil.copy(labels / held_out.name, boxes / "images" / f"{in_train}_1.png")
    datasets = place.run(labels_uri=labels, boxes_uri=boxes)["datasets"]
    splits = {
        kind: {s.sha256: s.split for s in open_dataset(datasets[kind]).samples}
        for kind in ("images", "labels", "boxes")
    }
    assert [splits[kind][held_out.sha256] for kind in splits] == ["test", "test", "train"]


def test_a_group_whose_unlabelled_images_move_alone_is_told(place, labels, tmp_path):
    dataset = open_dataset(place.run(labels_uri=labels)["datasets"]["labels"])
    trained, other = sorted({s.group for s in dataset.samples if s.split == "train"})[:2]
    tested = next(s.name for s in dataset.samples if s.split == "test")
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    save(unlabelled / f"{other}_90.png", noise(90))
    save(unlabelled / f"{trained}_90.png", noise(91))
    shutil.copy(labels / tested, unlabelled / f"{trained}_91.png")
    metrics = place.run(images_uri=unlabelled, labels_uri=labels)
    found = open_dataset(metrics["datasets"]["images"]).samples
    assert {(s.group, s.split) for s in found} == {(other, "train"), (trained, "test")}
    assert metrics["groups"]["in_several_splits"] == 1
    assert metrics["groups"]["in_several_splits_of_a_set"] == 0


def test_small_8_bit_images_are_stored_byte_for_byte(place, labels):
    dataset = open_dataset(place.run(labels_uri=labels)["datasets"]["labels"])
    for index in range(10):
        original = labels / dataset.samples[index].name
        assert dataset.read_bytes(index) == original.read_bytes()


def test_large_and_deep_images_are_stored_small_and_8_bit_with_their_shape(place, labels):
    y, x = np.mgrid[:400, :600]
    save(labels / "rows" / "rows-p90_0.png", (y + x) // 4)
    deep = (20 * y[:300, :500] + 1000).astype(np.uint16)
    Image.fromarray(deep).save(labels / "rows" / "rows-p91_0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    save(labels / "rows" / "rows-p92_0.jpg", noise(2)[:20], exif=exif)
    metrics = place.run(labels_uri=labels)
    dataset = open_dataset(metrics["datasets"]["labels"])
    places = {sample.group: index for index, sample in enumerate(dataset.samples)}
    shapes = {g: dataset.read_image(places[f"rows-{g}"]).shape for g in ("p90", "p91", "p92")}
    # Short side 256: 400 x 600 becomes 256 x 384, 300 x 500 becomes 256 x 427.
    assert shapes == {"p90": (256, 384, 3), "p91": (256, 427, 3), "p92": (32, 20, 3)}
    large = dataset.read_image(places["rows-p90"])[:, :, 0].astype(float)
    expected = ((y + x) // 4)[100, 150], ((y + x) // 4)[300, 450]
    assert large[64, 96] == pytest.approx(expected[0], abs=2)
    assert large[192, 288] == pytest.approx(expected[1], abs=2)
    assert [entry["change"] for entry in metrics["adjusted"]] == [
        "16-bit gray",
        "turned upright (EXIF orientation 6)",
    ]


@pytest.mark.parametrize(("suffix", "off"), [("jpg", 4), ("png", 0)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_image_is_stored_as_jpeg_if_it_was_one_and_without_loss_if_not(
    place, labels, suffix, off, channels
):
    y, x = np.mgrid[:400, :600]
    pixels = np.stack([(y + x) // 4, (y - x) // 5 % 200, y // 2], axis=2)[:, :, :channels]
    pixels = pixels.astype(np.uint8).squeeze()
    path = save(labels / "rows" / f"rows-p90_0.{suffix}", pixels)
    dataset = open_dataset(place.run(labels_uri=labels)["datasets"]["labels"])
    index = [sample.group for sample in dataset.samples].index("rows-p90")
    with Image.open(io.BytesIO(dataset.read_bytes(index))) as stored:
        assert stored.format == {"jpg": "JPEG", "png": "PNG"}[suffix]
        assert stored.mode == {1: "L", 3: "RGB"}[channels]
    with Image.open(path) as image:
        small = image.convert("RGB").resize((384, 256), Image.Resampling.BICUBIC)
    difference = np.abs(dataset.read_image(index).astype(int) - np.asarray(small))
    assert difference.max() <= 8 * off
    assert difference.mean() <= off / 4


def test_pixels_that_are_not_finite_are_told_whatever_their_number(place, labels):
    for number in (1, 2):
        values = np.random.default_rng(number).random((32, 32), dtype=np.float32)
        values[0, :number] = np.nan
        Image.fromarray(values).save(labels / "rows" / f"rows-p9{number}_0.tif")
    changes = {e["change"]: e for e in place.run(labels_uri=labels)["adjusted"]}
    told = changes["pixels not finite, set to the lowest value"]
    assert told["images"] == 2
    assert told["example"].endswith("rows-p91_0.tif: 1 pixel not finite, set to the lowest value")
    assert "not finite, set to the lowest value" in (place.out / "data_report.html").read_text()


def test_files_that_are_no_images_are_listed_in_the_report_up_to_a_bound(place, labels):
    for number in range(60):
        (labels / "rows" / f"notes-{number:02d}.txt").write_text("seen")
    ignored = place.run(labels_uri=labels)["ignored"]
    assert ignored["count"] == 60
    assert ignored["examples"] == [f"labels/rows/notes-{number:02d}.txt" for number in range(50)]
    page = (place.out / "data_report.html").read_text()
    assert "labels/rows/notes-49.txt" in page
    assert "The first 50 of 60." in page


def test_images_are_counted_before_their_labels_are_checked(place, tmp_path, capsys):
    for number in range(12):
        save(tmp_path / "boxes" / "images" / f"{number}.png", noise(number))
        text = "7 .5 .5 .1 .1" if number < 6 else "0 .5 .5 .1 .1"
        label = tmp_path / "boxes" / "labels" / f"{number}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text(text)
    (tmp_path / "boxes" / "data.yaml").write_text("names: [ring]")
    refusal = place.refusal(boxes_uri=tmp_path / "boxes")
    assert "6 of 12 images" in refusal
    assert f"prepare: 12 images under {tmp_path / 'boxes'}" in capsys.readouterr().out


def test_bad_files_are_listed_with_their_reasons(place, labels):
    good = (labels / "rows" / "rows-p00_0.png").read_bytes()
    (labels / "rows" / "empty.png").write_bytes(b"")
    (labels / "rows" / "short.png").write_bytes(good[: len(good) // 2])
    (labels / "rows" / "text.jpg").write_bytes(b"no image")
    (labels / "rows" / "wrong-suffix-p95_0.jpg").write_bytes(good)
    metrics = place.run(labels_uri=labels)
    reasons = {entry["name"]: entry["reason"] for entry in metrics["rejected"]}
    assert set(reasons) == {"rows/empty.png", "rows/short.png", "rows/text.jpg"}
    assert reasons["rows/empty.png"] == "the file is empty"
    names = [s.name for s in open_dataset(metrics["datasets"]["labels"]).samples]
    assert "rows/wrong-suffix-p95_0.jpg" in names
    assert len(names) == 3 * 24 * 2 + 1


def test_images_without_a_group_are_counted_of_those_in_the_set(place, labels):
    (labels / "rows" / "a-bad.png").write_bytes(b"")
    (labels / "rows" / "a-text.png").write_bytes(b"no image")
    save(labels / "rows" / "nobody.png", noise(4321))
    # The same picture with another class: neither is in the set.
    for folder in ("rows", "columns"):
        Image.new("L", (32, 32), 77).save(labels / folder / "torn.png")
    metrics = place.run(labels_uri=labels)
    images = 3 * 24 * 2 + 1
    assert (metrics["groups"]["known"], metrics["groups"]["images"]) == (images - 1, images)
    told = "1 image has no group and counts as a group alone: rows/nobody.png"
    assert told in metrics["warnings"]


def test_too_many_bad_files_fail_the_step_with_the_reasons(place, labels):
    for number in range(8):
        (labels / "rows" / f"empty-{number}.png").write_bytes(b"")
    # 8 of 152 is more than 5 %.
    refusal = place.refusal(labels_uri=labels)
    assert "8 of 152 images of labels_uri" in refusal
    assert "more than max_bad_fraction 0.05: rows/empty-0.png: the file is empty" in refusal
    tolerant = PrepareConfig(group_pattern=BY_GROUP.group_pattern, max_bad_fraction=0.06)
    assert len(place.run(tolerant, labels_uri=labels)["rejected"]) == 8


def test_picture_of_a_held_out_split_never_reaches_pretraining(place, labels, tmp_path):
    images = tmp_path / "images"
    for seed in range(30):
        save(images / f"own-p{seed:02d}_0.png", noise(1000 + seed))
    held_out = first_of(place.run(labels_uri=labels)["datasets"]["labels"], "test")
    in_train = next(
        sample.group
        for sample in open_dataset(place.run(images_uri=images)["datasets"]["images"]).samples
        if sample.split == "train"
    )
    # The very picture under another name, in another file format, among a training group's.
    with Image.open(labels / held_out.name) as picture:
        picture.save(images / f"{in_train}_1.bmp")
    metrics = place.run(images_uri=images, labels_uri=labels)
    samples = open_dataset(metrics["datasets"]["images"]).samples
    assert {s.split for s in samples if s.group == in_train} == {"test"}
    assert metrics["duplicates"]["groups_moved_out_of_pretraining"] == 1


def test_picture_in_two_splits_of_the_labelled_set_stays_in_test_alone(place, labels):
    dataset_uri = place.run(labels_uri=labels)["datasets"]["labels"]
    test, train = first_of(dataset_uri, "test"), None
    for sample in open_dataset(dataset_uri).split("train").samples:
        if sample.label == test.label:
            train = sample
    copy = Path(train.name).parent / f"{train.group}_9.png"
    shutil.copy(labels / test.name, labels / copy)
    metrics = place.run(labels_uri=labels)
    assert metrics["duplicates"]["exact_across_splits"] == 1
    assert metrics["duplicates"]["examples_exact"] == [
        [f"labels/{copy.as_posix()} (train)", f"labels/{test.name} (test)"]
    ]
    names = [sample.name for sample in open_dataset(metrics["datasets"]["labels"]).samples]
    assert test.name in names
    assert copy.as_posix() not in names


def test_picture_of_both_sets_in_different_splits_is_told(place, labels, tmp_path):
    held_out = first_of(place.run(labels_uri=labels)["datasets"]["labels"], "test")
    boxes = make_boxes(tmp_path / "boxes")
    in_train = first_of(place.run(boxes_uri=boxes)["datasets"]["boxes"], "train")
    copy = f"images/{in_train.group}_1.png"
    shutil.copy(labels / held_out.name, boxes / copy)
    duplicates = place.run(labels_uri=labels, boxes_uri=boxes)["duplicates"]
    assert duplicates["exact_between_labels_and_boxes"] == 1
    assert duplicates["examples_between_labels_and_boxes"] == [
        [f"labels/{held_out.name} (test)", f"boxes/{copy} (train)"]
    ]
    assert duplicates["exact_across_splits"] == 0
    assert (
        "1 picture in both the labels and the boxes" in (place.out / "data_report.html").read_text()
    )


def test_same_pixels_under_two_classes_are_both_rejected(place, labels):
    shutil.copy(labels / "rows" / "rows-p00_0.png", labels / "checks" / "checks-p00_9.png")
    rejected = place.run(labels_uri=labels)["rejected"]
    assert {entry["name"]: entry["reason"] for entry in rejected} == {
        "rows/rows-p00_0.png": "has the very pixels of checks/checks-p00_9.png, class checks",
        "checks/checks-p00_9.png": "has the very pixels of rows/rows-p00_0.png, class rows",
    }


def test_near_copies_in_two_splits_are_told(place, labels):
    dataset_uri = place.run(labels_uri=labels)["datasets"]["labels"]
    test, train = first_of(dataset_uri, "test"), first_of(dataset_uri, "train")
    with Image.open(labels / test.name) as picture:
        darker = np.asarray(picture).astype(int) * 9 // 10
    save(labels / Path(train.name).parent / f"{train.group}_9.png", darker)
    duplicates = place.run(labels_uri=labels)["duplicates"]
    assert duplicates["exact_across_splits"] == 0
    assert duplicates["near_across_splits"] == 1
    assert f"labels/{test.name} (test)" in duplicates["examples_near"][0]


def test_leak_of_a_random_split_is_measured(place, tmp_path):
    # Both slices of a group are alike but for noise, and groups have nothing in common:
    # a random split is solved by finding the other slice, a split by group is a coin toss.
    for group in range(120):
        class_name = "odd" if group % 2 else "even"
        base = np.random.default_rng(group).normal(128, 40, size=(32, 32))
        for number in range(4):
            jitter = np.random.default_rng([group, number]).normal(0, 10, size=(32, 32))
            path = tmp_path / "labels" / class_name / f"x-p{group:03d}_{number}.png"
            save(path, np.clip(base + jitter, 0, 255))
    metrics = place.run(PrepareConfig(group_pattern=r"(p\d+)_"), labels_uri=tmp_path / "labels")
    leak = metrics["pixel_nearest_neighbour"]
    assert leak["random_split"] > 0.95
    assert leak["this_split"] < 0.75


def test_images_alone_are_enough_for_pretraining(place, tmp_path):
    for seed in range(40):
        save(tmp_path / "images" / f"{seed // 10}" / f"{seed}.png", noise(seed))
    metrics = place.run(PrepareConfig(), images_uri=tmp_path / "images")
    assert metrics["datasets"]["labels"] == metrics["datasets"]["boxes"] == ""
    assert len(open_dataset(metrics["datasets"]["images"])) == 40
    assert "No groups are known" in metrics["warnings"][0]


def make_boxes(folder, count=30, side=64):
    for number in range(count):
        save(folder / "images" / f"b-p{number:02d}_0.png", noise(5000 + number, side))
        text = "" if number % 10 == 0 else f"{number % 2} 0.5 0.25 0.5 0.25\n"
        label = folder / "labels" / f"b-p{number:02d}_0.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text(text)
    (folder / "data.yaml").write_text("names: [glioma, pituitary]\n")
    return folder


def test_boxes_keep_their_shares_when_the_image_is_scaled(place, tmp_path):
    folder = make_boxes(tmp_path / "boxes", side=100)
    config = PrepareConfig(group_pattern=BY_GROUP.group_pattern, boxes_short_side_px=64)
    metrics = place.run(config, boxes_uri=folder)
    dataset = open_dataset(metrics["datasets"]["boxes"])
    assert len(dataset) == 30
    sizes = {(sample.width, sample.height) for sample in dataset.samples}
    assert sizes == {(64, 64)}
    boxes = {sample.name: sample.boxes for sample in dataset.samples}
    assert boxes["images/b-p00_0.png"] == ()
    [box] = boxes["images/b-p01_0.png"]
    assert (box.class_name, box.x_center, box.y_center) == ("pituitary", 0.5, 0.25)
    assert (box.width, box.height) == (0.5, 0.25)
    assert len(open_dataset(metrics["datasets"]["images"])) == 30


def test_wrong_boxes_are_named_and_their_images_left_out(place, tmp_path):
    folder = make_boxes(tmp_path / "boxes")
    (folder / "labels" / "b-p05_0.txt").write_text("1 0.9 0.5 0.5 0.5\n")
    metrics = place.run(boxes_uri=folder)
    [entry] = metrics["rejected"]
    assert entry["name"] == "images/b-p05_0.png"
    assert "reaches 0.15 of the image's side outside it" in entry["reason"]
    assert len(open_dataset(metrics["datasets"]["boxes"])) == 29


def test_table_gives_groups_and_fixed_splits(place, labels, tmp_path):
    rows = ["name,group,split"]
    for path in sorted(labels.rglob("*.png")):
        number = int(re.search(r"p(\d+)_", path.name).group(1))
        rows.append(f"{path.name},patient {number},{('train', 'val', 'test')[number % 3]}")
    rows.append("gone.png,patient 1,")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    metrics = place.run(PrepareConfig(), labels_uri=labels, table_uri=tmp_path / "table.csv")
    dataset = open_dataset(metrics["datasets"]["labels"])
    assert {sample.split for sample in dataset.samples if sample.group == "patient 4"} == {"val"}
    assert [len(dataset.split(split)) for split in SPLITS] == [48, 48, 48]
    assert metrics["warnings"] == ["1 row of the table has no image: gone.png"]


def test_one_group_in_two_splits_is_refused_before_any_image_is_read(place, labels, tmp_path):
    (labels / "rows" / "rows-p00_0.png").write_bytes(b"never read")
    table = tmp_path / "table.csv"
    table.write_text("name,group,split\nrows-p00_0,patient 1,train\nrows-p00_1,patient 1,test\n")
    refusal = place.refusal(labels_uri=labels, table_uri=table)
    assert "1 group into two splits: patient 1 (test, train)" in refusal


def test_class_that_a_split_lacks_is_refused(place, tmp_path, make_images):
    labels = make_images(tmp_path / "few", groups_per_class=3)
    assert "choose another split_seed, or give the splits in a table" in place.refusal(
        labels_uri=labels
    )


def test_class_with_too_few_images_is_refused(place, labels):
    one_of_each_split = {split_of(f"rare-p{n}", 0, 0.2, 0.15): n for n in range(100)}
    for number in one_of_each_split.values():
        save(labels / "rare" / f"rare-p{number}_0.png", noise(9000 + number))
    refusal = place.refusal(labels_uri=labels)
    assert "every class needs at least 5 readable images, but rare has 3" in refusal


def test_finished_result_is_refused_before_the_work(place, labels):
    place.run(labels_uri=labels)
    place.runs = 0
    with pytest.raises(UserError, match="already holds a finished result"):
        place.run(labels_uri=labels)


def test_no_folder_at_all_is_refused_by_the_settings():
    with pytest.raises(SettingsError, match="give at least one of images_uri, labels_uri"):
        PrepareUris.from_values({"store_uri": "s", "out_uri": "o"})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"group_pattern": "patient"}, "needs exactly one pair of capturing parentheses, got 0"),
        ({"group_pattern": "(a)(b)"}, "got 2; write"),
        ({"group_pattern": "(a"}, "is no regular expression"),
        ({"test_fraction": 0.6, "val_fraction": 0.4}, "leave nothing for training"),
        ({"max_bad_fraction": 1.5}, "max_bad_fraction"),
    ],
)
def test_impossible_settings_are_refused(values, reason):
    with pytest.raises(SettingsError, match=re.escape(reason)):
        PrepareConfig.from_values(values)


def test_every_preset_is_valid():
    for preset in ("seed", "paper", "mri", "demo"):
        assert PrepareConfig.from_values({"preset": preset}).split_seed == 0


class Links(HTMLParser):
    """Collects every address that a page would load."""

    def __init__(self):
        super().__init__()
        self.loaded = []

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for name, value in attrs if name in ("src", "href")]


def test_data_report_is_one_page_with_everything_in_it(place, labels, tmp_path):
    (labels / "rows" / "<b>bold.png").write_bytes(b"")
    place.run(labels_uri=labels, boxes_uri=make_boxes(tmp_path / "boxes"))
    page = (place.out / "data_report.html").read_text()
    links = Links()
    links.feed(page)
    assert links.loaded
    assert all(link.startswith("data:image/jpeg;base64,") for link in links.loaded)
    assert "labels/rows/&lt;b&gt;bold.png" in page
    assert "<b>bold" not in page
    assert "the file is empty" in page
    assert 'style="left:25.00%;top:12.50%;width:50.00%;height:25.00%' in page


def test_command_line_ends_with_2_and_one_line_for_a_missing_folder(tmp_path, capsys):
    code = main(
        [
            "prepare",
            f"--labels-uri={tmp_path}/none",
            f"--store-uri={tmp_path}/s",
            f"--out-uri={tmp_path}/o",
        ]
    )
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert error.startswith("sightline prepare: labels_uri")
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_the_same_when_read_from_memory_or_disk(place, labels):
    dataset = open_dataset(place.run(labels_uri=labels)["datasets"]["labels"])
    with Image.open(io.BytesIO(dataset.read_bytes(0))) as picture:
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), dataset.read_image(0))

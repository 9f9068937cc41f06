"""YOLO labels: what spoils a number is refused, what can be mended is mended and told."""

from __future__ import annotations

import pytest

from sightline.data import Box
from sightline.errors import UserError
from sightline.prepare.packing import read_stored_boxes
from sightline.prepare.yolo_labels import find_boxes, read_boxes

NAMES = "names: [glioma, pituitary]\n"


def make(folder, labels, yaml=NAMES):
    """Write a data set: label text by image name, None for no label file."""
    if yaml is not None:
        (folder / "data.yaml").write_text(yaml)
    for name, text in labels.items():
        for kind, content, suffix in (("images", "", "png"), ("labels", text, "txt")):
            path = folder / kind / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is not None:
                path.write_text(content)
    return str(folder)


def boxes_of(catalogue):
    rows = catalogue.rows("SELECT key, boxes FROM files WHERE rejected IS NULL ORDER BY id")
    return {key: read_stored_boxes(boxes) for key, boxes in rows}


def rejected(catalogue):
    return dict(catalogue.rows("SELECT name, reason FROM rejected"))


@pytest.fixture
def find_all(catalogue):
    """Return a function that finds and reads the boxes of a folder."""

    def find_and_read(uri, overhang=0.02):
        findings = find_boxes(uri, catalogue)
        read_boxes(findings, catalogue, overhang)
        return findings

    return find_and_read


@pytest.fixture
def find(tmp_path, catalogue, find_all):
    """Return a function that gives the boxes of one label file, or why its image was rejected."""

    def find_one(text, overhang=0.02):
        findings = find_all(make(tmp_path, {"fine": "0 0.5 0.5 0.5 0.5", "x": text}), overhang)
        why = rejected(catalogue).get("images/x.png")
        return why or boxes_of(catalogue)["images/x.png"], findings.warnings

    return find_one


def test_boxes_are_read_with_their_class_names(find):
    boxes, warnings = find("1 0.5 0.25 0.2 0.1\n\n0 0.1 0.9 0.2 0.2\n")
    assert boxes == (Box("pituitary", 0.5, 0.25, 0.2, 0.1), Box("glioma", 0.1, 0.9, 0.2, 0.2))
    assert warnings == []


def test_splits_come_from_either_of_the_two_usual_layouts(tmp_path, find_all, catalogue):
    uri = make(tmp_path, {"train/a": "0 .5 .5 .1 .1", "val/b": "", "test/c": "", "d": ""})
    for name, split in (("e", "train"), ("f", "valid")):
        for kind, suffix in (("images", "png"), ("labels", "txt")):
            (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / split / kind / f"{name}.{suffix}").write_text("")
    found = find_all(uri)
    names = "SELECT own_name, folder_split FROM files"
    assert dict(catalogue.rows(names)) == {
        **{"a.png": "train", "b.png": "val", "c.png": "test", "d.png": None},
        **{"e.png": "train", "f.png": "val"},
    }
    assert found.warnings == []
    assert boxes_of(catalogue)["images/train/a.png"] == (Box("glioma", 0.5, 0.5, 0.1, 0.1),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 0.5 0.5 0 0.1", "a box of no size, 0 x 0.1"),
        ("0 0.5 0.5 0.1 -0.1", "a box of no size"),
        ("2 0.5 0.5 0.1 0.1", "class 2 is unknown, data.yaml names 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 is unknown"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 is unknown"),
        ("glioma 0.5 0.5 0.1 0.1", "needs numbers, got 'glioma 0.5 0.5 0.1 0.1'"),
        ("0 0.5 0.5 0.1", "needs 5 numbers (class, centre x, y, width, height), got 4"),
        ("0 0.5 0.5 0.1 0.1 0.9", "needs 5 numbers"),
        ("0 nan 0.5 0.1 0.1", "needs finite numbers"),
        ("0 0.9 0.5 0.4 0.1", "reaches 0.1 of the image's side outside it"),
        ("0 250 130 40 60", "coordinates are shares of width and height, 0 to 1"),
    ],
)
def test_wrong_line_rejects_its_image_with_file_line_and_reason(text, reason, find):
    rejected, _ = find(f"0 0.5 0.5 0.1 0.1\n{text}\n")
    assert rejected.startswith("labels/x.txt line 2: ")
    assert reason in rejected


def test_box_a_little_outside_is_clipped_and_told(find):
    (box,), warnings = find("0 0.95 0.5 0.12 0.2")
    # From 0.89 to 1.01: clipped to 0.89 to 1, centre 0.945, width 0.11.
    assert (box.x_center, box.width) == (pytest.approx(0.945), pytest.approx(0.11))
    assert warnings == ["1 box clipped, for reaching outside the image: labels/x.txt line 1"]


def test_rounded_box_at_the_edge_is_clipped_without_a_word(find):
    (box,), warnings = find("0 0.9500004 0.5 0.1 0.2", overhang=0)
    assert box.x_center + box.width / 2 == pytest.approx(1, abs=1e-8)
    assert warnings == []


def test_polygon_becomes_its_bounding_box_and_is_told(find):
    (box,), warnings = find("1 0.2 0.3 0.6 0.3 0.4 0.7")
    assert box.class_name == "pituitary"
    numbers = (box.x_center, box.y_center, box.width, box.height)
    assert numbers == pytest.approx((0.4, 0.5, 0.4, 0.4))
    assert warnings == ["1 polygon read as bounding box: labels/x.txt line 1"]


def test_box_given_twice_counts_once(find):
    boxes, warnings = find("0 .5 .5 .1 .1\n0 .5 .5 .1 .1\n")
    assert len(boxes) == 1
    assert warnings == ["1 box given twice and counted once: labels/x.txt line 2"]


def test_image_without_a_label_file_is_background_and_told(tmp_path, find_all, catalogue):
    found = find_all(make(tmp_path, {"a": "0 .5 .5 .1 .1", "b": None, "c": ""}))
    assert boxes_of(catalogue)["images/b.png"] == boxes_of(catalogue)["images/c.png"] == ()
    assert found.warnings == ["1 image has no label file and counts as background: images/b.png"]


def test_label_file_without_an_image_is_told(tmp_path, find_all):
    uri = make(tmp_path, {"a": "0 .5 .5 .1 .1"})
    for name in ("lost", "classes"):
        (tmp_path / "labels" / f"{name}.txt").write_text("0 .5 .5 .1 .1")
    assert find_all(uri).warnings == ["1 label file has no image: labels/lost.txt"]


def test_no_label_file_at_all_is_refused(tmp_path, find_all):
    with pytest.raises(UserError, match=r"the boxes of images/a.png belong in labels/a.txt"):
        find_all(make(tmp_path, {"a": None}))


def test_names_may_be_a_numbered_mapping(tmp_path, find_all, catalogue):
    uri = make(tmp_path, {"a": "1 .5 .5 .1 .1"}, yaml="nc: 2\nnames:\n  1: b\n  0: a\n")
    found = find_all(uri)
    assert found.classes == ("a", "b")
    [(box,)] = boxes_of(catalogue).values()
    assert box.class_name == "b"


@pytest.mark.parametrize(
    ("yaml", "reason"),
    [
        (None, "needs a data.yaml with the class names, got none: write"),
        ("train: images", "needs `names`, a list of class names, got None"),
        ("names: []", "needs `names`"),
        ("- a", "needs `names`"),
        ("names: {0: a, 2: b}", "needs names numbered 0 to 1"),
        ("names: [a, a]", "names a class twice"),
        ("nc: 3\nnames: [a, b]", "says nc: 3 and names 2 classes"),
        ("names: [a, b", "is no YAML"),
        ("names: !!python/object/apply:os.getcwd []", "needs `names`"),
    ],
)
def test_wrong_data_yaml_is_refused(tmp_path, yaml, reason, find_all):
    with pytest.raises(UserError) as caught:
        find_all(make(tmp_path, {"a": ""}, yaml=yaml))
    assert reason in str(caught.value)


def test_image_outside_the_images_folder_is_rejected(tmp_path, find_all, catalogue):
    uri = make(tmp_path, {"a": "0 .5 .5 .1 .1"})
    (tmp_path / "b.png").write_bytes(b"")
    find_all(uri)
    assert rejected(catalogue) == {"b.png": "lies in no images folder"}


def test_many_mended_boxes_are_one_sentence(tmp_path, find_all):
    labels = {f"{number:02d}": "0 0.95 0.5 0.12 0.2" for number in range(40)}
    [warning] = find_all(make(tmp_path, labels)).warnings
    assert warning.startswith("40 boxes clipped, for reaching outside the image: labels/00.txt")


def test_boxes_with_key_points_are_read_as_boxes(tmp_path, find_all, catalogue):
    labels = {
        "a": "0 0.3 0.3 0.2 0.2 0.9 0.9 0.8 0.1\n1 0.5 0.5 0.2 0.2\n",
        "b": "0 0.1 0.1 0.2 0.2 1 1",
    }
    found = find_all(make(tmp_path, labels, NAMES + "kpt_shape: [2, 2]\n"))
    assert boxes_of(catalogue)["images/a.png"] == (
        Box("glioma", 0.3, 0.3, 0.2, 0.2),
        Box("pituitary", 0.5, 0.5, 0.2, 0.2),
    )
    assert "and 4 of key points as data.yaml says, got 7" in rejected(catalogue)["images/b.png"]
    assert "1 box read without the key points behind it: labels/a.txt line 1" in found.warnings


def test_class_names_are_the_texts_that_stand_there(tmp_path, find_all, catalogue):
    found = find_all(make(tmp_path, {"a": "0 0.5 0.5 0.2 0.2\n"}, "names: {0: no, 1: yes}\n"))
    assert found.classes == ("no", "yes")
    assert boxes_of(catalogue)["images/a.png"][0].class_name == "no"

"""The data report tells what the metrics hold, in words, bars and pictures, on one page."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from sightline.data.samples import Box
from sightline.prepare.config import PrepareConfig
from sightline.prepare.data_report import ShownPair, ShownPicture, ShownSet, write_report


def encode(value, side=40, format_="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side), value, dtype=np.uint8)).save(buffer, format_)
    return buffer.getvalue()


def show(name="rows/a.png", split="train", value=90, **others):
    return ShownPicture(name, "p01", split, encode(value), **others)


def counts_of(train, val, test):
    splits = {"train": train, "val": val, "test": test}
    return {
        "images": sum(sum(classes.values()) for classes in splits.values()),
        **{
            split: {"images": sum(classes.values()), "groups": 3, "classes": classes}
            for split, classes in splits.items()
        },
    }


@pytest.fixture
def metrics():
    return {
        "datasets": {"labels": "s3://store/aa", "boxes": "s3://store/bb"},
        "counts": {
            "labels": counts_of({"checks": 60, "rows": 20}, {"checks": 8}, {"checks": 1, "rows": 1})
        },
        "classes": {"labels": ["checks", "rows"]},
        "groups": {
            "source": "the table",
            "known": True,
            "images": 90,
            "count": 45,
            "in_several_splits": 0,
            "in_several_splits_of_a_set": 0,
            "patients_in_several_splits": 0,
        },
        "duplicates": {
            "exact_same_split": 3,
            "exact_across_splits": 1,
            "exact_between_labels_and_boxes": 0,
            "near_across_splits": 0,
            "near_images": 0,
            "near_complete": True,
            "groups_moved_out_of_pretraining": 0,
            "examples_exact": [["labels/a.png (train)", "labels/b.png (test)"]],
            "examples_between_labels_and_boxes": [],
            "examples_near": [],
        },
        "pixel_nearest_neighbour": {
            "random_split": 0.938,
            "random_split_interval": [0.921, 0.955],
            "this_split": 0.702,
            "this_split_interval": [0.6604, 0.7441],
            "images": 90,
            "of": 90,
        },
        "adjusted": [],
        "rejected": [],
        "ignored": {"count": 0, "examples": []},
        "warnings": [],
    }


@pytest.fixture
def render(metrics, tmp_path):
    """Returns the page's source for the metrics as they are when it is called."""

    def page(sets=None, pairs=()):
        sets = sets or [ShownSet("labels", background=0, samples=[])]
        write_report(tmp_path / "page.html", metrics, sets, pairs, PrepareConfig())
        return (tmp_path / "page.html").read_text(encoding="utf-8")

    return page


def in_words(page):
    """Return the page without its style and tags, in one line."""
    body = page.partition("<body>")[2]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def pictures_of(page):
    """Return the mean gray value of each picture on the page, in order."""
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [
        float(np.mean(np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))))
        for source in sources
    ]


def test_class_balance_of_each_split_is_a_bar_of_shares(render):
    page = render()
    bars = re.findall(r'title="(\w+): ([\d.]+) % of (\w+)"', page)
    assert bars == [
        ("checks", "75.0", "train"),
        ("rows", "25.0", "train"),
        ("checks", "100.0", "val"),
        ("checks", "50.0", "test"),
        ("rows", "50.0", "test"),
    ]
    assert re.findall(r"flex:([\d.]+) 0 0;background:#", page) == ["0.75", "0.25", "1.0"] + 2 * [
        "0.5"
    ]
    assert "checks 60 8 1 69" in in_words(page)


def test_groups_in_one_split_only_are_told_as_checked(render, metrics):
    assert "Checked: none of 45 groups has images in more than one split." in in_words(render())
    metrics["groups"]["in_several_splits"] = 2
    words = in_words(render())
    assert "All images of a group (patient) are in one split of each set." in words
    assert "Of 2 groups the unlabelled images are in a later split" in words
    metrics["groups"]["in_several_splits_of_a_set"] = 2
    words = in_words(render())
    assert "2 groups with images in more than one split of a set." in words
    metrics["groups"]["patients_in_several_splits"] = 3
    assert "3 patients of the DICOM files with images in more than one split" in in_words(render())
    assert "Checked" not in words


def test_leak_is_told_in_points_and_drawn_to_scale(render):
    page = render()
    assert "23.6 points are what a split that ignores groups gives away for free" in in_words(page)
    assert re.findall(r"flex:([\d.]+) 0 0;background:var", page) == ["0.938", "0.702"]
    assert 'aria-label="drawn image by image: 93.8 % right"' in page
    assert "93.8 % 92.1–95.5" in in_words(page)
    assert "70.2 % 66.0–74.4" in in_words(page)
    assert "Measured on" not in page


def test_share_of_one_group_alone_has_no_interval(render, metrics):
    metrics["pixel_nearest_neighbour"].update(random_split_interval=None, this_split_interval=None)
    page = render()
    assert ">70.2 %<" in page
    assert "95 % interval" not in page


def test_small_difference_is_not_called_a_leak(render, metrics):
    metrics["pixel_nearest_neighbour"].update(random_split=0.72)
    words = in_words(render())
    assert "A random split gains 1.8 points, which is little" in words
    assert "for free" not in words


def test_without_groups_nothing_is_told_as_checked(render, metrics):
    metrics["groups"].update(known=0, source="none: every image counts as its own group")
    words = in_words(render())
    assert "nothing keeps the images of one patient together" in words
    assert "Checked" not in words
    assert "All images of a group" not in words


def test_without_groups_both_numbers_may_hold_the_leak(render, metrics):
    metrics["groups"].update(known=0)
    metrics["pixel_nearest_neighbour"].update(random_split=0.72)
    words = in_words(render())
    assert "both numbers hold the leak" in words
    assert "which is little" not in words


def test_folders_that_keep_patients_together_are_not_called_a_random_split(render, metrics):
    metrics["groups"].update(known=0)
    words = in_words(render())
    assert "23.6 points lie between them although no groups are known" in words
    assert "both numbers hold the leak" not in words


def test_leak_of_a_part_of_the_set_says_so_and_none_leaves_it_out(render, metrics):
    metrics["pixel_nearest_neighbour"].update(images=20_000, of=123_456)
    assert "Measured on 20,000 of 123,456 labelled images: whole groups" in in_words(render())
    metrics["pixel_nearest_neighbour"] = None
    assert "What a random split would leak" not in render()


def test_near_copies_are_shown_side_by_side(render, metrics):
    metrics["duplicates"].update(
        near_across_splits=7,
        near_images=4,
        examples_near=[["labels/rows/x.png (train)", "labels/rows/y.png (test)"]],
    )
    pair = ShownPair(
        show("labels/rows/x.png", "train", 60), show("labels/rows/y.png", "test", 200), 0.99132
    )
    page = render(pairs=[pair])
    words = in_words(page)
    assert "Near copies: 7 pairs across splits that look almost the same" in words
    assert "4 held-out images with such a copy in an earlier split" in words
    assert "train · x.png test · y.png correlation 0.9913" in words
    assert pictures_of(page) == pytest.approx([60, 200], abs=1)
    assert "The search for near copies was complete" in words


def test_search_that_was_cut_short_says_so_and_counts_at_least(render, metrics):
    metrics["duplicates"].update(near_across_splits=7, near_images=4, near_complete=False)
    words = in_words(render())
    assert "Near copies: at least 7 pairs" in words
    assert "was not complete: some images have more than 1,000 lookalikes" in words
    assert "was complete" not in words
    metrics["duplicates"].update(near_across_splits=0)
    assert "no pair was found across splits" in in_words(render())


def test_exact_copies_are_counted_by_their_hash(render):
    words = in_words(render())
    assert "by a hash of their pixels: 3 inside a split (kept), 1 across splits" in words
    assert "labels/a.png (train) labels/b.png (test)" in words


def test_adjusted_images_are_listed_with_an_example(render, metrics):
    metrics["adjusted"] = [
        {"change": "DICOM, window from its tags", "images": 1200, "example": "labels/x.dcm: DICOM"}
    ]
    assert "DICOM, window from its tags 1,200 labels/x.dcm: DICOM" in in_words(render())


@pytest.mark.parametrize(
    ("listed", "total", "told"),
    [
        (3, None, None),
        (250, None, "The first 200 of 250; metrics.json has all."),
        (1000, 5000, "The first 200 of 5,000; metrics.json has the first 1,000."),
    ],
)
def test_rejected_files_are_listed_with_reasons_up_to_a_bound(render, metrics, listed, total, told):
    metrics["rejected"] = [
        {"set": "labels", "name": f"rows/{number}.png", "reason": "the file is <empty>"}
        for number in range(listed)
    ]
    if total:
        metrics["rejected_count"] = total
    page = render()
    assert page.count("the file is &lt;empty&gt;") == min(200, listed)
    assert "<empty>" not in page
    assert f"{total or listed:,} rejected" in in_words(page)
    assert told is None or told in in_words(page)


def test_boxes_are_drawn_over_their_picture_in_the_colour_of_their_class(render, metrics):
    metrics["counts"]["boxes"] = counts_of({"tumour": 4}, {"tumour": 1}, {"tumour": 1})
    metrics["classes"]["boxes"] = ["tumour"]
    picture = show(boxes=(Box("tumour", 0.5, 0.25, 0.5, 0.25),))
    shown = ShownSet("boxes", 2, [("tumour", [picture]), ("background", [show(value=5)])])
    page = render([shown])
    assert "left:25.00%;top:12.50%;width:50.00%;height:25.00%;border-color:#66ccee" in page
    assert "2 images without any box: background" in in_words(page)
    assert pictures_of(page) == pytest.approx([90, 5], abs=1)


def test_pictures_are_made_small(render):
    large = ShownPicture("a.png", "p", "train", encode(9, side=900, format_="JPEG"))
    page = render([ShownSet("labels", 0, [("rows", [large])])])
    assert 'width="168" height="168"' in page
    assert len(page) < 40_000


def test_set_without_classes_has_no_balance(render, metrics):
    metrics["datasets"]["images"] = "s3://store/cc"
    metrics["counts"]["images"] = counts_of({}, {}, {})
    page = render([ShownSet("images", 0, [("", [show()])])])
    assert "Unlabelled images, for pretraining" in page
    assert "class balance" not in page

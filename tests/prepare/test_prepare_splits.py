"""Groups and splits: one group, one split, and the same one for ever."""

from __future__ import annotations

from collections import Counter

import pytest

from sightline.errors import UserError
from sightline.prepare.catalogue import Catalogue, ListedFile
from sightline.prepare.splits import (
    assign_splits,
    describe_grouping,
    group_files,
    require_every_split,
    split_of,
)

FRACTIONS = {"test_fraction": 0.2, "val_fraction": 0.15}


def files(kind, *paths):
    listed = []
    for path in paths:
        split, _, name = path.partition(":") if ":" in path else (None, "", path)
        listed.append(ListedFile(kind, path, own_name=name, folder_split=split))
    return listed


@pytest.fixture
def decide(tmp_path):
    """Return a function that groups files, and returns the grouping and the splits by group."""
    runs = iter(range(100))

    def decide_all(listed, rows=None, pattern="", seed=0):
        folder = tmp_path / str(next(runs))
        folder.mkdir()
        with Catalogue(folder) as catalogue:
            catalogue.add_files(listed)
            catalogue.execute_many(
                "UPDATE files SET table_group = ?, table_split = ? WHERE key = ?",
                [(group, split, key) for key, (group, split) in (rows or {}).items()],
            )
            group_files(catalogue, pattern)
            assign_splits(catalogue, seed=seed, **FRACTIONS)
            for file, kind, name in list(catalogue.rows("SELECT id, kind, key FROM files")):
                picture = {"file": file, "frame": 0, "kind": kind, "name": name}
                catalogue.add_picture(picture, bytes(1024))
            grouping = describe_grouping(catalogue)
            groups = catalogue.values("SELECT group_name FROM files ORDER BY id")
            return grouping, groups, dict(catalogue.rows("SELECT name, split FROM groups"))

    return decide_all


@pytest.fixture
def splits_of(decide):
    """Return a function that returns the split of every group."""
    return lambda *arguments, **settings: decide(*arguments, **settings)[2]


def test_shares_of_many_groups_are_near_the_fractions():
    drawn = [split_of(f"patient {number}", 0, **FRACTIONS) for number in range(20_000)]
    # Three standard errors of a share of 20,000 draws are at most 0.0085.
    assert drawn.count("test") / 20_000 == pytest.approx(0.2, abs=0.0085)
    assert drawn.count("val") / 20_000 == pytest.approx(0.15, abs=0.0085)


def test_new_groups_never_move_an_old_one(splits_of):
    old = [f"{number}.png" for number in range(200)]
    before = splits_of(files("labels", *old))
    after = splits_of(files("labels", *old, *(f"new-{n}.png" for n in range(500))))
    assert {name: after[name] for name in before} == before


def test_images_with_the_names_of_old_ones_never_move_an_old_one(splits_of):
    old = [f"train:ring/{number}.png" for number in range(200)]
    before = splits_of(files("labels", *old, "test:arc/x.png"))
    assert {before[name] for name in old} == {"train", "val"}
    namesakes = [f"test:ring/{number}.png" for number in range(200)]
    after = splits_of(files("labels", *old, "test:arc/x.png", *namesakes))
    assert {name: after[name] for name in before} == before


def test_val_folder_that_is_added_returns_the_drawn_validation_groups_to_training(splits_of):
    train = [f"train:{number}.png" for number in range(200)]
    without_val = splits_of(files("labels", *train, "test:x.png"))
    assert {without_val[name] for name in train} == {"train", "val"}
    with_val = splits_of(files("labels", *train, "test:x.png", "val:y.png"))
    assert {with_val[name] for name in train} == {"train"}


def test_another_seed_gives_another_split(splits_of):
    names = [f"{number}.png" for number in range(200)]
    assert splits_of(files("labels", *names)) != splits_of(files("labels", *names), seed=1)


def test_group_has_one_split_in_all_folders(splits_of):
    names = [f"p{number:03d}_{part}.png" for number in range(100) for part in "abc"]
    listed = files("images", *names[::3]) + files("labels", *names[1::3])
    splits = splits_of(listed, pattern=r"(p\d+)_")
    assert splits == {f"p{n:03d}": split_of(f"p{n:03d}", 0, **FRACTIONS) for n in range(100)}


def test_val_is_drawn_from_train_where_folders_hold_only_train_and_test(splits_of):
    train = [f"train:{number}.png" for number in range(2000)]
    splits = splits_of(files("labels", *train, "test:x.png", "test:y.png"))
    assert splits["test:x.png"] == splits["test:y.png"] == "test"
    drawn = [splits[name] for name in train]
    assert "test" not in drawn
    # Three standard errors of a share of 2,000 draws: 0.024.
    assert drawn.count("val") / 2000 == pytest.approx(0.15, abs=0.024)


def test_test_is_drawn_from_train_where_folders_hold_only_train_and_val(splits_of):
    train = [f"train:{number}.png" for number in range(2000)]
    splits = splits_of(files("labels", *train, "val:x.png"))
    drawn = [splits[name] for name in train]
    assert "val" not in drawn
    assert drawn.count("test") / 2000 == pytest.approx(0.2, abs=0.027)


def test_val_folder_of_one_set_decides_what_train_leaves_open_in_another(splits_of):
    labels = files("labels", "train:a.png", "test:z.png")
    boxes = files("boxes", "val:a.png", "train:b.png", "test:c.png")
    assert splits_of(labels + boxes, pattern=r"(\w)\.png")["a"] == "val"


def test_images_that_share_a_name_in_two_split_folders_are_two_groups(splits_of):
    splits = splits_of(files("labels", "train:1.png", "val:1.png", "test:1.png"))
    assert splits == {"train:1.png": "train", "val:1.png": "val", "test:1.png": "test"}


def test_folders_that_tear_a_group_apart_are_refused_by_name(splits_of):
    found = files("labels", "train:p1_a.png", "test:p1_b.png", "val:p2_a.png")
    with pytest.raises(UserError, match=r"folders put 1 group into two splits: p1 \(test, train\)"):
        splits_of(found, pattern=r"(p\d)")


def test_table_that_tears_a_group_apart_is_refused_by_name(splits_of):
    rows = {"a": ("p1", "train"), "b": ("p1", "test")}
    with pytest.raises(
        UserError, match=r"table puts 1 group into two splits: p1 .*: correct the table$"
    ):
        splits_of(files("labels", "a", "b"), rows)


def test_split_of_the_table_wins_over_folders_for_its_whole_group(splits_of):
    rows = {"train:a": ("p1", "test"), "train:b": ("p1", "")}
    splits = splits_of(files("labels", "train:a", "train:b", "test:c"), rows)
    assert splits == {"p1": "test", "test:c": "test"}


def test_group_of_the_table_wins_over_the_pattern_and_the_pattern_over_the_name(decide):
    listed = files("labels", "p1_a", "p2_a", "other")
    grouping, groups, _ = decide(listed, {"p1_a": ("patient 7", "")}, r"(p\d)")
    assert groups == ["patient 7", "p2", "other"]
    assert grouping.known == 2
    assert grouping.warnings == ("1 image has no group and counts as a group alone: other",)


def test_unknown_groups_are_told_loudly(decide):
    grouping, _, _ = decide(files("labels", "a", "b"))
    assert "slices of one patient may be in two splits" in grouping.warnings[0]


def test_class_that_a_split_lacks_is_refused_with_the_ways_out():
    pairs = [("train", "a"), ("train", "b"), ("val", "a"), ("val", "b"), ("test", "a")]
    with pytest.raises(UserError) as caught:
        require_every_split("labels", ["a", "b"], Counter(pairs))
    assert str(caught.value) == (
        "labels: test has no b (5 images: 2 train, 2 val, 1 test): add groups, raise "
        "test_fraction or val_fraction, choose another split_seed, or give the splits in a table"
    )


def test_empty_split_is_refused_but_unlabelled_images_need_only_train():
    with pytest.raises(UserError, match="boxes: val is empty; test is empty"):
        require_every_split("boxes", [], Counter([("train", None)]))
    require_every_split("images", [], Counter([("train", None)]))
    with pytest.raises(UserError, match="images: train is empty"):
        require_every_split("images", [], Counter([("test", None)]))

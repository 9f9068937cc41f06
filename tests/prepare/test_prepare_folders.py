"""Folders as users have them: read as meant, or refused with what to do."""

from __future__ import annotations

import pytest

from sightline.errors import UserError
from sightline.prepare.folders import count_files, find_class_folders, find_images
from sightline.prepare.nameless import without_suffix
from sightline.storage import Entry
from sightline.storage.local import LocalStorage


def listed(catalogue, columns):
    return list(catalogue.rows(f"SELECT {columns} FROM files WHERE rejected IS NULL ORDER BY id"))


def rejected(catalogue):
    return dict(catalogue.rows("SELECT name, reason FROM rejected ORDER BY file"))


def touch(folder, *keys):
    for key in keys:
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return str(folder)


def test_folder_right_below_the_data_set_is_the_class(tmp_path, catalogue):
    uri = touch(tmp_path, "ring/a.png", "solid/b.JPG", "solid/c.tiff")
    found = find_class_folders(uri, catalogue)
    assert found.classes == ("ring", "solid")
    assert listed(catalogue, "key, label, folder_split") == [
        ("ring/a.png", "ring", None),
        ("solid/b.JPG", "solid", None),
        ("solid/c.tiff", "solid", None),
    ]


def test_split_folders_are_read_under_their_usual_names(tmp_path, catalogue):
    names = ["train", "Training", "valid", "val", "validation", "test", "Testing"]
    keys = [f"{name}/{label}/{name}.png" for name in names for label in ("ring", "solid")]
    found = find_class_folders(touch(tmp_path, *keys), catalogue)
    assert found.classes == ("ring", "solid")
    splits = {key.split("/")[0]: split for key, split in listed(catalogue, "key, folder_split")}
    assert splits == {
        **{"train": "train", "Training": "train"},
        **{"valid": "val", "val": "val", "validation": "val"},
        **{"test": "test", "Testing": "test"},
    }
    names = {name for name, split in listed(catalogue, "own_name, folder_split") if split == "test"}
    assert names == {"ring/test.png", "solid/test.png", "ring/Testing.png", "solid/Testing.png"}


def test_deeper_folders_belong_to_their_class_and_are_told(tmp_path, catalogue):
    found = find_class_folders(touch(tmp_path, "ring/p1/a.png", "solid/b.png"), catalogue)
    assert listed(catalogue, "label") == [("ring",), ("solid",)]
    assert "1 labelled image lies in folders below the class folder" in found.warnings[0]


def test_one_wrapping_folder_is_refused_with_the_folder_that_was_meant(tmp_path, catalogue):
    uri = touch(tmp_path, "archive/ring/a.png", "archive/solid/b.png")
    with pytest.raises(UserError) as caught:
        find_class_folders(uri, catalogue)
    assert f"needs at least 2 class folders, got 1 (archive): did you mean {uri}/archive" in str(
        caught.value
    )


def test_one_class_is_refused(tmp_path, catalogue):
    with pytest.raises(UserError, match=r"needs at least 2 class folders, got 1 \(ring\)"):
        find_class_folders(touch(tmp_path, "ring/a.png"), catalogue)


def test_class_folders_beside_split_folders_are_refused(tmp_path, catalogue):
    uri = touch(tmp_path, "train/ring/a.png", "train/solid/b.png", "extra/c.png")
    with pytest.raises(
        UserError, match=r"split folders .* and beside them extra: move every class"
    ):
        find_class_folders(uri, catalogue)


def test_image_outside_every_class_folder_is_rejected_by_name(tmp_path, catalogue):
    uri = touch(tmp_path, "ring/a.png", "solid/b.png", "loose.png")
    find_class_folders(uri, catalogue)
    assert rejected(catalogue) == {"loose.png": "lies in no class folder"}


def test_loose_images_alone_are_no_class_folders(tmp_path, catalogue):
    with pytest.raises(
        UserError, match=r"needs class folders such as .* give the folder as images"
    ):
        find_class_folders(touch(tmp_path, "a.png", "b.png"), catalogue)


def test_missing_folder_is_told(tmp_path, catalogue):
    with pytest.raises(UserError, match="got no file at all: check that the folder exists"):
        find_images(str(tmp_path / "none"), catalogue)


def test_folder_without_images_says_what_it_holds(tmp_path, catalogue):
    uri = touch(tmp_path, "a.mp4", "b.mp4", "c.docx")
    with pytest.raises(UserError, match=r"none: it holds 2 x .mp4, 1 x .docx; PNG, JPEG"):
        find_images(uri, catalogue)


def test_hidden_and_strange_files_are_passed_over_and_told(tmp_path, catalogue):
    uri = touch(tmp_path, "a.png", ".DS_Store", "__MACOSX/._a.png", ".cache/b.png", "notes.docx")
    found = find_images(uri, catalogue)
    assert listed(catalogue, "key") == [("a.png",)]
    assert found.warnings == [
        "1 hidden image was left alone, such as .cache/b.png: rename what begins with a dot to "
        "have it read",
        "files that are no images were left alone: 1 x .docx",
    ]


def test_folder_of_hidden_images_says_so(tmp_path, catalogue):
    with pytest.raises(UserError, match=r"got none: it holds 2 x hidden image; PNG"):
        find_images(touch(tmp_path, ".scans/a.png", ".b.png", "._c.png"), catalogue)


def test_any_tree_of_images_is_found_under_surprising_names(tmp_path, catalogue):
    keys = ["a+b c.png", "deep/er/ünï.jpg", "x.y.z.PNG", "percent%20.png"]
    find_images(touch(tmp_path, *keys), catalogue)
    assert listed(catalogue, "key") == [(key,) for key in sorted(keys)]


def test_name_that_is_no_utf8_is_rejected_and_not_a_crash(tmp_path, catalogue):
    uri = touch(tmp_path, "a.png", "broken-\udcff.png")
    find_images(uri, catalogue)
    assert listed(catalogue, "key") == [("a.png",)]
    assert rejected(catalogue) == {"broken-\\udcff.png": "its name is not valid UTF-8: rename it"}


def test_files_that_are_no_images_are_listed(tmp_path, catalogue):
    found = find_class_folders(
        touch(tmp_path, "ring/a.png", "solid/b.png", "ring/notes.txt"), catalogue
    )
    assert found.first_ignored == ["ring/notes.txt"]
    assert count_files(catalogue, "labels") == 2


def test_link_without_a_file_is_rejected_where_it_should_be_an_image_and_else_listed(
    tmp_path, catalogue
):
    uri = touch(tmp_path, "ring/a.png", "solid/b.png")
    (tmp_path / "ring/lost.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "ring/lost").symlink_to(tmp_path / "gone")
    (tmp_path / "ring/.hidden.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "ring/kept.png").symlink_to(tmp_path / "solid/b.png")
    found = find_class_folders(uri, catalogue)
    assert rejected(catalogue) == {"ring/lost.png": "a link to a file that is not there"}
    assert found.first_ignored == ["ring/lost (a link to a file that is not there)"]
    assert count_files(catalogue, "labels") == 4


def test_no_more_than_three_files_without_a_suffix_are_looked_at_in_a_folder(
    tmp_path, catalogue, monkeypatch
):
    uri = touch(tmp_path, "a.png", *(f"notes/{number}" for number in range(9)), "b/LICENSE")
    read = []

    def note_and_read(self, key, start=0, size_bytes=None):
        read.append((key, size_bytes))
        return b"text"

    monkeypatch.setattr(LocalStorage, "read_bytes", note_and_read)
    found = find_images(uri, catalogue)
    assert listed(catalogue, "key") == [("a.png",)]
    assert found.ignored == 10
    assert read == [(key, 132) for key in ("b/LICENSE", "notes/0", "notes/1", "notes/2")]


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a/b.png", "a/b"), ("a.b/IM0001", "a.b/IM0001"), ("1.2.840.55", "1.2.840.55"), ("x.7z", "x")],
)
def test_last_part_of_a_uid_is_no_suffix(name, stem):
    assert without_suffix(name) == stem


def test_key_with_two_slashes_after_the_address_is_listed_as_rejected(
    tmp_path, catalogue, monkeypatch
):
    # Only a bucket has it: s3://bucket/in//double.png.
    keys = ["/double.png", "a/single.png", "/notes.md"]
    monkeypatch.setattr(LocalStorage, "list", lambda _self: (Entry(key, 5) for key in keys))
    find_images(str(tmp_path), catalogue)
    assert listed(catalogue, "key") == [("a/single.png",)]
    assert "two / after the address" in rejected(catalogue)["/double.png"]


def test_split_folders_below_the_classes_are_refused_and_not_ignored(tmp_path, catalogue):
    uri = touch(tmp_path, "ring/train/a.png", "ring/Test/b.png", "solid/train/c.png")
    with pytest.raises(UserError, match=r"such as ring/Test \(3 images\).* above the class, Test/"):
        find_class_folders(uri, catalogue)


def test_class_names_of_composed_and_of_combining_letters_are_one(tmp_path, catalogue):
    uri = touch(tmp_path, "train/gliom\u00e9/a.png", "test/gliome\u0301/b.png", "train/x/c.png")
    assert find_class_folders(uri, catalogue).classes == ("gliom\u00e9", "x")

"""Pictures with equal pixels under several classes, few of them and very many."""

from __future__ import annotations

from sightline.prepare.catalogue import Catalogue
from sightline.prepare.duplicates import reject_two_classes


def add_pictures(catalogue, pictures):
    catalogue.execute_many(
        "INSERT INTO pictures (file, frame, kind, name, label, pixels) "
        "VALUES (?, 0, 'labels', ?, ?, ?)",
        ((file, f"{file}.png", *picture) for file, picture in enumerate(pictures, start=1)),
    )


def count_work(folder, pictures):
    """Return how many thousand instructions of the database it takes to find two classes."""
    folder.mkdir()
    done = []
    with Catalogue(folder) as catalogue:
        half = pictures // 2
        add_pictures(catalogue, [("a", b"0")] * half + [("b", b"0")] * half)
        catalogue._connection.set_progress_handler(lambda: done.append(1), 1000)
        reject_two_classes(catalogue)
        assert catalogue.value("SELECT COUNT(rejected) FROM pictures") == pictures
    return len(done)


def test_each_picture_is_told_the_first_one_of_another_class(catalogue):
    add_pictures(
        catalogue,
        [("a", b"0"), ("a", b"0"), ("c", b"0"), ("b", b"0"), ("a", b"1"), ("a", b"1"), ("b", b"2")],
    )
    reject_two_classes(catalogue)
    assert catalogue.values("SELECT rejected FROM pictures ORDER BY id") == [
        "has the very pixels of 3.png, class c",
        "has the very pixels of 3.png, class c",
        "has the very pixels of 1.png, class a",
        "has the very pixels of 1.png, class a",
        *(None, None, None),
    ]


def test_work_grows_with_the_pictures_and_not_with_their_square(tmp_path):
    assert count_work(tmp_path / "many", 4000) < 6 * count_work(tmp_path / "few", 1000)

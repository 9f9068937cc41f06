"""A folder as storage: whole files or none, and never outside the folder."""

from __future__ import annotations

import pytest

from sightline.config import UserError
from sightline.storage import NotFoundError, join_uri, open_storage


@pytest.fixture
def storage(tmp_path):
    return open_storage(str(tmp_path / "store"))


def test_what_was_written_is_read_whole_and_in_part(storage):
    storage.write_bytes("a/b.bin", b"0123456789")
    assert storage.read_bytes("a/b.bin") == b"0123456789"
    assert storage.read_bytes("a/b.bin", start=3, size_bytes=4) == b"3456"


def test_failed_write_leaves_the_old_object_and_no_partial_file(storage, tmp_path):
    storage.write_bytes("kept.txt", b"old")
    with pytest.raises(TypeError):
        storage.write_bytes("kept.txt", "not bytes")
    assert storage.read_bytes("kept.txt") == b"old"
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["kept.txt"]


@pytest.mark.parametrize(
    "key", ["../outside", "a/../../outside", "/etc/passwd", "", "a/..", "a\0b"]
)
def test_key_that_leaves_the_folder_is_refused_for_every_call(storage, tmp_path, key):
    calls = [
        lambda: storage.write_bytes(key, b"x"),
        lambda: storage.read_bytes(key),
        lambda: storage.write_if_unchanged(key, b"x", expected=None),
        lambda: storage.exists(key),
        lambda: storage.delete(key),
        lambda: storage.upload(tmp_path / "source", key),
    ]
    for call in calls:
        with pytest.raises(UserError, match="would leave"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["with space.png", "plus+and%20.png", "ünï/código.png", "a.b.c"])
def test_surprising_keys_come_back_as_they_were_written(storage, key):
    storage.write_bytes(key, b"12345")
    assert [(entry.key, entry.size_bytes) for entry in storage.list()] == [(key, 5)]
    assert storage.read_bytes(key) == b"12345"


def test_list_is_in_key_order_and_filters_by_prefix(storage):
    for key in ("b/2", "a/1", "b/1", "ba"):
        storage.write_bytes(key, b"")
    assert [entry.key for entry in storage.list()] == ["a/1", "b/1", "b/2", "ba"]
    assert [entry.key for entry in storage.list("b/")] == ["b/1", "b/2"]


def test_list_follows_links_but_not_in_circles(storage, tmp_path):
    storage.write_bytes("a/x.png", b"1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "y.png").write_bytes(b"1")
    (tmp_path / "store" / "linked").symlink_to(elsewhere)
    (tmp_path / "store" / "a" / "circle").symlink_to(tmp_path / "store")
    assert [entry.key for entry in storage.list()] == ["a/x.png", "linked/y.png"]


def test_conditional_write_happens_only_over_the_expected_bytes(storage, tmp_path):
    assert storage.write_if_unchanged("pointer", b"1", expected=None)
    assert not storage.write_if_unchanged("pointer", b"2", expected=None)
    assert not storage.write_if_unchanged("pointer", b"2", expected=b"other")
    assert storage.read_bytes("pointer") == b"1"
    assert storage.write_if_unchanged("pointer", b"2", expected=b"1")
    assert storage.read_bytes("pointer") == b"2"
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["pointer"]


def test_missing_object_is_named(storage):
    with pytest.raises(NotFoundError, match=r"nothing is stored at .*/a/b"):
        storage.read_bytes("a/b")
    storage.delete("a/b")
    assert not storage.exists("a/b")
    assert list(storage.list()) == []


def test_address_of_another_kind_is_refused_with_what_is_served():
    with pytest.raises(
        UserError,
        match=r"cannot open ftp://host/x: give s3://bucket/prefix or a folder, got ftp://",
    ):
        open_storage("ftp://host/x")
    with pytest.raises(UserError, match="an address is needed"):
        open_storage("")


def test_file_address_and_path_are_the_same_place(tmp_path):
    open_storage(f"file://{tmp_path}").write_bytes("a", b"1")
    assert open_storage(str(tmp_path)).read_bytes("a") == b"1"


def test_addresses_join_with_one_slash():
    assert join_uri("/data/", "/runs/", "1") == "/data/runs/1"
    assert join_uri("s3://bucket", "a/b") == "s3://bucket/a/b"
    assert join_uri("/", "runs") == "/runs"
    assert join_uri("/") == "/"

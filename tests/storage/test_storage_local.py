"""A folder as storage: whole files or none, and never outside the folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sightline.errors import UserError
from sightline.storage import NotFoundError, UnreadableError, join_uri, open_storage


@pytest.fixture
def storage(tmp_path):
    return open_storage(str(tmp_path / "store"))


def test_what_was_written_is_read_whole_and_in_part(storage):
    storage.write_bytes("a/b.bin", b"0123456789")
    assert storage.read_bytes("a/b.bin") == b"0123456789"
    assert storage.read_bytes("a/b.bin", start=3, size_bytes=4) == b"3456"


WRITES = {
    "anew": lambda storage: storage.write_bytes("x", b"new"),
    "if unchanged": lambda storage: storage.write_if_unchanged("x", b"new", b"old"),
    "if absent": lambda storage: storage.write_if_unchanged("y", b"new", None),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("can_sync", [True, False])
def test_the_folder_is_synced_after_its_file_is_in_place(can_sync, write, storage, monkeypatch):
    storage.write_bytes("x", b"old")
    folder = storage.root.stat().st_ino
    synced = []

    def fsync(descriptor):
        if os.fstat(descriptor).st_ino == folder:
            key = "y" if write == "if absent" else "x"
            synced.append(storage.read_bytes(key))
            if not can_sync:
                raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    WRITES[write](storage)
    assert synced == [b"new"]


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
        lambda: storage.find(key),
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


def test_list_puts_a_folder_where_its_keys_belong(storage):
    # "-" and "." sort before "/", "0" after it: the order of S3 is that of whole keys.
    keys = ["a-b", "a.b", "a/-", "a/z/1", "a0", "é", "\N{CJK UNIFIED IDEOGRAPH-732B}"]
    for key in reversed(keys):
        storage.write_bytes(key, b"")
    assert [entry.key for entry in storage.list()] == sorted(keys) == keys
    assert [entry.key for entry in storage.list("a/z")] == ["a/z/1"]
    assert [entry.key for entry in storage.list("a/z/")] == ["a/z/1"]
    assert list(storage.list("a/zz")) == []


def test_list_gives_the_first_entries_before_it_has_looked_into_later_folders(storage, tmp_path):
    for key in ("a/1", "b/1", "c/1"):
        storage.write_bytes(key, b"")
    entries = storage.list()
    assert next(entries).key == "a/1"
    (tmp_path / "store" / "b" / "2").write_bytes(b"")
    assert [entry.key for entry in entries] == ["b/1", "b/2", "c/1"]


def test_entry_says_when_it_was_written(storage, tmp_path):
    storage.write_bytes("a", b"")
    os.utime(tmp_path / "store" / "a", (1e9, 1e9))
    assert next(storage.list()).modified == 1e9


def test_find_describes_one_object_as_the_list_does(storage):
    for key in ("a/1", "a/10", "b"):
        storage.write_bytes(key, b"12345")
    [listed] = [entry for entry in storage.list() if entry.key == "a/1"]
    assert storage.find("a/1") == listed
    assert [storage.find(key) for key in ("a", "a/", "b/1", "c", "a/2")] == [None] * 5


def test_download_gives_the_whole_file_or_leaves_the_old_one(storage, tmp_path):
    storage.write_bytes("a/b", b"0123456789")
    target = tmp_path / "folder" / "target"
    storage.download("a/b", target)
    with pytest.raises(NotFoundError, match=r"nothing is stored at .*/a/c"):
        storage.download("a/c", target)
    assert target.read_bytes() == b"0123456789"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_file_of_a_killed_writer_is_listed_apart_and_removed(storage, tmp_path):
    storage.write_bytes("a/kept", b"1")
    program = (
        "import os, sys; from pathlib import Path; from sightline.storage.local import replacing\n"
        "with replacing(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os._exit(9)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "store" / "a" / "torn")]
    assert subprocess.run(command, check=False).returncode == 9
    assert [entry.key for entry in storage.list()] == ["a/kept"]
    (unfinished,) = storage.list_unfinished()
    assert unfinished.key.startswith("a/.partial-")
    assert unfinished.size_bytes == 4
    storage.delete_unfinished(unfinished)
    assert list(storage.list_unfinished()) == []
    with pytest.raises(ValueError, match="does not come from list_unfinished"):
        storage.delete_unfinished(next(storage.list()))
    assert storage.exists("a/kept")


@contextlib.contextmanager
def full_disk(free_bytes):
    """Let no file grow beyond a size, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_leaves_the_old_object_and_no_partial_file(storage, tmp_path):
    storage.write_bytes("kept", b"old")
    source = tmp_path / "source"
    source.write_bytes(b"1" * 100_000)
    calls = [
        lambda: storage.write_bytes("kept", b"1" * 100_000),
        lambda: storage.write_if_unchanged("kept", b"1" * 100_000, expected=b"old"),
        lambda: storage.upload(source, "kept"),
        lambda: open_storage(str(tmp_path)).download("source", tmp_path / "store" / "kept"),
    ]
    for call in calls:
        with (
            full_disk(50_000),
            pytest.raises(UserError, match=r"cannot write .*/kept: File too la"),
        ):
            call()
        assert storage.read_bytes("kept") == b"old"
        assert [path.name for path in (tmp_path / "store").iterdir()] == ["kept"]
    storage.write_bytes("kept", b"new")
    assert storage.read_bytes("kept") == b"new"


def test_target_below_a_file_is_told_before_the_work_and_nothing_is_made(tmp_path):
    (tmp_path / "file").write_text("1")
    with pytest.raises(UserError, match=r"cannot write below .*/file/out"):
        open_storage(str(tmp_path / "file" / "out")).require_writable()
    open_storage(str(tmp_path / "new" / "out")).require_writable()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_read_only_file_system_is_told_as_one_with_the_way_out(tmp_path):
    inside = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    disk = f"mount -t tmpfs -o ro tmpfs {tmp_path}"
    if shutil.which("unshare") is None or subprocess.run([*inside, disk]).returncode:
        pytest.skip("needs the right to mount a small disk")
    code = (
        "from sightline.storage import open_storage\n"
        f"try: open_storage('{tmp_path}/runs/out').require_writable()\n"
        "except Exception as error: print(error)"
    )
    run = [*inside, f'{disk} && {sys.executable} -c "$0"', code]
    told = subprocess.run(run, capture_output=True, text=True).stdout
    assert f"{tmp_path}/runs/out: the file system of {tmp_path} is read-only; mount it" in told


def test_deleting_what_cannot_be_deleted_is_told(storage):
    storage.write_bytes("a/b", b"1")
    storage.delete("a/b/c")
    with pytest.raises(UserError, match=r"cannot delete .*/a: "):
        storage.delete("a")
    assert storage.exists("a/b")


@contextlib.contextmanager
def without_rights_of_root():
    """Be anybody: root may read and write everything."""
    if os.geteuid():
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def closed():
    """Give a folder that nobody may look into, and a file beside it that nobody may read."""
    with tempfile.TemporaryDirectory() as folder:  # above tmp_path lies what only root may enter
        Path(folder).chmod(0o777)
        for name, make in (("closed", Path.mkdir), ("secret", Path.touch)):
            make(Path(folder, name))
            Path(folder, name).chmod(0)
        with without_rights_of_root():
            yield Path(folder)
        Path(folder, "closed").chmod(0o700)


def test_folder_that_may_not_be_entered_is_told_by_every_call(closed):
    storage = open_storage(str(closed / "closed"))
    source = closed / "source"
    source.write_bytes(b"1")
    for call in (
        lambda: storage.exists("a"),
        lambda: storage.find("a"),
        lambda: storage.download("a", closed / "a"),
        lambda: storage.read_bytes("a"),
        lambda: storage.write_bytes("a", b"1"),
        lambda: storage.write_if_unchanged("a", b"1", expected=None),
        lambda: storage.write_if_unchanged("a", b"1", expected=b"0"),
        lambda: storage.upload(source, "a", only_new=True),
        lambda: storage.require_writable(),
        lambda: open_storage(str(closed / "closed" / "deep")).require_writable(),
        lambda: list(storage.list()),
    ):
        with pytest.raises(UserError, match=r"cannot .*/closed"):
            call()


def test_file_that_may_not_be_read_is_told_and_not_the_one_it_was_to_become(closed):
    with pytest.raises(UnreadableError, match=r"cannot read .*/secret: Permission denied"):
        open_storage(str(closed)).download("secret", closed / "target")
    assert not (closed / "target").exists()


def test_name_that_is_too_long_is_told(storage):
    storage.write_bytes("a", b"1")
    with pytest.raises(UserError, match=r"cannot look at .*: File name too long"):
        storage.exists("x" * 300)


def lock_as_nfs(lock, operation, *, flock=fcntl.flock):
    """Refuse as flock(2) says that NFS does: what is not open for writing."""
    if fcntl.fcntl(lock, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    flock(lock, operation)


def test_conditional_writes_exclude_each_other_where_folders_cannot_be_locked(storage, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lock_as_nfs)
    assert storage.write_if_unchanged("count", b"0", expected=None)

    def count_to_twenty(_):
        done = 0
        while done < 20:
            present = storage.read_bytes("count")
            done += storage.write_if_unchanged("count", b"%d" % (int(present) + 1), present)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count_to_twenty, range(4)))
    assert storage.read_bytes("count") == b"80"
    assert [entry.key for entry in storage.list()] == ["count"]


def test_place_that_locks_nothing_is_told_where_two_writers_would_undo_each_other(
    storage, monkeypatch
):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert storage.write_if_unchanged("pointer", b"1", expected=None)
    assert not storage.write_if_unchanged("pointer", b"2", expected=None)
    with pytest.raises(UserError, match=r"cannot lock .*/store: No locks available; two writers"):
        storage.write_if_unchanged("pointer", b"2", expected=b"1")
    assert storage.read_bytes("pointer") == b"1"


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
        match=r"cannot open ftp://…: give s3://bucket/prefix or a folder",
    ):
        open_storage("ftp://host/x")
    with pytest.raises(UserError, match="an address is needed"):
        open_storage("")


def test_file_address_and_path_are_the_same_place(tmp_path):
    open_storage(f"file://{tmp_path}").write_bytes("a", b"1")
    assert open_storage(str(tmp_path)).read_bytes("a") == b"1"


@pytest.mark.parametrize("uri", ["file://localhost/data", "file://data", "file://"])
def test_file_address_with_a_host_is_no_folder_here(uri):
    with pytest.raises(UserError, match=r"names no host: give file:///folder, or just the path"):
        open_storage(uri)


def test_addresses_join_with_one_slash():
    assert join_uri("/data/", "/runs/", "1") == "/data/runs/1"
    assert join_uri("s3://bucket", "a/b") == "s3://bucket/a/b"
    assert join_uri("/", "runs") == "/runs"
    assert join_uri("/") == "/"


@pytest.mark.parametrize("address", ["s3:/team/data", "s3:team/data", "S3:/team", "file:/data"])
def test_address_with_too_few_slashes_is_no_folder(address):
    with pytest.raises(UserError, match=r"needs two slashes after it: write s3://bucket/prefix"):
        open_storage(address)


def test_folder_whose_name_looks_like_an_address_can_be_written_as_a_path(tmp_path):
    open_storage(f"{tmp_path}/s3:/team").write_bytes("a.txt", b"a")
    assert open_storage(str(tmp_path)).exists("s3:/team/a.txt")

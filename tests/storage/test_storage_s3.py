"""A bucket as storage: the same answers as a folder gives, from a real S3 server."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault_proxy import Answer, FaultProxy

from sightline.errors import UserError
from sightline.storage import NotFoundError, open_storage
from sightline.storage.s3 import PART_BYTES, S3Storage
from sightline.storage.settings import StorageConfig


@pytest.fixture
def storage(s3_bucket):
    return open_storage(s3_bucket + "/some/prefix")


def keys_of(storage, prefix=""):
    return [entry.key for entry in storage.list(prefix)]


@pytest.mark.parametrize(
    ("start", "size_bytes", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (3, 4, b"3456"),
        (8, 100, b"89"),
        (10, 5, b""),
        (50, None, b""),
        (2, 0, b""),
    ],
)
def test_part_of_an_object_is_what_a_folder_would_give(
    start, size_bytes, expected, storage, tmp_path
):
    for place in (storage, open_storage(str(tmp_path))):
        place.write_bytes("a/b.bin", b"0123456789")
        assert place.read_bytes("a/b.bin", start, size_bytes) == expected


def test_empty_object_is_read_listed_downloaded_and_exists(storage, tmp_path):
    storage.write_bytes("empty", b"")
    assert storage.read_bytes("empty") == b""
    assert storage.read_bytes("empty", 0, 10) == b""
    assert storage.exists("empty")
    storage.download("empty", tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""
    assert [(entry.key, entry.size_bytes) for entry in storage.list()] == [("empty", 0)]


@pytest.mark.parametrize(
    "key",
    [
        "with space.png",
        "plus+and%20.png",
        "ünï/código.png",
        "a?b&c=d#e.png",
        "quote'\"(1)!*~.png",
        "100%/%2e%2e/x",
        "猫.png",
        "/".join(["k" * 99] * 10),
    ],
)
def test_surprising_keys_come_back_as_they_were_written(key, storage, tmp_path):
    storage.write_bytes(key, b"12345")
    assert [(entry.key, entry.size_bytes) for entry in storage.list()] == [(key, 5)]
    assert storage.read_bytes(key) == b"12345"
    assert storage.read_bytes(key, 1, 2) == b"23"
    assert storage.exists(key)
    storage.download(key, tmp_path / "fetched")
    assert [path.name for path in tmp_path.iterdir()] == ["fetched"]
    storage.delete(key)
    assert not storage.exists(key)


@pytest.mark.parametrize(
    "key", ["../outside", "a/../../outside", "/etc/passwd", "", "a/..", "a/./b", "a\0b", "k" * 1025]
)
def test_key_that_leaves_the_prefix_or_is_too_long_is_refused_for_every_call(
    key, faults, open_faulty, tmp_path
):
    storage = open_faulty()
    source = tmp_path / "source"
    source.write_bytes(b"1")
    calls = [
        lambda: storage.write_bytes(key, b"x"),
        lambda: storage.read_bytes(key),
        lambda: storage.write_if_unchanged(key, b"x", expected=None),
        lambda: storage.exists(key),
        lambda: storage.delete(key),
        lambda: storage.upload(source, key),
        lambda: storage.download(key, tmp_path / "target"),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"would leave s3://|is longer than the 1024 bytes"):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert faults.requests == []


def test_markers_that_consoles_put_for_folders_are_not_listed(storage, s3_server):
    storage.write_bytes("folder/image", b"1")
    s3_server.client().put_object(Bucket=storage.bucket, Key="some/prefix/empty/", Body=b"")
    assert keys_of(storage) == ["folder/image"]


def test_find_describes_one_object_as_the_list_does(storage):
    for key in ("a/1", "a/10", "b"):
        storage.write_bytes(key, b"12345")
    [listed] = [entry for entry in storage.list() if entry.key == "a/1"]
    assert storage.find("a/1") == listed
    assert [storage.find(key) for key in ("a", "a/", "b/1", "c", "a/2")] == [None] * 5


def test_list_is_in_key_order_and_keeps_to_its_prefix(storage, s3_bucket):
    for key in ("b/2", "a/1", "b/1", "ba", "b-1"):
        storage.write_bytes(key, b"")
    open_storage(s3_bucket + "/some/prefix-of-another").write_bytes("a", b"")
    assert keys_of(storage) == ["a/1", "b-1", "b/1", "b/2", "ba"]
    assert keys_of(storage, "b/") == ["b/1", "b/2"]
    assert keys_of(storage, "b") == ["b-1", "b/1", "b/2", "ba"]


def test_list_streams_page_by_page_beyond_a_thousand_objects(faults, open_faulty):
    storage = open_faulty()
    names = [f"{number:04d}" for number in range(1003)]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda name: storage.write_bytes(name, b""), names))
    faults.requests.clear()
    entries = storage.list()
    assert not faults.requests
    assert next(entries).key == "0000"  # and the second page is asked for meanwhile
    assert [entry.key for entry in entries] == names[1:]
    assert len(faults.requests) == 2


def test_entry_says_when_it_was_written_by_the_clock_of_the_store(storage, s3_server):
    storage.write_bytes("a", b"1")
    head = s3_server.client().head_object(Bucket=storage.bucket, Key="some/prefix/a")
    assert next(storage.list()).modified == pytest.approx(head["LastModified"].timestamp(), abs=1)


def test_big_file_goes_up_and_comes_down_in_parts(faults, open_faulty, tmp_path):
    storage = open_faulty()
    big = tmp_path / "big"
    big.write_bytes(bytes(range(251)) * (2 * PART_BYTES // 251 + 4000))
    storage.upload(big, "big")
    assert [method for method, _ in faults.requests] == ["POST", "PUT", "PUT", "PUT", "POST"]
    faults.requests.clear()
    storage.download("big", tmp_path / "folder" / "back")
    assert [method for method, _ in faults.requests] == ["GET"] * 3
    assert (tmp_path / "folder" / "back").read_bytes() == big.read_bytes()


def test_object_that_is_replaced_during_a_download_gives_no_mixture(storage, tmp_path, monkeypatch):
    storage.write_bytes("big", b"1" * (PART_BYTES + 1))
    read, parts = storage._read, []

    def read_then_replace(*arguments, **named):
        parts.append(read(*arguments, **named))
        storage.write_bytes("big", b"2" * (PART_BYTES + 1))
        return parts[-1]

    monkeypatch.setattr(storage, "_read", read_then_replace)
    with pytest.raises(UserError, match=r"big was replaced while it was read"):
        storage.download("big", tmp_path / "big")
    assert list(tmp_path.iterdir()) == []


def test_upload_that_was_never_ended_is_listed_apart_and_removed(storage, s3_server, s3_bucket):
    client = s3_server.client()
    where = {"Bucket": storage.bucket, "Key": "some/prefix/a/b"}
    for _ in range(2):
        client.create_multipart_upload(**where)
    assert list(storage.list()) == []
    assert list(open_storage(s3_bucket + "/elsewhere").list_unfinished()) == []
    found = list(storage.list_unfinished())
    assert [entry.key for entry in found] == ["a/b", "a/b"]
    assert all(entry.modified > 1e9 for entry in found)
    storage.delete_unfinished(found[0])
    storage.delete_unfinished(found[0])
    assert list(storage.list_unfinished()) == found[1:]


def test_missing_object_is_named_and_deleting_it_is_no_error(storage, tmp_path):
    for call in (
        lambda: storage.read_bytes("a/b"),
        lambda: storage.read_bytes("a/b", 5, 5),
        lambda: storage.read_bytes("a/b", 0, 0),
        lambda: storage.download("a/b", tmp_path / "target"),
    ):
        with pytest.raises(NotFoundError, match=r"nothing is stored at s3://.*/some/prefix/a/b$"):
            call()
    storage.delete("a/b")
    assert not storage.exists("a/b")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["honoured", "refused", "ignored"])
def conditional(request, faults, open_faulty):
    """Return a storage whose server honours conditions, refuses them, or ignores them."""
    if request.param == "refused":
        faults.refuse_headers = frozenset({"if-match", "if-none-match"})
    if request.param != "ignored":
        yield open_faulty()
        return
    # A header cannot be left out where signatures are checked, and moto checks none.
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = FaultProxy("http://{}:{}".format(*server.get_host_and_port()))
    proxy.drop_headers = frozenset({"if-match", "if-none-match"})
    storage = S3Storage("s3://bucket", StorageConfig(s3_endpoint_url=proxy.url))
    storage._connection.client.create_bucket(Bucket="bucket")
    yield storage
    proxy.stop()
    server.stop()


def test_conditional_write_happens_only_over_the_expected_bytes(conditional):
    assert conditional.write_if_unchanged("pointer", b"1", expected=None)
    assert not conditional.write_if_unchanged("pointer", b"2", expected=None)
    assert not conditional.write_if_unchanged("pointer", b"2", expected=b"other")
    assert not conditional.write_if_unchanged("absent", b"2", expected=b"1")
    assert conditional.read_bytes("pointer") == b"1"
    assert conditional.write_if_unchanged("pointer", b"2", expected=b"1")
    assert conditional.read_bytes("pointer") == b"2"
    assert keys_of(conditional) == ["pointer"]


def test_server_is_asked_once_whether_it_honours_conditions(faults, open_faulty, s3_bucket):
    storage = open_faulty()
    storage.write_if_unchanged("a", b"1", expected=None)
    asked = len(faults.requests)
    storage.write_if_unchanged("b", b"1", expected=None)
    assert len(faults.requests) == asked + 1
    names = [path.rpartition("/")[2] for _, path in faults.requests]
    assert any(name.startswith(".sightline-probe-") for name in names)
    assert [entry.key for entry in open_storage(s3_bucket).list()] == ["a", "b"]


def test_overwritten_writer_is_told_so_where_conditions_are_not_honoured(faults, open_faulty):
    faults.refuse_headers = frozenset({"if-match", "if-none-match"})
    storage, other = open_faulty(), open_faulty()
    storage.write_if_unchanged("warm", b"", expected=None)
    write_bytes = storage.write_bytes

    def write_and_be_overwritten(key, content):
        write_bytes(key, content)
        other.write_bytes(key, b"other")

    storage.write_bytes = write_and_be_overwritten
    assert not storage.write_if_unchanged("pointer", b"ours", expected=None)
    assert storage.read_bytes("pointer") == b"other"


def test_of_many_writers_at_once_exactly_one_creates(storage):
    barrier = threading.Barrier(8)

    def write(number):
        barrier.wait()
        return storage.write_if_unchanged("claim", b"%d" % number, expected=None)

    with ThreadPoolExecutor(8) as threads:
        created = list(threads.map(write, range(8)))
    assert created.count(True) == 1
    assert storage.read_bytes("claim") == b"%d" % created.index(True)


def test_counter_that_many_move_at_once_loses_no_step(storage):
    storage.write_bytes("counter", b"0")

    def add_five(_):
        done = 0
        while done < 5:
            present = storage.read_bytes("counter")
            done += storage.write_if_unchanged("counter", b"%d" % (int(present) + 1), present)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add_five, range(4)))
    assert storage.read_bytes("counter") == b"20"


def in_forked_processes(count, work):
    """Return what `work` gives in processes that inherit all that this one holds."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    processes = [context.Process(target=lambda: answers.put(work())) for _ in range(count)]
    for process in processes:
        process.start()
    yield  # the parent may work beside them here
    yield [answers.get() for _ in processes]
    for process in processes:
        process.join()


def test_forked_processes_and_their_parent_read_at_once_without_mixing_answers(storage):
    contents = {f"{number}": b"%d" % number * 5000 for number in range(20)}
    for key, content in contents.items():
        storage.write_bytes(key, content)

    def read_all():
        return all(storage.read_bytes(key) == content for key, content in contents.items())

    assert read_all()  # the connections are open that a fork inherits
    forked = in_forked_processes(3, lambda: all(read_all() for _ in range(5)))
    next(forked)
    assert all(read_all() for _ in range(5))
    assert next(forked) == [True] * 3


def test_connection_that_was_open_before_a_fork_is_not_used_after_it(storage):
    storage.write_bytes("a", b"1")
    forked = in_forked_processes(2, lambda: (os.getpid(), storage._connection.process))
    next(forked)
    answers = next(forked)
    assert all(process == connected for process, connected in answers)
    assert storage._connection.process == os.getpid()


def test_storage_can_be_handed_to_another_process(storage):
    storage.write_bytes("a", b"1")
    assert pickle.loads(pickle.dumps(storage)).read_bytes("a") == b"1"


def test_storages_of_one_process_share_a_connection(s3_bucket):
    first, second = open_storage(s3_bucket + "/a"), open_storage(s3_bucket + "/b")
    assert first._connection is second._connection


@pytest.mark.parametrize(
    ("addressing", "host", "path"),
    [
        ("auto", "localhost", "/{bucket}/k"),
        ("path", "localhost", "/{bucket}/k"),
        ("virtual", "{bucket}.localhost", "/k"),
    ],
)
def test_bucket_is_named_in_the_path_or_in_the_host_as_set(
    addressing, host, path, faults, open_faulty, monkeypatch
):
    find = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *rest: find("127.0.0.1", *rest))
    port = faults.url.rpartition(":")[2]
    storage = open_faulty(s3_endpoint_url=f"http://localhost:{port}", s3_addressing=addressing)
    faults.fail(Answer(404, "NoSuchKey"))
    assert not storage.exists("k")
    storage.delete("k")
    named = {"bucket": storage.bucket}
    assert [asked for _, asked in faults.requests] == [path.format(**named)] * 2
    assert faults.hosts == [f"{host.format(**named)}:{port}"] * 2


def test_a_probe_that_a_killed_process_left_is_unfinished_and_can_be_removed(s3_bucket):
    storage = open_storage(s3_bucket)
    storage.write_bytes(".sightline-probe-left", b"")
    storage.write_bytes("image", b"1")
    [left] = storage.list_unfinished()
    assert left.key == ".sightline-probe-left"
    assert left.modified > 0
    storage.delete_unfinished(left)
    assert list(storage.list_unfinished()) == []
    assert [entry.key for entry in storage.list()] == ["image"]

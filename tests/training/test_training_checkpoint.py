import json
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fault_proxy import WRONG_BYTES

from sightline.errors import UserError
from sightline.storage import StorageUnavailableError, open_storage
from sightline.training.checkpoint import Checkpoints, LostRunError

IDENTITY = {"seed": 0, "dataset": "0123456789abcdef"}


def state_of(step):
    generator = torch.Generator().manual_seed(step)
    return {"step": step, "weights": torch.randn(50, 40, generator=generator), "names": ["a", "b"]}


@pytest.fixture(params=["folder", "s3"])
def uri(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "run" / "checkpoints")
    return request.getfixturevalue("s3_bucket") + "/run/checkpoints"


def checkpoints_at(uri, owner="one", identity=IDENTITY):
    return Checkpoints(open_storage(uri), "pretrain", owner, identity)


def take_over_at(uri, owner="two"):
    checkpoints = checkpoints_at(uri, owner)
    checkpoints.take_over()
    return checkpoints


def save_all(uri, steps, owner="one"):
    checkpoints = take_over_at(uri, owner)
    for step in steps:
        checkpoints.save(state_of(step), step, wait=True)
    return checkpoints


def keys_of(uri):
    return {entry.key for entry in open_storage(uri).list()}


def require_latest(uri, step, checkpoints=None):
    state = (checkpoints or checkpoints_at(uri)).latest().state
    expected = state_of(step)
    assert torch.equal(state.pop("weights"), expected.pop("weights"))
    assert state == expected


def test_without_any_there_is_none(uri):
    checkpoints = checkpoints_at(uri)
    checkpoints.take_over()
    assert checkpoints.latest() is None
    assert checkpoints.are_none


def test_the_latest_comes_back_and_three_are_kept(uri):
    save_all(uri, [1, 2, 3, 4, 5])
    require_latest(uri, 5)
    kept = json.loads(open_storage(uri).read_bytes("latest.json"))["kept"]
    assert [name.split("-")[1] for name in kept] == [f"{step:012d}" for step in (5, 4, 3)]
    parts = {name + suffix for name in kept for suffix in (".pt", ".json")}
    assert keys_of(uri) == {"latest.json", *parts}


def test_the_state_is_that_of_the_moment_of_saving(uri):
    checkpoints = save_all(uri, [])
    state = state_of(1)
    checkpoints.save(state, 1)
    state["weights"].zero_()
    checkpoints.finish()
    require_latest(uri, 1)


def test_equal_states_have_equal_names(uri):
    save_all(uri, [1])
    before = keys_of(uri)
    save_all(uri, [1], owner="two")
    assert keys_of(uri) == before
    require_latest(uri, 1)


def flip_a_bit(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "one bit flipped": lambda content: flip_a_bit(content, len(content) // 2),
    "empty": lambda _: b"",
    "page of a proxy": lambda _: b"<html>502 Bad Gateway</html>",
    "gone": lambda _: None,
}


def damage(uri, key, change):
    storage = open_storage(uri)
    content = DAMAGES[change](storage.read_bytes(key))
    storage.delete(key)
    if content is not None:
        storage.write_bytes(key, content)


@pytest.mark.parametrize("suffix", [".pt", ".json"])
@pytest.mark.parametrize("change", DAMAGES)
def test_a_damaged_checkpoint_is_told_once_and_the_one_before_is_taken(
    change, suffix, tmp_path, capsys
):
    uri = str(tmp_path)
    save_all(uri, [1, 2, 3])
    newest = json.loads(open_storage(uri).read_bytes("latest.json"))["kept"][0]
    damage(uri, newest + suffix, change)
    checkpoints = checkpoints_at(uri)
    require_latest(uri, 2, checkpoints)
    assert checkpoints.fallbacks == 1
    told = capsys.readouterr().err.splitlines()
    (line,) = [line for line in told if "is damaged" in line]
    assert newest in line
    assert line.endswith("taking the one before")


@pytest.mark.parametrize("change", ["truncated", "empty", "page of a proxy"])
def test_without_a_whole_pointer_the_newest_that_is_there_is_taken(change, tmp_path, capsys):
    save_all(str(tmp_path), [1, 2])
    damage(str(tmp_path), "latest.json", change)
    checkpoints = checkpoints_at(str(tmp_path), "two")
    checkpoints.take_over()
    require_latest(str(tmp_path), 2, checkpoints)
    assert checkpoints.fallbacks == 1
    assert "latest.json is damaged: taking the newest of the 2" in capsys.readouterr().err
    save_all(str(tmp_path), [3], owner="two")
    require_latest(str(tmp_path), 3)


def test_a_name_in_the_pointer_that_changed_by_a_bit_costs_no_checkpoint(uri, capsys):
    save_all(uri, [1, 2, 3])
    before = keys_of(uri)
    storage = open_storage(uri)
    pointer = storage.read_bytes("latest.json")
    for name in json.loads(pointer)["kept"]:
        place = pointer.index(name.encode()) + len(name) - 1
        storage.write_bytes("latest.json", flip_a_bit(pointer, place))
        again = checkpoints_at(uri, name)
        again.take_over()
        require_latest(uri, 3, again)
        assert again.fallbacks == 1
        assert keys_of(uri) == before
    assert capsys.readouterr().err.count("latest.json is damaged: taking the newest of the 3") == 3


@pytest.mark.parametrize("is_link", [True, False])
def test_something_else_in_the_pointers_place_is_named(is_link, tmp_path, capsys):
    save_all(str(tmp_path), [1])
    pointer = tmp_path / "latest.json"
    pointer.unlink()
    pointer.symlink_to("nowhere") if is_link else pointer.mkdir()
    with pytest.raises(
        UserError, match=r"latest\.json cannot be written.*look what is in its place"
    ):
        take_over_at(str(tmp_path))
    assert "deleted" not in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"kept": []}', "[" * 100_000, "[]", '{"kept": [1]}'])
def test_a_pointer_that_nobody_of_ours_wrote_is_damaged(content, tmp_path, capsys):
    save_all(str(tmp_path), [1])
    (tmp_path / "latest.json").write_text(content)
    checkpoints = checkpoints_at(str(tmp_path))
    require_latest(str(tmp_path), 1, checkpoints)
    assert checkpoints.fallbacks == 1
    assert "latest.json is damaged: taking the newest of the 1" in capsys.readouterr().err


def test_all_damaged_is_an_error_and_nothing_is_deleted(tmp_path):
    save_all(str(tmp_path), [1, 2])
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"")
    before = keys_of(str(tmp_path))
    checkpoints = checkpoints_at(str(tmp_path))
    checkpoints.take_over()
    with pytest.raises(UserError, match=r"none of the 2 checkpoints .* can be read"):
        checkpoints.latest()
    assert keys_of(str(tmp_path)) == before


class Marker:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_refused_by_name_and_never_run(form, tmp_path, monkeypatch):
    # The digest is right: whoever wrote this could write manifests, too.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = tmp_path / "ran"
    save_all(str(tmp_path / "run"), [1])
    checkpoints = checkpoints_at(str(tmp_path / "run"), "two")
    checkpoints.take_over()
    if form == "pickle":
        monkeypatch.setattr(torch, "save", lambda state, file: file.write(pickle.dumps(state, 2)))
    checkpoints.save({"weights": Marker(marker)}, 2, wait=True)
    told = (
        r"step-000000000002-\w+\.pt is refused: it holds more than tensors and plain values "
        r"\(it holds [\w.]+\); nothing in it was run\. Find out who wrote it, then delete it$"
    )
    with pytest.raises(UserError, match=told):
        checkpoints.latest()
    assert not marker.exists()


def test_a_run_with_other_settings_is_refused_by_their_names(uri):
    save_all(uri, [1])
    other = checkpoints_at(uri, identity={**IDENTITY, "seed": 1})
    with pytest.raises(UserError, match=r"other settings \(seed 0 there and 1 here\)"):
        other.latest()


def test_a_run_that_is_refused_is_left_as_it_was(uri):
    save_all(uri, [1, 2])
    storage = open_storage(uri)
    # What take_over would tidy up.
    storage.write_bytes("step-000000000003-half.pt", b"half")
    before = {key: storage.read_bytes(key) for key in keys_of(uri)}
    other = checkpoints_at(uri, "two", identity={**IDENTITY, "dataset": "another"})
    with pytest.raises(UserError, match="other settings"):
        other.take_over()
    assert {key: storage.read_bytes(key) for key in keys_of(uri)} == before


@pytest.mark.parametrize("suffix", [".pt", ".json"])
def test_the_state_of_a_damaged_checkpoint_saved_again_is_whole(uri, suffix):
    save_all(uri, [1, 2])
    newest = json.loads(open_storage(uri).read_bytes("latest.json"))["kept"][0]
    damage(uri, newest + suffix, "one bit flipped")
    again = checkpoints_at(uri, "two")
    again.take_over()
    require_latest(uri, 1, again)
    again.save(state_of(2), 2, wait=True)
    require_latest(uri, 2)


def test_a_damaged_checkpoint_is_none_of_the_three_that_are_kept(uri):
    save_all(uri, [1, 2, 3])
    newest = json.loads(open_storage(uri).read_bytes("latest.json"))["kept"][0]
    damage(uri, newest + ".pt", "truncated")
    again = checkpoints_at(uri, "two")
    again.take_over()
    require_latest(uri, 2, again)
    again.save(state_of(4), 4, wait=True)
    kept = json.loads(open_storage(uri).read_bytes("latest.json"))["kept"]
    assert [int(name.split("-")[1]) for name in kept] == [4, 2, 1]
    assert newest + ".pt" not in keys_of(uri)


def test_who_was_taken_over_stores_nothing_that_counts(uri):
    first = save_all(uri, [1])
    second = checkpoints_at(uri, "two")
    second.take_over()
    first.save(state_of(2), 2)
    with pytest.raises(LostRunError, match="another process went on"):
        first.finish()
    require_latest(uri, 1)
    second.save(state_of(3), 3, wait=True)
    require_latest(uri, 3)


def test_who_was_taken_over_before_it_has_read_deletes_nothing(uri):
    save_all(uri, [1])
    first = take_over_at(uri, "first")
    second = take_over_at(uri, "second")
    for step in (2, 3):
        second.save(state_of(step), step, wait=True)
    before = keys_of(uri)
    require_latest(uri, 3, first)
    assert keys_of(uri) == before
    require_latest(uri, 3)


def test_without_a_pointer_no_checkpoint_is_deleted_and_the_newest_is_taken(uri, capsys):
    save_all(uri, [1, 2])
    before = keys_of(uri)
    open_storage(uri).delete("latest.json")
    checkpoints = checkpoints_at(uri, "two")
    checkpoints.take_over()
    require_latest(uri, 2, checkpoints)
    assert keys_of(uri) == before
    assert "latest.json is missing: taking the newest of the 2" in capsys.readouterr().err


def test_a_pointer_that_is_deleted_while_training_is_written_anew(uri, capsys):
    checkpoints = save_all(uri, [1])
    open_storage(uri).clear()
    checkpoints.save(state_of(2), 2, wait=True)
    assert "latest.json is gone: somebody deleted it" in capsys.readouterr().err
    require_latest(uri, 2)


def test_what_others_left_half_stored_is_removed(uri):
    save_all(uri, [1])
    before = keys_of(uri)
    open_storage(uri).write_bytes("step-000000000009-abc.pt", b"uploaded, and then killed")
    take_over_at(uri).latest()
    assert keys_of(uri) == before


def save_unnamed(checkpoints, step, monkeypatch):
    """Leave what a process has stored that was killed before it moved the pointer."""

    def stop(_):
        raise LostRunError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_move_pointer", stop)
        with pytest.raises(LostRunError):
            checkpoints.save(state_of(step), step, wait=True)


def kept_steps(uri):
    kept = json.loads(open_storage(uri).read_bytes("latest.json"))["kept"]
    return [int(name.split("-")[1]) for name in kept]


def test_the_only_whole_one_is_taken_although_the_pointer_does_not_name_it(
    tmp_path, monkeypatch, capsys
):
    uri = str(tmp_path)
    checkpoints = save_all(uri, [1, 2, 3])
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"")
    save_unnamed(checkpoints, 4, monkeypatch)
    again = take_over_at(uri)
    require_latest(uri, 4, again)
    assert again.fallbacks == 3
    assert "taking the newest of those that latest.json does not name" in capsys.readouterr().err
    again.save(state_of(5), 5, wait=True)
    assert kept_steps(uri) == [5, 4]
    assert len(keys_of(uri)) == 1 + 2 * 2


def test_a_pointer_that_is_an_old_one_costs_no_checkpoint(uri):
    checkpoints = save_all(uri, [1, 2, 3])
    storage = open_storage(uri)
    old = storage.read_bytes("latest.json")
    for step in (4, 5, 6):
        checkpoints.save(state_of(step), step, wait=True)
    storage.write_bytes("latest.json", old)
    before = keys_of(uri)
    again = take_over_at(uri)
    require_latest(uri, 6, again)
    assert keys_of(uri) == before
    again.save(state_of(7), 7, wait=True)
    assert kept_steps(uri) == [7, 6, 5]


def test_a_run_of_other_settings_below_an_old_pointer_is_left_as_it_was(uri):
    checkpoints = save_all(uri, [1])
    storage = open_storage(uri)
    old = storage.read_bytes("latest.json")
    for step in (2, 3, 4):
        checkpoints.save(state_of(step), step, wait=True)
    storage.write_bytes("latest.json", old)
    other = checkpoints_at(uri, "two", identity={**IDENTITY, "seed": 1})
    with pytest.raises(UserError, match="other settings"):
        other.take_over()
    assert storage.read_bytes("latest.json") == old


def test_the_first_one_counts_although_a_kill_came_before_it_was_named(uri, monkeypatch, capsys):
    save_unnamed(save_all(uri, []), 1, monkeypatch)
    again = take_over_at(uri)
    assert not again.are_none
    require_latest(uri, 1, again)
    assert again.fallbacks == 0
    assert not capsys.readouterr().err


def test_an_unnamed_one_goes_once_a_named_one_is_known_to_be_whole(uri, monkeypatch):
    checkpoints = save_all(uri, [1])
    before = keys_of(uri)
    save_unnamed(checkpoints, 2, monkeypatch)
    again = take_over_at(uri)
    assert len(keys_of(uri)) == len(before) + 2
    require_latest(uri, 1, again)
    assert keys_of(uri) == before


def test_a_full_disk_costs_this_checkpoint_and_not_the_one_before(tmp_path, capsys):
    checkpoints = save_all(str(tmp_path), [1])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        checkpoints.save(state_of(2), 2)
        checkpoints.finish()
        with pytest.raises(UserError, match=r"cannot write .*: File too large"):
            checkpoints.save(state_of(2), 2, wait=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.failures == 2
    assert "the checkpoint after step 2 was not saved: cannot write" in capsys.readouterr().err
    require_latest(str(tmp_path), 1)
    checkpoints.save(state_of(3), 3, wait=True)
    require_latest(str(tmp_path), 3)


def test_no_place_for_temporary_files_costs_this_checkpoint_and_no_training(
    tmp_path, monkeypatch, capsys
):
    checkpoints = save_all(str(tmp_path), [1])
    with monkeypatch.context() as patch:
        # What Python answers where /tmp is full or gone before it was first used.
        patch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
        checkpoints.save(state_of(2), 2)
        with pytest.raises(UserError, match="cannot write a temporary file"):
            checkpoints.save(state_of(2), 2, wait=True)
    assert checkpoints.failures == 2
    assert "the checkpoint after step 2 was not saved" in capsys.readouterr().err
    checkpoints.save(state_of(3), 3, wait=True)
    require_latest(str(tmp_path), 3)


def test_a_copy_that_is_gone_before_it_is_stored_is_never_told_as_saved(tmp_path, monkeypatch):
    checkpoints = save_all(str(tmp_path), [1])
    store = checkpoints._store

    def lose_the_disk(path, global_step):
        path.unlink()
        store(path, global_step)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_store", lose_the_disk)
        with pytest.raises(FileNotFoundError):
            checkpoints.save(state_of(2), 2, wait=True)
        checkpoints.save(state_of(2), 2)
        checkpoints.finish()
    assert checkpoints.failures == 2
    require_latest(str(tmp_path), 1)
    checkpoints.save(state_of(3), 3, wait=True)
    require_latest(str(tmp_path), 3)


def test_a_store_that_is_away_costs_this_checkpoint_and_training_goes_on(
    faults, s3_bucket, monkeypatch, capsys
):
    monkeypatch.setenv("SIGHTLINE_S3_RETRIES", "0")
    checkpoints = save_all(f"{s3_bucket}/run", [1])
    faults.stop()
    checkpoints.save(state_of(2), 2)
    checkpoints.finish()
    assert checkpoints.failures == 1
    assert "the checkpoint after step 2 was not saved" in capsys.readouterr().err
    with pytest.raises(StorageUnavailableError):
        checkpoints.save(state_of(2), 2, wait=True)
    faults.restart()
    checkpoints.save(state_of(3), 3, wait=True)
    require_latest(f"{s3_bucket}/run", 3)


def test_an_old_one_that_cannot_be_deleted_is_told_and_the_new_one_is_saved(
    tmp_path, monkeypatch, capsys
):
    checkpoints = save_all(str(tmp_path), [1, 2, 3])

    def refuse(key):
        raise StorageUnavailableError(f"no answer for {key}")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._storage, "delete", refuse)
        checkpoints.save(state_of(4), 4, wait=True)
    assert checkpoints.failures == 0
    told = capsys.readouterr().err
    assert "step-000000000001" in told
    assert "was not deleted: no answer for" in told
    require_latest(str(tmp_path), 4)
    take_over_at(str(tmp_path)).latest()
    assert len(keys_of(str(tmp_path))) == 1 + 2 * 3


def test_bytes_altered_on_their_way_are_asked_for_again(faults, s3_bucket, capsys):
    uri = f"{s3_bucket}/run"
    checkpoints = save_all(uri, [])
    # Above the size of one part, where no checksum of the server's covers the whole.
    weights = torch.arange(5_000_000, dtype=torch.float32)
    checkpoints.save({"weights": weights}, 1, wait=True)
    faults.fail(WRONG_BYTES, first=2, matches=lambda method, path: ".pt" in path)
    assert torch.equal(checkpoints.latest().state["weights"], weights)
    assert checkpoints.fallbacks == 0
    assert "damaged" not in capsys.readouterr().err


SAVER = """
import itertools, os, sys, torch
from sightline.storage import open_storage
from sightline.training.checkpoint import Checkpoints
for number in sys.stdin:  # one process that imports torch, many that save and are killed
    child = os.fork()
    if child == 0:
        break
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
else:
    sys.exit()
checkpoints = Checkpoints(open_storage(sys.argv[1]), "pretrain", f"owner {number}")
checkpoints.take_over()
latest = checkpoints.latest()
start = latest.state["step"] if latest else 0
for step in itertools.count(start + 1):
    weights = torch.full((500, 1000), float(step))
    checkpoints.save({"step": step, "weights": weights, "more": weights + 1}, step)
    if step == start + 1:
        print("saving", flush=True)
"""


def test_killed_at_any_moment_the_latest_is_whole_and_of_one_step(tmp_path):
    draw = random.Random(0)
    before = 0
    command = [sys.executable, "-c", SAVER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        for kill in range(50):
            print(kill, file=process.stdin, flush=True)
            told = {process.stdout.readline() for _ in range(2)}
            child = int((told - {"saving\n"}).pop())
            time.sleep(draw.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
            assert process.stdout.readline() == "ended\n"
            before = require_whole(str(tmp_path), before)
    assert before > 5


def require_whole(uri, before):
    """Return the step of the latest checkpoint, which is at least the one before."""
    checkpoints = checkpoints_at(uri, identity={})
    latest = checkpoints.latest()
    assert checkpoints.fallbacks == 0
    if latest is None:
        return before
    step = latest.state["step"]
    assert step >= before
    assert torch.equal(latest.state["weights"], torch.full((500, 1000), float(step)))
    assert torch.equal(latest.state["more"], torch.full((500, 1000), float(step + 1)))
    return step

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from sightline.errors import UserError
from sightline.storage import open_storage
from sightline.training.claim import RunClaim
from sightline.training.preemption import AlreadyRunningError

# Another boot: nobody here can ask whether its processes live.
ELSEWHERE = {"owner": "other", "host": "node-7", "pid": 12, "place": "elsewhere"}


class PatientClock:
    """Waits no time, but lets a test act at each wait."""

    def __init__(self, at_wait=lambda: None):
        self.waited = 0.0
        self._at_wait = at_wait

    def monotonic(self):
        return self.waited

    def sleep(self, seconds):
        self.waited += seconds
        self._at_wait()


@pytest.fixture(params=["folder", "s3"])
def storage(request, tmp_path):
    if request.param == "folder":
        return open_storage(str(tmp_path / "run"))
    return open_storage(request.getfixturevalue("s3_bucket") + "/run")


def claim_on(storage, clock=None, silent_seconds=30.0):
    return RunClaim(storage, "claim.json", "pretrain", silent_seconds, clock or PatientClock())


def stored(storage):
    return json.loads(storage.read_bytes("claim.json"))


def test_a_free_run_is_taken_at_once_and_given_back(storage):
    clock = PatientClock()
    for _ in range(2):
        claim = claim_on(storage, clock)
        claim.take()
        assert stored(storage)["owner"] == claim.owner
        assert claim.give_back()
    assert clock.waited == 0


def test_a_run_that_another_renews_is_left_to_it(storage):
    holder = {**ELSEWHERE, "beats": 0}

    def renew():
        holder["beats"] += 1
        storage.write_bytes("claim.json", json.dumps(holder).encode())

    renew()
    with pytest.raises(AlreadyRunningError, match="process 12 on node-7 trains this run already"):
        claim_on(storage, PatientClock(renew)).take()
    assert stored(storage)["owner"] == "other"


def test_a_run_with_other_settings_that_lives_is_refused_and_not_called_this_one(storage):
    holder = {**ELSEWHERE, "beats": 0, "run": "its settings"}

    def renew():
        holder["beats"] += 1
        storage.write_bytes("claim.json", json.dumps(holder).encode())

    renew()
    ours = RunClaim(
        storage, "claim.json", "pretrain", clock=PatientClock(renew), run="our settings"
    )
    with pytest.raises(UserError, match="process 12 on node-7 trains a run with other settings"):
        ours.take()
    assert stored(storage)["owner"] == "other"


def test_a_claim_that_somebody_deleted_is_no_lost_one(storage, capsys):
    claim = claim_on(storage, silent_seconds=0.3)
    claim.take()
    storage.delete("claim.json")
    deadline = time.monotonic() + 30
    while not storage.exists("claim.json") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert stored(storage)["owner"] == claim.owner
    assert not claim.is_lost
    assert "claim.json was removed: the claim to this run is made anew" in capsys.readouterr().out
    assert claim.give_back()


def test_a_claim_that_was_deleted_just_before_its_end_was_ours(storage):
    claim = claim_on(storage)
    claim.take()
    storage.delete("claim.json")
    assert claim.give_back()


def test_a_run_whose_holder_is_silent_is_taken_over_after_the_time_it_may_be(storage, capsys):
    storage.write_bytes("claim.json", json.dumps(ELSEWHERE).encode())
    clock = PatientClock()
    claim = claim_on(storage, clock)
    claim.take()
    assert clock.waited == pytest.approx(30)
    assert stored(storage)["owner"] == claim.owner
    assert "process 12 on node-7 has begun this run; looking for up to 30 s" in (
        capsys.readouterr().out
    )
    claim.give_back()


def test_a_run_that_is_given_back_meanwhile_is_taken_at_once(storage):
    storage.write_bytes("claim.json", json.dumps(ELSEWHERE).encode())
    clock = PatientClock(lambda: storage.write_bytes("claim.json", b"{}\n"))
    claim = claim_on(storage, clock)
    claim.take()
    assert clock.waited < 3
    claim.give_back()


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]"])
def test_what_nobody_can_read_is_taken_over_after_a_while(content, storage):
    storage.write_bytes("claim.json", content)
    clock = PatientClock()
    claim = claim_on(storage, clock)
    claim.take()
    assert clock.waited == pytest.approx(0 if content == b"" else 30)
    claim.give_back()


HOLDER = """
import sys, time
from sightline.storage import open_storage
from sightline.training.claim import RunClaim
RunClaim(open_storage(sys.argv[1]), "claim.json", "pretrain").take()
print("taken", flush=True)
time.sleep(600)
"""


def test_who_was_killed_on_this_machine_is_not_waited_for(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    storage, clock = open_storage(str(tmp_path)), PatientClock()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        holder = stored(storage)
        assert holder["pid"] == process.pid
        process.kill()
    claim = claim_on(storage, clock)
    claim.take()
    assert clock.waited == 0
    claim.give_back()
    # The same number, but of a process that was started at another time.
    reused = {**holder, "pid": os.getpid()}
    storage.write_bytes("claim.json", json.dumps(reused).encode())
    claim = claim_on(storage, clock)
    claim.take()
    assert clock.waited == 0
    claim.give_back()


def test_who_finds_the_run_taken_over_knows_it_and_leaves_it(storage):
    claim = claim_on(storage, silent_seconds=0.3)
    claim.take()
    first = stored(storage)
    while stored(storage)["beats"] == first["beats"]:
        pass
    assert not claim.is_lost
    storage.write_bytes("claim.json", json.dumps(ELSEWHERE).encode())
    claim._thread.join(timeout=10)
    assert claim.is_lost
    assert not claim.give_back()
    assert stored(storage) == ELSEWHERE


@pytest.mark.parametrize("is_link", [True, False])
def test_something_else_in_the_claims_place_is_named(is_link, tmp_path):
    place = tmp_path / "claim.json"
    place.symlink_to("nowhere") if is_link else place.mkdir()
    with pytest.raises(
        UserError, match=r"claim\.json cannot be written.*look what is in its place"
    ):
        claim_on(open_storage(str(tmp_path))).take()


def test_of_many_that_try_at_once_one_gets_it(storage):
    results = []

    def try_to_take():
        claim = RunClaim(storage, "claim.json", "pretrain", silent_seconds=2.0)
        try:
            claim.take()
            results.append(claim)
        except AlreadyRunningError:
            results.append(None)

    threads = [threading.Thread(target=try_to_take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    (winner,) = [claim for claim in results if claim]
    assert stored(storage)["owner"] == winner.owner
    winner.give_back()

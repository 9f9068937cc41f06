"""Checkpoints that outlive any kill: each under a new name, verified, made visible last.

A checkpoint is two objects: `step-<n>-<digest>.pt` holds the state, `step-<n>-<digest>.json`, the
manifest, its size, sha256 and whose run it is; the digest in both names is the manifest's.
`latest.json` names the last three, newest first, and moves by a conditional write, after all of
them are stored. Reading verifies; what is damaged is told, and the one before is taken, or, where
none that is named is whole, the newest that is there. Nothing is tidied up before one is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sightline.errors import UserError
from sightline.storage import (
    InTheWayError,
    NotFoundError,
    Storage,
    StorageUnavailableError,
    join_uri,
)
from sightline.storage.artifacts import sha256_of
from sightline.storage.scratch import ScratchFolder
from sightline.storage.verified import AlteredError, read_verified
from sightline.telemetry import print_line
from sightline.telemetry.exporter import Exporter
from sightline.telemetry.metrics import (
    CHECKPOINT_FAILURES,
    CHECKPOINT_FALLBACKS,
    CHECKPOINT_SAVED_AT,
)
from sightline.training.tensors import ForeignFileError, load_tensors, save_tensors

KEPT = 3
_TRIES = 5
_POINTER = "latest.json"
_STATE = ".pt"
_MANIFEST = ".json"
_COPY = "state.pt"


class Checkpoint(NamedTuple):
    """One that was read and verified."""

    name: str
    state: dict[str, Any]


class LostRunError(Exception):
    """Another process moved the pointer: the run is no longer ours."""


class Checkpoints:
    """The checkpoints of one run, below one address. One process writes; any may read."""

    def __init__(
        self,
        storage: Storage,
        step: str,
        owner: str,
        identity: Mapping[str, Any] | None = None,
        exporter: Exporter | None = None,
    ) -> None:
        """Name them.

        Args:
            storage: Where they lie.
            step: The step, as lines to the user name it.
            owner: Who writes; goes into the pointer, so that a process which was silent for too
                long notices that it no longer owns the run.
            identity: What makes a run this run, such as its settings; a checkpoint of another
                identity is refused.
            exporter: What is told of saves, failures and fall-backs.
        """
        self._storage = storage
        self._step = step
        self._owner = owner
        self._identity = dict(identity or {})
        self._exporter = exporter or Exporter()
        self._pointer: bytes | None = None
        self._kept: list[str] = []
        self._damaged: set[str] = set()
        self._is_taken_over = False
        self._saving: threading.Thread | None = None
        self._failure: Exception | None = None
        self.fallbacks = 0
        """Damaged checkpoints that were passed over."""
        self.failures = 0
        """Saves that failed; training went on."""

    def take_over(self) -> None:
        """Make the pointer ours, so that no other process moves it.

        What others left beside the checkpoints that it names goes once `latest` has found a whole
        one: the pointer may be an old one, or what it names damaged.

        Raises:
            LostRunError: If another process moved it at the same time.
            UserError: If the run is another one; then nothing is touched.
            InTheWayError: If something else is in the pointer's place; the same.
        """
        self._pointer = self._read_pointer()
        self._kept = self._names(self._pointer)
        for name in self._with_unnamed(self._kept):
            with contextlib.suppress(_DamagedError):  # told when its turn to be read comes
                self._require_same_run(name, self._read_manifest(name)["identity"])
                break
        self._move_pointer(self._kept)
        self._is_taken_over = True
        for entry in list(self._storage.list_unfinished()):
            self._storage.delete_unfinished(entry)

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole, or None if there is none.

        Those that the pointer names come first. Who has taken the run over deletes what is not kept
        once one was read whole.

        Raises:
            UserError: If there are some and none can be read, or they belong to another run.
        """
        named = self._names(self._read_pointer())
        names = self._with_unnamed(named)
        for place, name in enumerate(names):
            try:
                found = self.read(name)
            except _DamagedError as error:
                self._damaged.add(name)
                self._note_fallback()
                if place + 1 == len(names):
                    then = "none is left"
                elif place + 1 == len(named):
                    then = f"taking the newest of those that {_POINTER} does not name"
                else:
                    then = "taking the one before"
                self._warn(f"checkpoint {self._shown(name)} is damaged ({error}): {then}")
                continue
            if self._is_taken_over and name not in named:
                self._kept = [*names[place : place + KEPT], *named]
            self._tidy()
            return found
        if names:
            raise UserError(
                f"none of the {len(names)} checkpoints under {self._storage.uri} can be read, and "
                "none was deleted: restore one, or delete that folder to start anew"
            )
        self._tidy()
        return None

    def read(self, name: str) -> Checkpoint:
        """Read and verify a checkpoint.

        Raises:
            UserError: If it holds more than plain tensors and values, or belongs to another run.
        """
        manifest = self._read_manifest(name)
        size_bytes, sha256 = manifest["size_bytes"], manifest["sha256"]
        self._require_same_run(name, manifest["identity"])
        with ScratchFolder("checkpoint") as scratch:
            path = scratch / (name + _STATE)

            def fetch() -> None:
                path.unlink(missing_ok=True)
                self._storage.download(name + _STATE, path)
                found = f"{path.stat().st_size} bytes of sha256 {sha256_of(path)[:12]}…"
                expected = f"{size_bytes} bytes of sha256 {sha256[:12]}…"
                if found != expected:
                    raise AlteredError(f"{found}, expected {expected}", self._shown(name + _STATE))

            try:
                read_verified(self._shown(name + _STATE), fetch)
            except NotFoundError:
                raise _DamagedError("its state is gone") from None
            except AlteredError as error:
                raise _DamagedError(str(error)) from None
            try:
                state = load_tensors(path)
            except ForeignFileError as error:
                # Its digest is right, so it was written like this: no damage, and not by us.
                raise UserError(
                    f"{self._shown(name + _STATE)} is refused: it holds more than tensors and "
                    f"plain values{error}; nothing in it was run. Find out who wrote it, then "
                    "delete it"
                ) from None
        return Checkpoint(name, state)

    def save(self, state: Mapping[str, Any], global_step: int, wait: bool = False) -> None:
        """Store a state under a new name, in a thread, and point to it when it is stored.

        The state is copied before this returns. A save that fails is told and counted, and
        training may go on: the checkpoint before stays the latest.

        Args:
            state: Tensors and plain values.
            global_step: Steps that are done; orders the names.
            wait: Return when it is stored, and raise if that failed.

        Raises:
            LostRunError: If another process moved the pointer, now or in an earlier save.
            StorageUnavailableError: With `wait`, if the store gave no answer.
            UserError: With `wait`, if it cannot be written.
            Exception: With `wait`, whatever else kept it from being stored.
        """
        self.finish()
        try:
            scratch = self._write_copy(state)
        except UserError as error:
            self._note_failure(error, global_step)
            if wait:
                raise
            return

        def store() -> None:
            try:
                with scratch as folder:
                    self._store(folder / _COPY, global_step)
            except Exception as error:  # whatever it is, nobody may take the state for stored
                self._failure = error
                if not isinstance(error, LostRunError):
                    self._note_failure(error, global_step)

        self._saving = threading.Thread(target=store, name="checkpoint")
        self._saving.start()
        if wait:
            self.finish(raise_all=True)

    @property
    def is_saving(self) -> bool:
        """Whether a checkpoint is still on its way."""
        return self._saving is not None and self._saving.is_alive()

    def finish(self, raise_all: bool = False) -> None:
        """Wait until the checkpoint on its way, if any, is stored or has failed."""
        if self._saving is not None:
            self._saving.join()
        self._saving = None
        failure, self._failure = self._failure, None
        if failure is not None and (raise_all or isinstance(failure, LostRunError)):
            raise failure

    @property
    def are_none(self) -> bool:
        """Whether it is known that there are none; before `take_over` nothing is known."""
        return self._is_taken_over and not self._kept

    @property
    def newest(self) -> str | None:
        """Name of the newest that is stored and not known to be damaged, if there is one."""
        return next((name for name in self._kept if name not in self._damaged), None)

    def _read_manifest(self, name: str) -> dict[str, Any]:
        key = name + _MANIFEST

        def read() -> bytes:
            content = self._storage.read_bytes(key)
            if _digest_of(content) != name.rpartition("-")[2]:
                raise AlteredError("its manifest is not the one of that name", self._shown(key))
            return content

        try:
            # What a network alters on its way is right another time.
            manifest = json.loads(read_verified(self._shown(key), read))
            return {
                "size_bytes": int(manifest["size_bytes"]),
                "sha256": str(manifest["sha256"]),
                "identity": dict(manifest["identity"]),
            }
        except NotFoundError:
            raise _DamagedError("its manifest is gone") from None
        except AlteredError as error:
            raise _DamagedError(str(error)) from None
        except (ValueError, KeyError, TypeError):
            raise _DamagedError("its manifest is none of ours") from None

    def _write_copy(self, state: Mapping[str, Any]) -> ScratchFolder:
        try:
            scratch = ScratchFolder("checkpoint")
        except OSError as error:
            raise UserError(f"cannot write a temporary file: {error}") from None
        try:
            save_tensors(state, scratch.path / _COPY)
        except BaseException:
            scratch.close()
            raise
        return scratch

    def _store(self, path: Path, global_step: int) -> None:
        manifest = _to_json(
            {
                "global_step": global_step,
                "size_bytes": path.stat().st_size,
                "sha256": sha256_of(path),
                "identity": self._identity,
            }
        )
        name = f"step-{global_step:012d}-{_digest_of(manifest)}"
        # One of that name holds the same, unless it was found to be damaged.
        self._storage.upload(path, name + _STATE, only_new=name not in self._damaged)
        self._storage.write_bytes(name + _MANIFEST, manifest)
        self._damaged.discard(name)
        before = [other for other in self._kept if other != name]
        kept = [name, *(other for other in before if other not in self._damaged)][:KEPT]
        self._move_pointer(kept)
        self._exporter.set(CHECKPOINT_SAVED_AT, time.time(), self._step)
        for dropped in before:
            if dropped not in kept:
                self._delete(dropped)

    def _delete(self, name: str) -> None:
        try:
            # The manifest first: a checkpoint without one is never taken for whole.
            for part in (_MANIFEST, _STATE):
                self._storage.delete(name + part)
        except (StorageUnavailableError, UserError) as error:
            self._warn(
                f"the old checkpoint {self._shown(name)} was not deleted: {error}; the next "
                "process that takes this run over does it"
            )

    def _move_pointer(self, kept: list[str]) -> None:
        content = _sealed({"step": self._step, "kept": kept, "owner": self._owner})
        where = self._shown(_POINTER)
        for _ in range(_TRIES):
            if self._storage.write_if_unchanged(_POINTER, content, self._pointer):
                break
            found = self._read_pointer()
            # The answer to a write of ours may have been lost after it was carried out; or what we
            # compared with was altered on its way, and the pointer is as we left it.
            if found == content:
                break
            if found is None:
                if self._pointer is not None:
                    self._warn(f"{where} is gone: somebody deleted it, so it is written anew")
                self._pointer = None
            elif found != self._pointer:
                raise LostRunError(
                    f"another process went on with the run under {self._storage.uri}, so this one "
                    "stops; its checkpoints are untouched"
                )
        else:
            raise InTheWayError(where)
        self._pointer, self._kept = content, kept

    def _read_pointer(self) -> bytes | None:
        try:
            return self._storage.read_bytes(_POINTER)
        except NotFoundError:
            return None

    def _names(self, pointer: bytes | None) -> list[str]:
        named = _named_in(pointer)
        if named:
            return named
        found = self._stored()
        # A whole pointer names none where a kill came before the first was named: no damage.
        if named is None and (found or pointer is not None):
            self._note_fallback()
            how = "missing" if pointer is None else "damaged"
            self._warn(
                f"{self._shown(_POINTER)} is {how}: taking the newest of the "
                f"{len(found)} checkpoints that are there"
            )
        return found[:KEPT]

    def _with_unnamed(self, named: list[str]) -> list[str]:
        return [*named, *(name for name in self._stored() if name not in named)]

    def _stored(self) -> list[str]:
        """Return the names of all that have a manifest, newest first."""
        keys = [entry.key for entry in self._storage.list("step-")]
        found = [key.removesuffix(_MANIFEST) for key in keys if key.endswith(_MANIFEST)]
        return sorted(found, reverse=True)

    def _tidy(self) -> None:
        if not self._is_taken_over or self.is_saving:
            return
        keys = [entry.key for entry in self._storage.list("step-")]
        # Reading may take long. Who has taken the run over meanwhile moved the pointer before it
        # stored anything, so none of the keys is of theirs while the pointer is ours.
        if self._read_pointer() != self._pointer:
            return
        for key in keys:
            if key.removesuffix(_STATE).removesuffix(_MANIFEST) not in self._kept:
                self._storage.delete(key)

    def _require_same_run(self, name: str, identity: Mapping[str, Any]) -> None:
        changed = sorted(
            key
            for key in {*identity, *self._identity}
            if identity.get(key) != self._identity.get(key)
        )
        if changed:
            told = ", ".join(
                f"{key} {identity.get(key)!r} there and {self._identity.get(key)!r} here"
                for key in changed
            )
            raise UserError(
                f"{self._shown(name)} belongs to a run with other settings ({told}): go on with "
                "the same, choose another out_uri, or delete that folder to start anew"
            )

    def _note_fallback(self) -> None:
        self.fallbacks += 1
        self._exporter.add(CHECKPOINT_FALLBACKS, 1, self._step)

    def _note_failure(self, error: Exception, global_step: int) -> None:
        self.failures += 1
        self._exporter.add(CHECKPOINT_FAILURES, 1, self._step)
        self._warn(f"the checkpoint after step {global_step} was not saved: {error}; going on")

    def _shown(self, name: str) -> str:
        return join_uri(self._storage.uri, name)

    def _warn(self, text: str) -> None:
        print_line(f"sightline {self._step}: {text}", sys.stderr)


class _DamagedError(Exception):
    """A checkpoint whose bytes are not those that were stored."""


def _named_in(pointer: bytes | None) -> list[str] | None:
    """Return the names that a pointer holds; None if there is none, or it is damaged."""
    if pointer is None:
        return None
    try:
        content = json.loads(pointer)
        kept: list[str] = content["kept"]
        return kept if pointer == _sealed(content) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _sealed(content: Mapping[str, Any]) -> bytes:
    """Return a pointer as it is stored: one that lost or changed a bit is not taken for whole."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return _to_json({**rest, "sha256": hashlib.sha256(_to_json(rest)).hexdigest()})


def _digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _to_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()

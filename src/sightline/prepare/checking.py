"""Checking files in a process of its own: `python -m sightline.prepare.checking`.

It gets a file's bytes and gives back what is known of its pictures. It opens no store, has no
credentials, and ends when the process that started it does, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty
from typing import IO, Any

from sightline.errors import UserError
from sightline.images import ImageError
from sightline.prepare.pictures import ReadPicture, Wanted, read_pictures
from sightline.prepare.window import Item, Items

# While one file is checked the next ones lie in the pipe, so that the process never waits. They
# must fit in it: else each side could wait for the other to read.
_AHEAD = 4
_PIPE_BYTES = 2**20
_PAGE_BYTES = 4096
_HEAD_BYTES = 4096
_BLOBS = ("content", "pixels", "thumbnail")


class CheckingProcess:
    """One process, and the thread that feeds it with `serve`.

    A process that dies is started anew, and what it had is checked again file by file: so one that
    was killed costs nothing, and a file that kills it is named.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._under_way: deque[Item] = deque()
        self._following: Item | None = None
        self._pipe_bytes = 0
        self._is_over = False

    def serve(self, items: Items, hand_on: Callable[[Item], None]) -> None:
        """Give items, each (file, what is wanted, its bytes or why it has none), a result.

        The result is (file, bytes, its pictures or why it has none).
        """
        try:
            while self._take(items, hand_on):
                try:
                    answer = self._receive()
                except EOFError:
                    self._check_again(hand_on)
                else:
                    _give(self._under_way.popleft(), answer, hand_on)
        except BaseException as error:  # raised where the results are awaited
            while self._under_way:
                _fail(self._under_way.popleft(), error, hand_on)
            while item := self._next(items, block=True):
                _fail(item, error, hand_on)
                self._following = None
        finally:
            self._end()

    def _take(self, items: Items, hand_on: Callable[[Item], None]) -> bool:
        """Send what waits, as far as it may be ahead, and say whether anything is under way."""
        while len(self._under_way) < _AHEAD and (
            item := self._next(items, block=not self._under_way)
        ):
            if isinstance(item.value[2], ImageError):
                item.value = (item.value[0], b"", item.value[2])
                hand_on(item)
            elif self._has_room_for(item):
                self._under_way.append(item)
                self._send(item)
            else:
                break
            self._following = None
        return bool(self._under_way)

    def _next(self, items: Items, block: bool) -> Item | None:
        """Return the item whose turn it is, the same one until it is no longer `_following`."""
        if self._following is None and not self._is_over:
            with contextlib.suppress(Empty):
                self._following = items.get(block=block)
                self._is_over = self._following is None
        return self._following

    def _has_room_for(self, item: Item) -> bool:
        if not self._under_way:
            return True  # the process reads, and nothing else
        sent = sum(_bytes_in_pipe(other) for other in self._under_way)
        return sent + _bytes_in_pipe(item) <= self._pipe_bytes

    def _send(self, item: Item) -> None:
        if not self._process:
            self._process = _start()
            self._pipe_bytes = _widen(self._process.stdin)
        assert self._process.stdin
        _, wanted, content = item.value
        # If it died, that is told where its answer is missed.
        with contextlib.suppress(BrokenPipeError):
            _write(self._process.stdin, wanted, [content])

    def _receive(self) -> list[ReadPicture] | ImageError:
        """Return the next answer.

        Raises:
            EOFError: If there will be none, as the process died.
        """
        assert self._process
        assert self._process.stdout
        answer, blobs = _read(self._process.stdout)
        if "failure" in answer:
            raise RuntimeError(f"checking an image failed:\n{answer['failure']}")
        if "refusal" in answer:
            raise UserError(answer["refusal"])
        if "reason" in answer:
            return ImageError(answer["reason"])
        given = iter(blobs)
        return [
            ReadPicture(
                content=next(given) or None,
                pixels=next(given),
                thumbnail=next(given),
                notes=tuple(notes),
                **told,
            )
            for notes, told in answer["pictures"]
        ]

    def _check_again(self, hand_on: Callable[[Item], None]) -> None:
        """Check each file that a dead process had, alone: only one of them can be at fault."""
        self._end()
        while self._under_way:
            item = self._under_way[0]
            self._send(item)
            try:
                answer = self._receive()
            except EOFError:
                raise UserError(
                    f"the process that checks images died again ({self._end()}) at "
                    f"{item.value[1].key}: give it more memory, or leave the file out if it "
                    "crashes its decoder"
                ) from None
            _give(self._under_way.popleft(), answer, hand_on)

    def _end(self) -> str:
        """Kill the process, for nobody waits for what it still does, and say how it ended."""
        if not self._process:
            return ""
        process, self._process = self._process, None
        process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):  # what was not sent is not missed
                    pipe.close()
        names = {int(number): number.name for number in signal.Signals}
        return names.get(-code, f"exit code {code}")


def _give(
    item: Item, answer: list[ReadPicture] | ImageError, hand_on: Callable[[Item], None]
) -> None:
    file, _, content = item.value
    item.value = (file, content, answer)
    hand_on(item)


def _fail(item: Item, error: BaseException, hand_on: Callable[[Item], None]) -> None:
    item.value, item.error = None, error
    hand_on(item)


def _start() -> subprocess.Popen[bytes]:
    # It decodes anybody's bytes, so it gets no credentials; and each process is one thread.
    environment = {name: v for name, v in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "sightline.prepare.checking"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        # Out of reach of the keyboard's interrupt: who started it hears that, and ends it.
        process_group=0,
    )


def _widen(pipe: IO[bytes] | None) -> int:
    """Make a pipe hold more, and return how many bytes it holds; 0 where that is not known."""
    if not pipe or sys.platform != "linux":
        return 0
    with contextlib.suppress(OSError):  # this user's pipes hold as much as they may already
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)


def _bytes_in_pipe(item: Item) -> int:
    """Return how much of a pipe a file takes at most: whole pages, and the line before it."""
    _, wanted, content = item.value
    message_bytes = _HEAD_BYTES + len(wanted.key) + len(content)
    return -(-message_bytes // _PAGE_BYTES) * _PAGE_BYTES


def _write(pipe: IO[bytes], said: Any, blobs: Sequence[bytes]) -> None:
    """Send a message: a line of JSON, and bytes whose sizes it tells."""
    line = json.dumps([said, [len(blob) for blob in blobs]]).encode()
    pipe.write(b"".join([line, b"\n", *blobs]))
    pipe.flush()


def _read(pipe: IO[bytes]) -> tuple[Any, list[bytes]]:
    """Return the next message.

    Raises:
        EOFError: If there is none, or only a part of one.
    """
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    said, sizes = json.loads(line)
    blobs = [pipe.read(size) for size in sizes]
    if any(len(blob) < size for blob, size in zip(blobs, sizes, strict=True)):
        raise EOFError
    return said, blobs


def main() -> None:
    """Answer what comes from stdin on stdout, until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints spoils no answer
    with contextlib.suppress(EOFError, BrokenPipeError):  # who asked has ended
        while True:
            wanted, (content,) = _read(sys.stdin.buffer)
            _write(answers, *_answer(content, Wanted(*wanted)))
    os._exit(0)  # what is left in a pipe is nobody's any more


def _answer(content: bytes, wanted: Wanted) -> tuple[dict[str, Any], list[bytes]]:
    try:
        pictures = [vars(picture) for picture in read_pictures(content, wanted)]
    except ImageError as error:
        return {"reason": str(error)}, []
    except UserError as error:
        return {"refusal": str(error)}, []
    except Exception:
        return {"failure": traceback.format_exc()}, []
    blobs = [picture[name] or b"" for picture in pictures for name in _BLOBS]
    apart = {*_BLOBS, "notes"}
    told = [
        (picture["notes"], {k: v for k, v in picture.items() if k not in apart})
        for picture in pictures
    ]
    return {"pictures": told}, blobs


if __name__ == "__main__":
    main()

"""Checking files in a process of its own: `python -m sightline.prepare.checking`.

It gets a file's bytes and gives back what is known of its pictures. It opens no store, has no
credentials, and ends when the process that started it does, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO, Any

from sightline.config import UserError
from sightline.data.images import ImageError
from sightline.prepare.pictures import ReadPicture, Wanted, read_pictures
from sightline.prepare.window import Item, Items

# While one file is checked the next ones lie in the pipe, so that the process never waits.
_AHEAD = 4
_BLOBS = ("content", "pixels", "thumbnail")


class CheckingProcess:
    """One process, and the thread that feeds it with `serve`.

    A process that dies is started anew, and what it had is checked again file by file: so one that
    was killed costs nothing, and a file that kills it is named.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._under_way: deque[Item] = deque()
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
            while not self._is_over:
                if (item := items.get()) is None:
                    self._is_over = True
                else:
                    _fail(item, error, hand_on)
        finally:
            self._end()

    def _take(self, items: Items, hand_on: Callable[[Item], None]) -> bool:
        """Send what waits, as far as it may be ahead, and say whether anything is under way."""
        while not self._is_over and len(self._under_way) < _AHEAD:
            try:
                item = items.get(block=not self._under_way)
            except Empty:
                break
            if item is None:
                self._is_over = True
            elif isinstance(item.value[2], ImageError):
                item.value = (item.value[0], b"", item.value[2])
                hand_on(item)
            else:
                self._under_way.append(item)
                self._send(item)
        return bool(self._under_way)

    def _send(self, item: Item) -> None:
        self._process = self._process or _start()
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
    tasks: SimpleQueue[tuple[Any, list[bytes]]] = SimpleQueue()
    # Always taken from the pipe, so that neither side waits for the other to read.
    Thread(target=_queue, args=(tasks,), daemon=True).start()
    while True:
        wanted, (content,) = tasks.get()
        said, blobs = _answer(content, Wanted(*wanted))
        try:
            _write(answers, said, blobs)
        except BrokenPipeError:
            os._exit(0)


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


def _queue(tasks: SimpleQueue[tuple[Any, list[bytes]]]) -> None:
    try:
        while True:
            tasks.put(_read(sys.stdin.buffer))
    except EOFError:
        os._exit(0)  # who asked has ended, and nobody waits for an answer


if __name__ == "__main__":
    main()

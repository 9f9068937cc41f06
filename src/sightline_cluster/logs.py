"""The logs of a job's pods, line by line with the pod's name in front, through lost connections."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sightline.errors import UserError
from sightline_cluster.api import Api, ApiAwayError, NoSuchJobError

Say = Callable[[str], None]
_COMPLAINT = re.compile(r"sightline [a-z]+: (.+)")


class PodLog:
    """Follows one pod's log in a thread, until the pod's end."""

    def __init__(
        self,
        api: Api,
        pod: str,
        say: Say,
        tail: int | None,
        has_ended: Callable[[], bool],
        is_there: Callable[[], bool],
    ) -> None:
        """Begin to follow.

        Args:
            api: The cluster.
            pod: The pod's name.
            say: Receives each line.
            tail: How many earlier lines to begin with; None: all.
            has_ended: Says whether the pod's container has ended, or is gone, as far as is known.
            is_there: Asks the cluster whether it is this pod that has the name.
        """
        self._api = api
        self._pod = pod
        self._say = say
        self._tail = tail
        self._has_ended = has_ended
        self._is_there = is_there
        self._told: list[tuple[datetime, bytes]] = []
        """When lines were written that a new connection repeats, as a moment and as their stamp;
        the last one is the last that was told."""
        self._last_words = b""
        self.complaint = ""
        """The last line in which the step complained: what a failure is explained with."""
        self._thread = threading.Thread(target=self._follow, name=f"log {pod}", daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """Wait for the last lines."""
        self._thread.join(seconds)

    def _follow(self) -> None:
        while True:
            ended = self._has_ended()
            try:
                self._read()
            except (ApiAwayError, NoSuchJobError, UserError):
                if ended:
                    return
            if ended:
                return
            time.sleep(1)

    def _read(self) -> None:
        query = {"timestamps": "true"}
        if self._told:
            query["sinceTime"] = _since(self._told[-1][0]).strftime("%Y-%m-%dT%H:%M:%SZ")
        elif self._tail is not None:
            query["tailLines"] = str(self._tail)
        repeats = Counter(stamp for _, stamp in self._told)
        last = self._told[-1][0] if self._told else None
        for number, line in enumerate(self._api.log(self._pod, query)):
            # Asked when the log has been opened: it is read by name, which one made anew has, too.
            if not number and not self._is_there():
                return
            stamp, _, text = line.partition(b" ")
            written = _moment(stamp)
            if written is None:  # words of the kubelet's own, such as why it has no log
                if line != self._last_words:
                    self._say_of_pod(line)
                self._last_words = line
                continue
            if repeats and last:
                if repeats[stamp]:
                    repeats[stamp] -= 1
                    if not repeats[stamp]:
                        del repeats[stamp]
                    continue
                if written <= last:
                    continue  # from before the earlier lines that we began with
                repeats.clear()  # the rest went with a log that was rotated away
            # A node's clock may be set back: no line is too old for what came before it.
            self._remember(written, stamp)
            self._say_of_pod(text)

    def _remember(self, written: datetime, stamp: bytes) -> None:
        since = _since(written)
        if self._told and since != _since(self._told[-1][0]):
            self._told = [entry for entry in self._told if entry[0] >= since]
        self._told.append((written, stamp))

    def _say_of_pod(self, text: bytes) -> None:
        told = text.decode("utf-8", errors="replace").rstrip()
        if found := _COMPLAINT.match(told):
            self.complaint = found[1]
        self._say(f"{self._pod} | {told}")


def _moment(stamp: bytes) -> datetime | None:
    """Return when a line was written, which nodes may tell in their own zone; None: no stamp."""
    try:
        written = datetime.fromisoformat(stamp.decode())
    except ValueError:
        return None
    return written.astimezone(UTC) if written.tzinfo else None


def _since(last: datetime) -> datetime:
    """Return from when on a new connection asks: in whole seconds, as the API counts them.

    What is set back while the connection is lost, as a clock is that was wrong by some seconds,
    may write its next lines before the last.
    """
    return last.replace(microsecond=0) - timedelta(minutes=1)

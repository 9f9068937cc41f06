"""The logs of a job's pods, line by line with the pod's name in front, through lost connections."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

from sightline.errors import UserError
from sightline_cluster.api import Api, ApiAwayError, NoSuchJobError

Say = Callable[[str], None]
_COMPLAINT = re.compile(r"sightline [a-z]+: (.+)")


class PodLog:
    """Follows one pod's log in a thread, until the pod's end."""

    def __init__(
        self, api: Api, pod: str, say: Say, tail: int | None, has_ended: Callable[[], bool]
    ) -> None:
        """Begin to follow.

        Args:
            api: The cluster.
            pod: The pod's name.
            say: Receives each line.
            tail: How many earlier lines to begin with; None: all.
            has_ended: Says whether the pod's container has ended, or is gone.
        """
        self._api = api
        self._pod = pod
        self._say = say
        self._tail = tail
        self._has_ended = has_ended
        self._last_stamp = b""
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
        if self._last_stamp:
            query["sinceTime"] = self._last_stamp.decode()
        elif self._tail is not None:
            query["tailLines"] = str(self._tail)
        for line in self._api.log(self._pod, query):
            stamp, _, text = line.partition(b" ")
            # sinceTime counts whole seconds, so a new connection repeats the last ones.
            if stamp <= self._last_stamp:
                continue
            self._last_stamp = stamp
            told = text.decode("utf-8", errors="replace").rstrip()
            if found := _COMPLAINT.match(told):
                self.complaint = found[1]
            self._say(f"{self._pod} | {told}")

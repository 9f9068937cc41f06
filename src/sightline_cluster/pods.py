"""What is known of a job's pods, kept up to date by a watch."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import Any

from sightline.errors import UserError
from sightline_cluster.api import CONTAINER, Api, ApiAwayError, NoSuchJobError
from sightline_cluster.render import Manifest

_WATCH_SECONDS = 60


@dataclass(frozen=True)
class Ending:
    """How a pod's container ended."""

    pod: str
    code: int | None
    """Its exit code; None: the pod ended without one, as an evicted one does."""
    reason: str
    message: str

    def __str__(self) -> str:
        code = "" if self.code is None else f" with exit code {self.code}"
        reason = "" if self.reason in ("Error", "Completed", "") else f" ({self.reason})"
        return f"{self.pod} ended{code}{reason}"


class Pods:
    """The pods of a job, also those that were replaced; not those of an earlier namesake."""

    def __init__(self, api: Api, job: str) -> None:
        self._api = api
        self._job = job
        self._job_uid = ""
        self._changed = threading.Condition()
        self._present: dict[str, Manifest] = {}
        self._uids: dict[str, list[str]] = {}
        self._endings: dict[str, Ending] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._keep_watching, name="pods", daemon=True)

    def start(self, job_uid: str) -> None:
        """Begin to watch, if that is not done yet."""
        if not self._job_uid:
            self._job_uid = job_uid
            self._thread.start()

    def stop(self) -> None:
        """Let the watch end at its next word from the cluster."""
        self._stopped = True

    def wait(self, seconds: float) -> None:
        """Wait until something changes, at most for some seconds."""
        with self._changed:
            self._changed.wait(seconds)

    def present(self) -> list[Manifest]:
        """Return the pods that are there now, by name."""
        with self._changed:
            return sorted(self._present.values(), key=lambda pod: str(pod["metadata"]["name"]))

    def endings(self) -> dict[str, Ending]:
        """Return how pods ended, by their uid, the earliest first."""
        with self._changed:
            return dict(self._endings)

    def has_ended(self, uid: str) -> bool:
        """Say whether a pod has ended or is gone."""
        with self._changed:
            return uid not in self._present or uid in self._endings

    def is_there(self, uid: str) -> bool:
        """Ask the cluster whether a pod is there now, of which the watch may tell a moment later.

        Raises:
            ApiAwayError: If the API gives no answer.
        """
        return uid in [pod["metadata"]["uid"] for pod in self._api.pods(self._job)[0]]

    def replaced(self) -> int:
        """Return how often the pod that was replaced most often was."""
        with self._changed:
            return max((len(uids) - 1 for uids in self._uids.values()), default=0)

    def ending_of_replaced(self) -> Ending | None:
        """Return how the pod ended, the last time, that was replaced most often, if that was seen.

        Of several that were, the one that ended last.
        """
        most = self.replaced()
        with self._changed:
            gone = {uids[-2] for uids in self._uids.values() if len(uids) == most + 1 > 1}
            return next((e for u, e in reversed(self._endings.items()) if u in gone), None)

    def _keep_watching(self) -> None:
        while not self._stopped:
            try:
                found, version = self._api.pods(self._job)
                self._take_all(found)
                for change in self._api.watch_pods(self._job, version, _WATCH_SECONDS):
                    if change["type"] == "ERROR" or self._stopped:
                        break
                    self._take(change["object"], is_gone=change["type"] == "DELETED")
            # The last three are what comes of another server's answer in the API's place.
            except (ApiAwayError, NoSuchJobError, UserError, ValueError, LookupError, TypeError):
                time.sleep(1)  # whoever follows the job tells that the API is away

    def _take_all(self, pods: list[Manifest]) -> None:
        for pod in pods:
            self._take(pod, is_gone=False)
        listed = {pod["metadata"]["uid"] for pod in pods}
        with self._changed:
            for uid in [uid for uid in self._present if uid not in listed]:
                del self._present[uid]

    def _take(self, pod: Manifest, is_gone: bool) -> None:
        owners = [entry["uid"] for entry in pod["metadata"].get("ownerReferences") or []]
        if self._job_uid not in owners:
            return
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        with self._changed:
            uids = self._uids.setdefault(name, [])
            if uid not in uids:
                uids.append(uid)
            ending = _ending(pod)
            if ending is not None:
                self._endings.setdefault(uid, ending)
            if is_gone:
                self._present.pop(uid, None)
            else:
                self._present[uid] = pod
            self._changed.notify_all()


def container_state(pod: Manifest) -> dict[str, Any]:
    """Return the state of a pod's training container: `running`, `waiting` or `terminated`."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if status["name"] == CONTAINER:
            return dict(status.get("state") or {})
    return {}


def has_started(pod: Manifest) -> bool:
    """Say whether a pod's training container runs, or ran."""
    return bool({"running", "terminated"} & set(container_state(pod)))


def _ending(pod: Manifest) -> Ending | None:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    ended = container_state(pod).get("terminated")
    if ended is None and status.get("phase") != "Failed":
        return None
    code = None if ended is None else ended["exitCode"]
    # Why the pod had to go, as by an eviction, is more than what its process said on the way out.
    why = status if ended is None or status.get("reason") else ended
    message = " ".join(str(why.get("message") or "").split())
    return Ending(name, code, why.get("reason", ""), message)


def quietly_patch(api: Api, job: str, annotations: dict[str, str]) -> None:
    """Write annotations, or do without where the API is away or does not let us."""
    with contextlib.suppress(ApiAwayError, NoSuchJobError, UserError):
        api.note(job, annotations)

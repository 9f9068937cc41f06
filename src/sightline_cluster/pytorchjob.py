"""The back end `pytorchjob`: submits a job or finds it again, follows it, tells its true end."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from sightline.errors import UserError
from sightline.storage import NotFoundError, fetch_artifacts, open_storage
from sightline.storage.artifacts import ARTIFACTS_FILE, read_json
from sightline.telemetry import announce, print_line
from sightline_cluster.api import (
    Api,
    ApiAwayError,
    NoSuchJobError,
    RefusedError,
    connect,
)
from sightline_cluster.config import ClusterConfig
from sightline_cluster.launch import PIPELINE_PROCESS
from sightline_cluster.logs import PodLog
from sightline_cluster.obstacles import Prospect, condition, find_obstacles
from sightline_cluster.pods import Ending, Pods, has_started, quietly_patch
from sightline_cluster.quota import what_never_fits
from sightline_cluster.render import (
    FAILURE_ANNOTATION,
    OUT_ANNOTATION,
    PLURAL,
    RESTARTS_ANNOTATION,
    SPEC_ANNOTATION,
    STEP_LABEL,
    Manifest,
    annotations_of,
    differences,
    render_pytorchjob,
)
from sightline_cluster.task import Task

_POLL_SECONDS = 2.0
_USER_ERROR, _FROM_HERE_ON_STARTED_AGAIN = 2, 128
_TAIL_LINES = 20
_LAST_WORDS_SECONDS = 10.0
_NOT_SEEN = "nobody saw how it ended, as when its pod is deleted by force or its node is lost"
# Before each try to delete a job after a signal; a step in Kubeflow Pipelines has no time for two.
_CANCEL_WAITS_SECONDS = (0.0, 0.5, 2.0)
_LEAVE_AGAIN_SECONDS = 0.5


class JobFailedError(Exception):
    """A job that ended without a result, and that its user cannot mend by a setting."""


class JobLostError(JobFailedError):
    """The cluster's API was away for too long; the same command later goes on following."""


class PyTorchJobBackend:
    """One task as a PyTorchJob: `submit`, then `follow`; `cancel` at any time."""

    def __init__(self, task: Task, config: ClusterConfig, api: Api | None = None) -> None:
        """Render the job; nothing is asked of the cluster yet but who we are.

        Raises:
            UserError: If the settings do not fit each other, or no cluster is known.
        """
        self._task = task
        self._config = config
        self._manifest = render_pytorchjob(task, config)
        self._api = api or connect(config.namespace)
        self._manifest["metadata"]["namespace"] = self._api.namespace
        self._name: str = self._manifest["metadata"]["name"]
        self._pods = Pods(self._api, self._name)
        self._logs: dict[str, PodLog] = {}
        self._was_found = False
        self._may_be_made = False
        self._is_ours = False
        self._earlier_restarts = 0
        self._restarts = 0
        self._endings_told = 0
        self._stuck_since: float | None = None
        self._stuck_because = ""

    @property
    def name(self) -> str:
        """The job's name."""
        return self._name

    def check(self) -> None:
        """Meet whatever `submit` would meet, and make nothing.

        Raises:
            UserError: If the cluster would refuse the job, or the results' place cannot be read.
            ApiAwayError: If the API gives no answer.
            StorageUnavailableError: If the store gives none.
        """
        if self._ask_before() is None:
            self._api.try_to_create(self._manifest)

    def submit(self) -> None:
        """Create the job, or find the one that an earlier launcher of the same task created.

        Raises:
            UserError: If the cluster refuses it, a job of this name has another task, or the
                results' place cannot be read.
            JobLostError: If the API gives no answer.
            StorageUnavailableError: If the store gives none.
        """
        patience = _Patience(self._config.api_minutes, has_job=False)
        while True:
            try:
                found = self._ask_before()
                if self._take_over(found) if found else self._create():
                    patience.regain(self._say)
                    return
            except ApiAwayError as error:
                patience.lose(error, self._say)
            time.sleep(_POLL_SECONDS)

    def follow(self) -> dict[str, Any]:
        """Stream the workers' logs until the job's end, and return what the step wrote.

        Raises:
            UserError: If the workers or the cluster named something that the user can mend.
            JobFailedError: If the job failed otherwise, was deleted, or left no result.
        """
        try:
            self._follow_to_the_end()
        finally:
            self._pods.stop()
        try:
            folder = fetch_artifacts(self._task.out_uri, ["metrics.json"])
        except NotFoundError:
            raise JobFailedError(
                f"job {self._name} succeeded, yet {self._task.out_uri} holds no result: does the "
                "launcher reach the same bucket as the workers (cluster.s3_endpoint_url)?"
            ) from None
        return dict(read_json(folder / "metrics.json"))

    @property
    def may_have_job(self) -> bool:
        """Whether a job of ours runs, or may: a request to create one may have no answer yet."""
        return self._is_ours or self._may_be_made

    def cancel(self) -> bool:
        """Delete the job, and with it its pods; say whether there was one of ours.

        Once it is known to be ours, the first request is the deletion. Before that, a job of this
        name may be another task's, and only what has our specification is deleted.
        """
        if self._is_ours:
            return self._api.delete(self._name)
        if not self._may_be_made:
            return False
        if self._delete_what_is_like_ours():
            return True
        time.sleep(1)  # a request to create that is on its way may arrive after that
        return self._delete_what_is_like_ours()

    def _delete_what_is_like_ours(self) -> bool:
        try:
            found = self._api.job(self._name)
        except NoSuchJobError:
            return False
        return self._has_our_spec(found) and self._api.delete(self._name)

    # --- submitting ---

    def _ask_before(self) -> Manifest | None:
        """Meet what would go wrong later while nothing is made: no rights, no operator, no room.

        Returns:
            The job of our name, if there is one.
        """
        found = None
        for _ in range(2):  # both connections are open from here on
            with contextlib.suppress(NoSuchJobError):
                found = self._api.job(self._name)
        self._api.pods(self._name)
        if found is None:
            if too_much := self._what_no_quota_allows():
                raise UserError(too_much)
            if self._config.queue:
                self._refuse_a_queue_without_kueue()
            self._read_once_with_our_keys()
            # Not our pod itself: another one takes over where it is killed, while the job goes on.
            if owner := self._api.owner():
                self._manifest["metadata"]["ownerReferences"] = [owner]
        return found

    def _create(self) -> bool:
        """Create the job; False: another launcher was faster."""
        self._may_be_made = True
        try:
            _create(self._api, self._manifest)
        except _ExistsError:
            return False
        self._is_ours = True
        self._say(f"submitted job {self._name} to namespace {self._api.namespace}")
        return True

    def _take_over(self, found: Manifest) -> bool:
        """Say whether the job of our name is ours to follow; False: create it again."""
        metadata = found["metadata"]
        if "deletionTimestamp" in metadata:
            self._say(f"waiting until the deleted job {self._name} is gone")
            self._wait_until_gone()
            return False
        annotations = annotations_of(found)
        has_failed = condition(found, "Failed")
        other = ""
        if not self._has_our_spec(found):
            other = "; ".join(differences(found, self._manifest)) or "made in another way"
        if other and not has_failed:
            raise UserError(
                f"job {self._name} is there already for {self._task.out_uri}, with another task "
                f"({other}): kubectl delete pytorchjob {self._name} -n {self._api.namespace}, or "
                "choose another run id"
            )
        why = ""
        if has_failed and other:  # nothing runs there: a mistake was mended
            why = f"failed before, with another task ({other})"
        elif has_failed and FAILURE_ANNOTATION in annotations:
            # Whoever comes after a launcher told it may have mended what no setting shows.
            why = f"failed before ({annotations[FAILURE_ANNOTATION]})"
        # A worker whose store is not ours refuses to begin where its result is already.
        elif condition(found, "Succeeded") and not self._has_result():
            why = f"succeeded before, and its result is no longer in {self._task.out_uri}"
        if why:
            self._say(f"job {self._name} has {why}; starting it anew")
            self._api.delete(self._name, wait_for_pods=True)
            self._wait_until_gone()
            return False
        follows = "and follow it"
        if has_failed:
            follows = "which failed with no launcher there to tell it: the same command, after "
            follows += "this one, starts it anew"
        self._say(f"found job {self._name} of an earlier launcher, {follows}")
        self._was_found = self._is_ours = True
        self._restarts = self._earlier_restarts = self._restarts_noted_on(found)
        return True

    def _restarts_noted_on(self, found: Manifest) -> int:
        noted = annotations_of(found).get(RESTARTS_ANNOTATION, "0")
        if re.fullmatch("[0-9]{1,9}", noted):
            return int(noted)
        self._say(f"{RESTARTS_ANNOTATION} of the job is no count, got {noted!r}: counted from 0")
        return 0

    def _has_our_spec(self, found: Manifest) -> bool:
        theirs, ours = (annotations_of(job).get(SPEC_ANNOTATION) for job in (found, self._manifest))
        return bool(theirs == ours)

    def _read_once_with_our_keys(self) -> None:
        # The result is read here at the end; that it cannot be should not take days to learn.
        try:
            self._has_result()
        except UserError as error:
            raise UserError(
                f"the launcher could not read the job's result, with keys of its own: {error}"
            ) from None

    def _has_result(self) -> bool:
        return open_storage(self._task.out_uri).exists(ARTIFACTS_FILE)

    def _wait_until_gone(self) -> None:
        with contextlib.suppress(NoSuchJobError):
            while "deletionTimestamp" in self._api.job(self._name)["metadata"]:
                time.sleep(_POLL_SECONDS)

    def _what_no_quota_allows(self) -> str:
        # Beyond a whole quota, pods would wait for ever.
        return what_never_fits(self._api.quotas(), self._manifest, self._api.own_pod())

    def _refuse_a_queue_without_kueue(self) -> None:
        # Kueue suspends what is created with its label. Elsewhere the job would run at once.
        made = self._api.try_to_create(self._manifest)
        if not made["spec"].get("runPolicy", {}).get("suspend"):
            raise UserError(
                f"nothing here keeps a job in cluster.queue {self._config.queue}: install Kueue, "
                "with its integration kubeflow.org/pytorchjob switched on (from 0.19 it is off), "
                "or leave cluster.queue empty"
            )

    # --- following ---

    def _follow_to_the_end(self) -> None:
        patience = _Patience(self._config.api_minutes, has_job=True)
        told: set[str] = set()
        uid = ""
        while True:
            self._pods.wait(_POLL_SECONDS if uid else 0)
            try:
                job = self._api.job(self._name)
                patience.regain(self._say)
                uid = uid or job["metadata"]["uid"]
                if job["metadata"]["uid"] != uid:
                    raise NoSuchJobError  # ours; this one was made after it
                self._pods.start(uid)
                self._follow_new_logs()
                if condition(job, "Succeeded"):
                    return self._finish_logs()
                if failed := condition(job, "Failed"):
                    raise self._failure(failed)
                self._keep_restart_budget()
                if self._all_run():
                    self._stuck_since = None
                else:
                    self._meet_obstacles(job, told)
            # Just after its start an API server refuses what it allows a moment later, and what
            # stands before it, such as an ingress, answers in its place.
            except (ApiAwayError, RefusedError) as error:
                patience.lose(error, self._say)
            except NoSuchJobError:
                self._finish_logs()
                raise JobFailedError(
                    f"job {self._name} is gone from namespace {self._api.namespace}: somebody "
                    "deleted it; the same command starts it again, from the last checkpoint"
                ) from None

    def _follow_new_logs(self) -> None:
        for pod in self._pods.present():
            uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
            if uid not in self._logs and has_started(pod):
                tail = _TAIL_LINES if self._was_found else None
                asked = partial(self._pods.has_ended, uid), partial(self._pods.is_there, uid)
                self._logs[uid] = PodLog(self._api, name, print_line, tail, *asked)
        if self._logs:
            self._was_found = False  # pods that come from now on are told whole

    def _all_run(self) -> bool:
        pods = self._pods.present()
        return len(pods) == self._wanted_pods and all(map(has_started, pods))

    @property
    def _wanted_pods(self) -> int:
        return int(self._manifest["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"])

    def _meet_obstacles(self, job: Manifest, told: set[str]) -> None:
        """Tell what keeps the job from running, and give it up if nothing will change that."""
        pods = self._pods.present()
        events = self._api.events(job["metadata"]["uid"]) if len(pods) < self._wanted_pods else []
        found = find_obstacles(job, pods, events, self._config)
        for obstacle in found:
            if obstacle.prospect is Prospect.REFUSED:
                self._give_up(obstacle.text)
            if obstacle.text not in told:
                told.add(obstacle.text)
                self._say(obstacle.text)
                # A quota may have become smaller since the job was made.
                if obstacle.is_quota and (too_much := self._what_no_quota_allows()):
                    self._give_up(too_much)
        lasting = [obstacle.text for obstacle in found if obstacle.prospect is Prospect.LASTS]
        if not lasting:
            self._stuck_since = None
            return
        if self._stuck_since is None:
            self._stuck_since, self._stuck_because = time.monotonic(), ""
        # The cluster gives its reason in full now and then; the longest is the one to hand on.
        self._stuck_because = max([self._stuck_because, *lasting], key=len)
        if time.monotonic() - self._stuck_since >= self._config.startup_seconds:
            self._give_up(self._stuck_because)

    def _give_up(self, why: str) -> None:
        self.cancel()
        raise UserError(f"job {self._name} was given up and deleted: {why}")

    def _keep_restart_budget(self) -> None:
        restarts = self._earlier_restarts + self._pods.replaced()
        if restarts == self._restarts:
            return
        self._restarts = restarts
        # A worker that goes takes the others along: what the cluster did to one is the reason.
        new = list(self._pods.endings().values())[self._endings_told :]
        self._endings_told += len(new)
        last = next(
            (ending for ending in reversed(new) if ending.reason in ("OOMKilled", "Evicted")),
            self._pods.ending_of_replaced(),
        )
        why = f" ({self._words(last) if last else _NOT_SEEN})"
        left = self._config.restarts - restarts
        if left < 0:
            self.cancel()
            raise JobFailedError(
                f"the workers were started again {self._config.restarts} times and ended once more"
                f"{why}; the job is deleted, what it saved stays, and the same command goes on"
            )
        self._say(f"a worker was replaced{why}; {left} restarts left")
        quietly_patch(self._api, self._name, {RESTARTS_ANNOTATION: str(restarts)})

    def _failure(self, failed: Manifest) -> Exception:
        """Return why a job failed: the word of the worker whose end was final.

        It is written on the job, where the same command finds that it was told.
        """
        final = self._final_ending(failed)
        self._follow_new_logs()
        self._finish_logs()
        if final is None:
            last = self._last_ending(lambda ending: ending.code != 0)
            words = f"; {self._words(last)}" if last else ""
            words = f"job {self._name} failed: {failed.get('message', '')}{words}"
        else:
            words = self._words(final)
        quietly_patch(self._api, self._name, {FAILURE_ANNOTATION: words})
        if final is not None and final.code == _USER_ERROR:
            return UserError(words)
        return JobFailedError(words)

    def _final_ending(self, failed: Manifest) -> Ending | None:
        def is_final(ending: Ending) -> bool:
            return ending.code is not None and 0 < ending.code < _FROM_HERE_ON_STARTED_AGAIN

        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        while not (final := self._last_ending(is_final)):
            if "deadline" in failed.get("message", "") or time.monotonic() >= deadline:
                break
            self._pods.wait(0.5)
        return final

    def _last_ending(self, suits: Any) -> Ending | None:
        return next((e for e in reversed(self._pods.endings().values()) if suits(e)), None)

    def _words(self, ending: Ending) -> str:
        complaints = {e: uid for uid, e in self._pods.endings().items()}
        log = self._logs.get(complaints.get(ending, ""))
        message = ending.message or (log.complaint if log else "")
        if ending.reason == "OOMKilled":
            message = f"it needs more than cluster.memory {self._config.memory}"
        elif ending.reason == "Evicted" and re.search("exceed(s|ed) .*limit", message):
            # Of its scratch, or of that and its log; /dev/shm cannot grow beyond its size.
            message = f"it needs more than cluster.scratch {self._config.scratch} ({message})"
        told = message.removeprefix(f"{self._task.step}: ") or "it said nothing; see its log above"
        return f"{ending}: {told}"

    def _finish_logs(self) -> None:
        for log in self._logs.values():
            log.finish(_LAST_WORDS_SECONDS)

    def _say(self, text: str) -> None:
        announce(self._task.step, text)


class _Patience:
    """How long an API may be away; says once that it is, and once that it is back."""

    def __init__(self, minutes: float, has_job: bool) -> None:
        self._minutes = minutes
        self._meanwhile = "the job goes on, and we try" if has_job else "trying"
        self._then = "; the job may go on: the same command follows it again" if has_job else ""
        self._since: float | None = None

    def lose(self, error: Exception, say: Any) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
            say(f"{error}; {self._meanwhile} again for {self._minutes:g} minutes")
        if now - self._since > 60 * self._minutes:
            raise JobLostError(f"{error}, for {self._minutes:g} minutes{self._then}") from None

    def regain(self, say: Any) -> None:
        if self._since is not None:
            say(f"the cluster's API answers again after {time.monotonic() - self._since:.0f} s")
            self._since = None


class _ExistsError(Exception):
    """A job of that name is there."""


def _create(api: Api, manifest: Manifest) -> None:
    """Create a job by Kubeflow's own client and models."""
    from kubeflow.training import ApiClient, KubeflowOrgV1PyTorchJob, TrainingClient
    from kubeflow.training.utils.utils import FakeResponse

    client = TrainingClient(client_configuration=api.configuration, namespace=api.namespace)
    job: KubeflowOrgV1PyTorchJob = ApiClient().deserialize(
        FakeResponse(manifest), "KubeflowOrgV1PyTorchJob"
    )
    try:
        client.create_job(job)
    except (RuntimeError, TimeoutError) as error:
        cause = error.__cause__ or error.__context__ or error
        if getattr(cause, "status", None) == 409:
            raise _ExistsError from None
        raise api.explain(cause) from None


@contextlib.contextmanager
def cancelled_with_us(backend: PyTorchJobBackend, config: ClusterConfig) -> Iterator[None]:
    """Delete the job first of all when this process is asked to end, for as long as the block runs.

    Under Kubeflow Pipelines the container is over up to a second after its run was terminated, at
    times after 50 ms. Argo signals the group of KFP's launcher, which dies of it; a step that runs
    in another group hears nothing but that death, so there it counts as SIGTERM, too.
    """
    failures: list[Exception] = []
    was_there = False
    asked = 0

    def cancel(number: int, _frame: FrameType | None) -> None:
        nonlocal was_there
        # Several reach a step; the second must not break into the deletion that the first began.
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        if config.cancel_on_sigterm:
            for wait_seconds in _CANCEL_WAITS_SECONDS:
                time.sleep(wait_seconds)
                try:
                    was_there = backend.cancel() or was_there
                    failures.clear()
                    break
                except (ApiAwayError, UserError) as error:
                    failures[:] = [error]
        leave(number)

    def leave(number: int, _frame: FrameType | None = None) -> None:
        nonlocal asked
        asked = asked or number
        # Raised where Python ends an object, such as a connection, it is dropped without a word.
        signal.setitimer(signal.ITIMER_REAL, _LEAVE_AGAIN_SECONDS)
        raise SystemExit(128 + asked)

    # SIGHUP is a terminal that was closed; under nohup it is ignored, and stays so.
    before = {
        number: handler
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        if (handler := signal.getsignal(number)) != signal.SIG_IGN or number != signal.SIGHUP
    }
    for number in before:
        signal.signal(number, cancel)
    alarm = signal.signal(signal.SIGALRM, leave)
    if "KFP_POD_NAME" in os.environ:
        _hear_of_ancestors_death()
    elif pipeline := os.environ.get(PIPELINE_PROCESS):
        _hear_of_ancestors_death(int(pipeline))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if asked:
            if config.cancel_on_sigterm:
                stays = "is deleted" if was_there else "of ours is not there"
            else:
                stays = "goes on" if backend.may_have_job else "was not submitted"
            if failures:
                stays = f"could not be deleted ({failures[0]}): sightline-cluster reap deletes it"
            print_line(f"asked to end; job {backend.name} {stays}", sys.stderr)
        for number, handler in {**before, signal.SIGALRM: alarm}.items():
            signal.signal(number, handler)
        if asked:  # whatever came of it meanwhile, such as that the job is gone
            raise SystemExit(128 + asked) from None


def _hear_of_ancestors_death(farthest: int = 1) -> None:
    """Take the end of any process above this one as SIGTERM, up to one, but a container's first.

    A parent-death signal (PR_SET_PDEATHSIG) would not do: between a step and KFP's launcher stands
    a shell, which lives on when the launcher dies.
    """
    ancestors = select.poll()
    process = os.getppid()
    # In a container without pidfds the run's reaper has to do.
    with contextlib.suppress(OSError):
        while process > 1:
            ancestors.register(os.pidfd_open(process), select.POLLIN)
            process = _parent_of(process) if process != farthest else 1
        main = threading.main_thread()

        def wait() -> None:
            ancestors.poll()
            if main.ident is not None:
                signal.pthread_kill(main.ident, signal.SIGTERM)

        threading.Thread(target=wait, name="ancestors", daemon=True).start()


def _parent_of(process: int) -> int:
    # The second field, a command in parentheses, may hold blanks and parentheses of its own.
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[1])


def reap(
    api: Api,
    selector: str,
    below: str = "",
    only_running: bool = False,
    wait_seconds: float = 120,
) -> list[str]:
    """Delete jobs, and wait until they and their pods are gone; return their names.

    Idempotent: nothing to delete is no error.

    Args:
        api: The cluster.
        selector: What their labels say.
        below: Only jobs whose results go to this address or below it, since two runs may share a
            name.
        only_running: Leave finished jobs for inspection.
        wait_seconds: How long pods may take to end.

    Raises:
        JobFailedError: If any is still there after that.
    """

    def found() -> list[str]:
        return [
            job["metadata"]["name"]
            for job in api.jobs(selector)
            if f"{_out_uri(job)}/".startswith(f"{below}/" if below else "")
            and not (only_running and (condition(job, "Succeeded") or condition(job, "Failed")))
        ]

    names = found()
    for name in names:
        api.delete(name, wait_for_pods=True)
    deadline = time.monotonic() + wait_seconds
    while (left := found()) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if left:
        raise JobFailedError(f"still there after {wait_seconds:.0f} s: {PLURAL} {', '.join(left)}")
    return names


def runs_of(api: Api, selector: str) -> list[str]:
    """Return where the runs lie whose jobs' labels match: the folders of their steps' results."""
    return sorted(
        {
            _out_uri(job).removesuffix(f"/{job['metadata']['labels'].get(STEP_LABEL, '')}")
            for job in api.jobs(selector)
        }
    )


def _out_uri(job: Manifest) -> str:
    return annotations_of(job).get(OUT_ANNOTATION, "")

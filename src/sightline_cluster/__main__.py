"""`sightline-cluster run | render | reap`: a step's job on the cluster, from any shell."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from sightline.cli import Parser, complain, parse_step
from sightline.config import check_address, nearest_name, read_values
from sightline.errors import SettingsError, UserError
from sightline.steps import COMMANDS
from sightline.storage import StorageUnavailableError
from sightline.storage.settings import StorageConfig, use_storage_settings
from sightline.telemetry import print_answer
from sightline_cluster.config import ClusterConfig
from sightline_cluster.render import RUN_LABEL, render_pytorchjob
from sightline_cluster.task import STEPS, Task, label_value, make_task, one_spelling

_DONE, _FAILURE, _USER_ERROR = 0, 1, 2
_TRY_LATER = 75  # EX_TEMPFAIL of sysexits.h

_HELP = """usage: sightline-cluster COMMAND

  run    [--cluster JSON|FILE] [--set NAME=VALUE …] STEP FLAGS…
         Submit a step as a PyTorchJob, follow it, and end as it ended. Started again, it follows
         the job that runs already.
  render [--cluster JSON|FILE] [--set NAME=VALUE …] STEP FLAGS…
         Print the job's manifest as YAML; nothing is asked of a cluster.
  reap   --run-id NAME | --all  [--out s3://…] [--namespace NAME]
         Delete every job that a run, or all runs, left behind, and wait until it is gone; with
         --out only those whose results go below it. Needed where several runs have that name.

STEP is pretrain, finetune or detect, and FLAGS are those of `sightline STEP --help`. The cluster's
settings, such as --set cpu=8 --set memory=32Gi, go before STEP: docs/settings.md"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 2 the user can mend it, 75 a server was away: the same command later goes on, 143 asked
    to end, 1 anything else.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {"run": _run, "render": _render, "reap": _reap}
    # A step has a help of its own.
    if not arguments or {"-h", "--help"} & set(arguments[: _place_of_step(arguments)]):
        print_answer(_HELP)
        return _DONE
    try:
        if arguments[0] not in commands:
            nearest = nearest_name(arguments[0], list(commands))
            hint = f"did you mean {nearest}?" if nearest else "see sightline-cluster --help"
            raise UserError(f"unknown command {arguments[0]!r}, {hint}")
        return commands[arguments[0]](arguments[1:])
    except UserError as error:
        complain("cluster", error)
        return _USER_ERROR
    except StorageUnavailableError as error:
        complain("cluster", error)
        return _TRY_LATER


def _run(argv: Sequence[str]) -> int:
    from sightline_cluster.launch import run_task
    from sightline_cluster.pytorchjob import JobFailedError, JobLostError

    task, config = _read(argv)
    try:
        run_task(task, config)
    except JobFailedError as error:
        complain(task.step, error)
        return _TRY_LATER if isinstance(error, JobLostError) else _FAILURE
    except UserError as error:
        complain(task.step, error)
        return _USER_ERROR
    return _DONE


def _render(argv: Sequence[str]) -> int:
    task, config = _read(argv)
    manifest = render_pytorchjob(task, config)
    if config.namespace:  # else it goes where kubectl is
        manifest["metadata"]["namespace"] = config.namespace
    print_answer(yaml.safe_dump(manifest, sort_keys=False))
    return _DONE


def _reap(argv: Sequence[str]) -> int:
    from sightline_cluster.api import ApiAwayError, connect
    from sightline_cluster.pytorchjob import JobFailedError, reap, runs_of

    parser = Parser(prog="sightline-cluster reap", allow_abbrev=False, add_help=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run-id")
    which.add_argument("--all", action="store_true")
    parser.add_argument("--out")
    parser.add_argument("--namespace")
    given = parser.parse_args(argv)
    if given.run_id is not None and not (given.run_id.strip() and given.run_id.isprintable()):
        parser.error(
            f"argument --run-id: needs a run's id, got {given.run_id!r}; --all takes all runs"
        )
    if given.namespace == "":  # an unset variable; another namespace's jobs are not meant
        parser.error("argument --namespace: needs a name, got an empty one")
    try:
        check_address(given.out or "")
        ClusterConfig.from_values({"namespace": given.namespace or ""})
    except ValueError as error:
        parser.error(f"argument --out: {error}")
    except SettingsError as error:
        parser.error(f"argument --{error.problems[0]}")
    below = one_spelling(given.out or "")
    if given.out is not None and not below.startswith("s3://"):
        parser.error(f"argument --out: jobs' results go to s3://… only, got {given.out!r}")
    selector = "app.kubernetes.io/managed-by=sightline-cluster"
    if given.run_id is not None:
        selector += f",{RUN_LABEL}={label_value(given.run_id)}"
    api = connect(given.namespace or "")
    try:
        if given.run_id is not None and not below and len(runs := runs_of(api, selector)) > 1:
            parser.error(
                f"several runs are called {given.run_id}, in {' and in '.join(runs)}: give --out, "
                "below which the one lies whose jobs are to go"
            )
        names = reap(api, selector, below)
        if given.namespace and not names:
            api.require_namespace()
    except (ApiAwayError, JobFailedError) as error:
        complain("cluster", error)
        return _TRY_LATER if isinstance(error, ApiAwayError) else _FAILURE
    nothing = f"nothing was left in namespace {api.namespace}"
    print_answer(f"deleted: {', '.join(names)}" if names else nothing)
    return _DONE


def _read(argv: Sequence[str]) -> tuple[Task, ClusterConfig]:
    """Split the arguments at the step's name: the cluster's come before it, the step's after it."""
    at = _place_of_step(argv)
    parser = Parser(prog="sightline-cluster run", allow_abbrev=False, add_help=False)
    parser.add_argument("--cluster", default="{}")
    parser.add_argument("--set", action="append", default=[])
    given, unknown = parser.parse_known_args(argv[:at])
    if unknown or at == len(argv):
        raise UserError(_what_is_no_step(unknown))
    values: dict[str, Any] = {"backend": "pytorchjob", **read_values(given.cluster, "--cluster")}
    for text in given.set:
        name, equals, value = text.partition("=")
        if not (equals and re.fullmatch(r"[a-z_0-9]+", name)):
            raise SettingsError(f"--set needs name=value, got {text!r}")
        values[name] = value
    config = ClusterConfig.from_values(values)
    command = COMMANDS[argv[at]]
    uris, settings, storage = parse_step(
        command.name, command.summary, command.uris_class, command.config_class, argv[at + 1 :]
    )
    use_storage_settings(storage)
    reached = StorageConfig.from_environment().model_dump(exclude_defaults=True)
    return make_task(command.name, uris.to_json(), settings.to_json(), reached), config


def _place_of_step(argv: Sequence[str]) -> int:
    return next((i for i, word in enumerate(argv) if word in STEPS), len(argv))


def _what_is_no_step(unknown: Sequence[str]) -> str:
    """Say what stands where a step's name should."""
    word = unknown[0] if unknown else ""
    if not word:
        return f"a step is needed: {', '.join(STEPS)}"
    if word in COMMANDS:
        return f"a job runs {', '.join(STEPS)}, got {word!r}: sightline {word} runs it here"
    if word.startswith("-"):
        return f"{word} is none of --cluster and --set: the step's own flags go after its name"
    nearest = nearest_name(word, STEPS)
    hint = f"did you mean {nearest}?" if nearest else f"use one of {', '.join(STEPS)}"
    return f"unknown step {word!r}, {hint}"


if __name__ == "__main__":
    sys.exit(main())

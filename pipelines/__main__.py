"""`python -m pipelines compile | run`: one pipeline, on this machine or as YAML for a cluster."""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.parameters import OWN_PARAMETERS
from pipelines.plan import CLUSTER, Plan, finished_steps, make_plan, read_assignments
from sightline.cli import TRY_LATER, Parser
from sightline.config import nearest_name, read_values
from sightline.errors import SettingsError, UserError
from sightline.storage import StorageUnavailableError
from sightline.telemetry import format_duration, print_answer, print_line

USER_ERROR, FAILURE, INTERRUPTED = 2, 1, 130


class _Parser(Parser):
    def parse(self, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Return what was given, and in words what is unknown of it."""
        given, unknown = self.parse_known_args(argv)
        flags: list[str] = []
        problems = []
        for word in unknown:
            if re.match("--?[A-Za-z]", word):
                flags.append(word)
            elif flags and " " not in flags[-1] and "=" not in flags[-1]:
                flags[-1] += f" {word}"
            else:
                problems.append(f"unexpected argument {word!r}")
        return given, [*map(self._explain_unknown, flags), *problems]

    def _explain_unknown(self, flag: str) -> str:
        known = [option for action in self._actions for option in action.option_strings]
        nearest = nearest_name(re.split("[ =]", flag)[0], known)
        return f"{flag} is unknown, " + (f"did you mean {nearest}?" if nearest else "see --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 the user can mend it, 1 anything else."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {"compile": _compile, "run": _run}
    if not arguments or arguments[0] in ("-h", "--help"):
        print_answer(_HELP)
        return 0
    try:
        if arguments[0] not in commands:
            nearest = nearest_name(arguments[0], list(commands))
            hint = f"did you mean {nearest}?" if nearest else "see --help"
            raise UserError(f"unknown command {arguments[0]!r}, {hint}")
        return commands[arguments[0]](arguments[1:])
    except UserError as error:
        print_line(f"pipelines: {error}", sys.stderr)
        return USER_ERROR
    except StorageUnavailableError as error:
        print_line(f"pipelines: {TRY_LATER}{error}", sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        print_line("pipelines: stopped from the keyboard", sys.stderr)
        return INTERRUPTED


def _compile(argv: Sequence[str]) -> int:
    parser = _Parser(prog="python -m pipelines compile", allow_abbrev=False)
    parser.add_argument(
        "--out",
        metavar="FILE",
        default="build/simclr_to_yolo.yaml",
        help="where the YAML goes [%(default)s]",
    )
    given, problems = parser.parse(argv)
    if problems:
        raise SettingsError("; ".join(problems), problems)
    target = Path(given.out)
    from pipelines.compile import compile_pipeline

    try:
        compile_pipeline(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from None
    print_answer(f"{target}: upload it in KFP's UI, or run it here with python -m pipelines run")
    return 0


def _run(argv: Sequence[str]) -> int:
    plan = _plan(*_run_parser().parse(argv))
    print_line(plan.describe())
    from pipelines.local_run import StepFailedError, run_locally
    from pipelines.outcome import describe_outcome

    start = time.monotonic()
    try:
        run_locally(plan)
    except StepFailedError as error:
        took = format_duration(time.monotonic() - start)
        print_line(f"pipelines: {error} (after {took}{_what_stays(plan)})", sys.stderr)
        return USER_ERROR if error.is_user_error else FAILURE
    except KeyboardInterrupt:
        print_line(f"\npipelines: stopped from the keyboard{_what_stays(plan)}", sys.stderr)
        return INTERRUPTED
    took = format_duration(time.monotonic() - start)
    print_line(f"\nrun {plan.run_id}: done in {took}\n{describe_outcome(plan.run_uri)}")
    return 0


def _what_stays(plan: Plan) -> str:
    """Say what a run that did not end well has finished, and how it goes on."""
    try:
        finished = finished_steps(plan)
    except (UserError, StorageUnavailableError):
        return ""  # what made the run fail is told, not that the same store cannot be asked
    if not finished:
        return ""
    again = f"the same command with --run-id {plan.run_id} goes on after them"
    return f"; finished steps stay: {', '.join(finished)}; {again}"


def _plan(given: argparse.Namespace, problems: list[str]) -> Plan:
    settings = _read_settings(given.settings, problems)
    assigned, misread = read_assignments(given.set)
    problems = [*problems, *misread]
    for step, values in assigned.items():
        settings[step] = {**settings.get(step, {}), **values}
    if given.backend is not None:
        settings[CLUSTER] = {**settings.get(CLUSTER, {}), "backend": given.backend}
    kinds = ("images", "labels", "boxes", "table", "initial_weights")
    data = {f"data_{kind}": getattr(given, kind) for kind in kinds}
    own = {name: getattr(given, name) for name in OWN_PARAMETERS}
    own = {name: value for name, value in own.items() if value is not None}
    return make_plan(given.out, given.run_id, data, given.preset, own, settings, problems)


def _read_settings(text: str | None, problems: list[str]) -> dict[str, dict[str, Any]]:
    if text is None:
        return {}
    try:
        found = read_values(text, "--settings")
    except SettingsError as error:
        problems += error.problems
        return {}
    problems += (
        f"--settings needs an object for step {step!r}, got {values!r}"
        for step, values in found.items()
        if not isinstance(values, dict)
    )
    return {step: values for step, values in found.items() if isinstance(values, dict)}


def _run_parser() -> _Parser:
    parser = _Parser(
        prog="python -m pipelines run",
        description="Run the whole pipeline on this machine, one process a step.",
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data, as paths or s3://… (at least one of the first three)")
    data.add_argument("--images", default="", metavar="FOLDER", help="images without labels")
    data.add_argument("--labels", default="", metavar="FOLDER", help="one folder of images a class")
    data.add_argument("--boxes", default="", metavar="FOLDER", help="images and YOLO label files")
    data.add_argument("--table", default="", metavar="FILE", help="CSV: name, group, split")
    data.add_argument(
        "--initial-weights", default="", metavar="FILE", help="weights to pretrain from (.pth)"
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--out",
        default="",
        metavar="FOLDER",
        help="data sets, runs and models; s3://… too [required]",
    )
    run.add_argument(
        "--run-id",
        default="",
        metavar="NAME",
        help="its folder's name; that of a run that was stopped: it goes on [time, UTC]",
    )
    run.add_argument("--preset", default="seed", help="seed, paper, mri or demo [seed]")
    run.add_argument("--seed", metavar="INT", help="seed of every training; splits stay [0]")
    run.add_argument("--workers", metavar="INT", help="processes that pretrain together [1]")
    run.add_argument(
        "--backend",
        metavar="NAME",
        help="where pretrain, finetune and detect run: local, or pytorchjob on the cluster of "
        "KUBECONFIG [local]",
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STEP.SETTING=VALUE",
        help="one setting, such as pretrain.epochs=3 or storage.s3_region=eu-central-1; may be "
        "repeated; all: docs/settings.md",
    )
    run.add_argument(
        "--settings",
        metavar="JSON|FILE",
        help='settings by step, such as {"pretrain": {"epochs": 3}}; --set wins',
    )
    gate = parser.add_argument_group("gate of promotion")
    gate.add_argument("--gate-metric", metavar="NAME", help="number that decides [auto]")
    gate.add_argument("--gate-floor", metavar="NUMBER", help="least value of a champion, 0 to 1")
    gate.add_argument("--gate-margin", metavar="NUMBER", help="by how much to beat the champion")
    return parser


_HELP = """usage: python -m pipelines COMMAND --help

  compile    Write the pipeline's YAML, which a laptop and a cluster run alike.
  run        Run the whole pipeline on this machine.

Single steps: sightline --help"""


if __name__ == "__main__":
    sys.exit(main())

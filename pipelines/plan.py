"""What a local run is going to do, checked whole before any work."""

import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.parameters import own_parameters, without_own
from sightline.cli import show_value
from sightline.config import StepConfig, nearest_name
from sightline.errors import SettingsError, UserError
from sightline.prepare.config import PrepareUris
from sightline.pretrain.config import PretrainConfig, require_given_weights
from sightline.steps import PIPELINE_STEPS, Step
from sightline.storage import join_uri, open_storage
from sightline.storage.artifacts import ARTIFACTS_FILE
from sightline.storage.finished import made_with
from sightline.storage.settings import StorageConfig, use_storage_settings
from sightline_cluster.config import ClusterConfig
from sightline_cluster.launch import check_tasks
from sightline_cluster.task import make_task

DATA = {
    "data_images": "images_uri",
    "data_labels": "labels_uri",
    "data_boxes": "boxes_uri",
    "data_table": "table_uri",
}
"""The pipeline's data parameters that become addresses of step prepare, and those."""

_READ_FROM_OUTSIDE = {"prepare": DATA, "pretrain": {"data_initial_weights": "initial_weights_uri"}}

STORAGE, CLUSTER = "storage", "cluster"
"""What settings of storage and of jobs are named after where others are named after their step."""

StepSettings = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Plan:
    """A run whose every setting was accepted; addresses of folders are absolute."""

    out: str
    run_id: str
    data: Mapping[str, str]
    preset: str
    configs: Mapping[str, StepConfig]
    storage: StorageConfig
    cluster: ClusterConfig
    finished: Sequence[str] = ()
    """The steps that finished before, where the run goes on."""

    @property
    def run_uri(self) -> str:
        """The folder that receives every step's results."""
        return join_uri(self.out, "runs", self.run_id)

    def arguments(self) -> dict[str, Any]:
        """Return the pipeline's parameters, with every step's settings whole."""
        own = {
            name: getattr(config, name)
            for step, config in self.configs.items()
            for name in own_parameters(step)
        }
        settings = {
            f"settings_{step}": without_own(step, config.to_json())
            for step, config in self.configs.items()
        }
        settings[f"settings_{STORAGE}"] = self.storage.to_json()
        settings[f"settings_{CLUSTER}"] = self.cluster.to_json()
        return {"out": self.out, "run_id": self.run_id, **self.data, **own, **settings}

    def describe(self) -> str:
        """Return what is going to happen, for a person to read before it does."""
        given = [
            f"{name.removeprefix('data_').replace('_', ' ')} {uri}"
            for name, uri in self.data.items()
            if uri
        ]
        lines = [f"run {self.run_id}, preset {self.preset}", f"  reads     {'; '.join(given)}"]
        lines.append(f"  writes    {self.run_uri}")
        if self.finished:
            lines.append(f"  goes on   after {', '.join(self.finished)}, as finished before")
        if reached := _changed(self.storage, "seed"):
            lines.append(f"  storage   {reached}")
        if placed := _changed(self.cluster, "seed"):
            lines.append(f"  cluster   {placed}")
        for step in PIPELINE_STEPS:
            changed = _changed(self.configs[step.name], self.preset)
            lines.append(f"  {step.name:<9} {step.summary}" + (f" ({changed})" if changed else ""))
        lines.append("  time      each step measures this machine first and says how long it needs")
        return "\n".join(lines)


def make_plan(
    out: str,
    run_id: str,
    data: Mapping[str, str],
    preset: str,
    own: Mapping[str, Any],
    settings: StepSettings,
    problems: Sequence[str] = (),
) -> Plan:
    """Check a run before any of its work starts.

    The settings of storage hold in this process from here on: its addresses are asked.

    Args:
        out: Folder for data sets, runs and models; "" where none was given.
        run_id: Name of the run's folder; "" makes one of the present time.
        data: The pipeline's data parameters; "" where there is no such data.
        preset: Values that every step starts from.
        own: Settings that have a parameter of their own, where given.
        settings: The other settings that were given, by step, and those of storage and of jobs.
        problems: What was wrong already when the arguments were read.

    Raises:
        SettingsError: If anything is refused, data is missing, or the run has finished, or finished
            steps of other data or settings; all problems at once. Then, if the cluster would not
            take the run's jobs.
        StorageUnavailableError: If an S3 server gives no answer.
    """
    problems = list(problems)
    problems += (
        f"step {name!r} is unknown{_hint(name, _SETTINGS)}"
        for name in settings
        if name not in _SETTINGS
    )
    storage = _use_storage(settings.get(STORAGE, {}), problems)
    preset, own = _take_shared(preset, own, problems)
    configs: dict[str, StepConfig] = {}
    for step in PIPELINE_STEPS:
        given = settings.get(step.name, {})
        problems += (
            f"{step.name}.{name} is given by --{name.replace('_', '-')}"
            for name in sorted(set(given) & set(own_parameters(step.name)))
        )
        mine = {name: own[name] for name in own_parameters(step.name) if name in own}
        try:
            configs[step.name] = step.config_class.from_values(
                {"preset": preset, **without_own(step.name, given), **mine}
            )
        except SettingsError as error:
            problems.append(str(error))
    cluster = _read_cluster(settings.get(CLUSTER, {}), problems)
    if cluster.backend != "local" and _is_local(out):
        problems.append(f"--out: pods read and write s3://… only, got {out}: give a bucket")
    place = {name: _absolute(uri) for name, uri in data.items()}
    run_id = run_id or datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", run_id):
        problems.append(f"--run-id needs letters, digits, dots, _ or -, got {run_id!r}")
    problems += _address_problems(out, place, ask_stores=storage is not None)
    if isinstance(pretrain := configs.get("pretrain"), PretrainConfig):
        try:
            require_given_weights(place.get("data_initial_weights", ""), pretrain)
        except SettingsError as error:
            problems.append(f"pretrain: {error}")
    plan = Plan(_absolute(out), run_id, place, preset, configs, storage or StorageConfig(), cluster)
    if not problems:
        plan = _after_finished_steps(plan, problems)
    if not problems and cluster.backend != "local":
        problems += _cluster_problems(plan)
    if problems:
        raise SettingsError("\n  ".join(["nothing was started:", *problems]), problems)
    return plan


def finished_steps(plan: Plan) -> list[str]:
    """Return the steps whose results are in the run's folder, in their order."""
    run = open_storage(plan.run_uri)
    return [step for step in _STEPS if run.exists(f"{step}/{ARTIFACTS_FILE}")]


def read_assignments(texts: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Read `--set step.setting=value` texts.

    Returns:
        The settings by step, and what is wrong with texts of another form or of no step.
    """
    found: dict[str, dict[str, Any]] = {}
    problems = []
    for text in texts:
        target, equals, value = text.partition("=")
        step, dot, name = target.partition(".")
        if not (equals and dot and name):
            problems.append(f"--set needs step.setting=value, got {text!r}")
        elif step not in _SETTINGS:
            problems.append(f"--set {text}: step {step!r} is unknown{_hint(step, _SETTINGS)}")
        else:
            found.setdefault(step, {})[name] = _read_value(settings_class(step), name, value)
    return found, problems


def settings_class(name: str) -> type[StepConfig]:
    """Return the class that declares the settings of a pipeline's step, of storage or of jobs."""
    around: dict[str, type[StepConfig]] = {STORAGE: StorageConfig, CLUSTER: ClusterConfig}
    return around.get(name) or _STEPS[name].config_class


_STEPS: Mapping[str, Step] = {step.name: step for step in PIPELINE_STEPS}
_SETTINGS = (*_STEPS, STORAGE, CLUSTER)


def _read_value(config_class: type[StepConfig], name: str, text: str) -> Any:
    field = config_class.model_fields.get(name)
    if field is not None and typing.get_origin(field.annotation) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _use_storage(values: Mapping[str, Any], problems: list[str]) -> StorageConfig | None:
    try:
        use_storage_settings(values)
        return StorageConfig.from_environment()
    except SettingsError as error:
        problems.append(str(error))
        return None


def _read_cluster(values: Mapping[str, Any], problems: list[str]) -> ClusterConfig:
    try:
        return ClusterConfig.from_values(values)
    except SettingsError as error:
        problems.append(str(error))
        return ClusterConfig()


def _take_shared(
    preset: str, own: Mapping[str, Any], problems: list[str]
) -> tuple[str, Mapping[str, Any]]:
    """Check once what every step would refuse, and go on with its default."""
    own = dict(own)
    any_step = next(step for step in PIPELINE_STEPS if "seed" in own_parameters(step.name))
    for name, value in (("preset", preset), ("seed", own.get("seed", 0))):
        try:
            any_step.config_class.from_values({name: value})
        except SettingsError as error:
            problems += (f"--{problem}" for problem in error.problems)
            preset = "seed" if name == "preset" else preset
            own = {key: kept for key, kept in own.items() if key != name}
    return preset, own


def _address_problems(out: str, data: Mapping[str, str], ask_stores: bool) -> list[str]:
    problems = []
    refused: dict[str, list[str]] = {}  # one reason often concerns several addresses
    if not out:
        problems.append("--out is required: the folder for data sets, runs and models")
    else:
        try:
            open_storage(out)
        except UserError as error:
            refused[str(error)] = ["--out"]
    for name, uri in data.items():
        if uri and (ask_stores or _is_local(uri)):
            flag = "--" + name.removeprefix("data_").replace("_", "-")
            is_file = name == "data_table" or uri.endswith(".pth")
            kind = "file" if is_file else "folder"
            try:
                if not _is_there(uri, kind):
                    problems.append(f"{flag} needs a {kind} that can be read, got {uri}")
            except UserError as error:
                refused.setdefault(str(error), []).append(flag)
    problems += (f"{', '.join(flags)}: {reason}" for reason, flags in refused.items())
    try:
        # What each holds was looked at above; here it counts which of them are given together.
        uris = {address: name if data.get(name) else "" for name, address in DATA.items()}
        PrepareUris.from_values({**uris, "store_uri": "store", "out_uri": "out"})
    except SettingsError as error:
        problems.append(str(error))
    return problems


def _is_there(uri: str, kind: str) -> bool:
    open_storage(uri)
    if _is_local(uri):
        return _can_be_read(Path(uri.removeprefix("file://")), is_file=kind == "file")
    return _is_object(uri) if kind == "file" else _holds_objects(uri)


def _can_be_read(path: Path, is_file: bool) -> bool:
    # Asked first: below a folder that must not be entered, is_dir() raises instead of answering.
    return os.access(path, os.R_OK) and (path.is_file() if is_file else path.is_dir())


def _is_object(uri: str) -> bool:
    folder, _, name = uri.rpartition("/")
    return open_storage(folder).exists(name)


def _holds_objects(uri: str) -> bool:
    return next(iter(open_storage(uri).list()), None) is not None


def _is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def _after_finished_steps(plan: Plan, problems: list[str]) -> Plan:
    """Let a run go on after the steps that finished in it before, made as it would make them."""
    where = f"run {plan.run_id} in {plan.out}"
    try:
        finished = finished_steps(plan)
        if len(finished) == len(_STEPS):
            problems.append(
                f"{where} has finished, and results are never overwritten: choose another --run-id"
            )
        elif others := [text for step in finished for text in _made_otherwise(plan, step)]:
            problems.append(
                f"{where} holds finished steps ({', '.join(finished)}), which were made with other "
                f"values ({'; '.join(others)}): give those, and it goes on, or choose another "
                "--run-id"
            )
    except UserError as error:
        problems.append(f"--out: {error}")
        return plan
    return replace(plan, finished=finished)


def _made_otherwise(plan: Plan, step: str) -> Iterator[str]:
    made = made_with(join_uri(plan.run_uri, step))
    for name, address in _READ_FROM_OUTSIDE.get(step, {}).items():
        flag = "--" + name.removeprefix("data_").replace("_", "-")
        yield from _difference(flag, made["uris"].get(address, ""), plan.data.get(name, ""))
    config = plan.configs[step]
    there, here = (config.what_counts(found) for found in (made["settings"], config.to_json()))
    for name in sorted({*there, *here}):
        yield from _difference(f"{step}.{name}", there.get(name), here.get(name))


def _difference(name: str, there: Any, here: Any) -> Iterator[str]:
    if there != here:
        yield f"{name} {show_value(there)} there and {show_value(here)} here"


def _cluster_problems(plan: Plan) -> list[str]:
    """Ask the cluster for the run's jobs before prepare works for hours; nothing is made."""
    dataset = join_uri(plan.out, "datasets", "0")  # prepare has yet to give them addresses
    encoder = {"encoder_uri": join_uri(plan.run_uri, "pretrain")}
    initial_weights = plan.data.get("data_initial_weights", "")
    reads = {
        "pretrain": {"dataset_uri": dataset, "initial_weights_uri": initial_weights},
        "finetune": {**encoder, "dataset_uri": plan.data["data_labels"] and dataset},
        "detect": {**encoder, "dataset_uri": plan.data["data_boxes"] and dataset},
    }
    storage = plan.storage.model_dump(exclude_defaults=True)
    try:
        check_tasks(
            [
                make_task(
                    step,
                    {**uris, "out_uri": join_uri(plan.run_uri, step)},
                    plan.configs[step].to_json(),
                    storage,
                )
                for step, uris in reads.items()
            ],
            plan.cluster,
        )
    except UserError as error:
        return [f"cluster: {error}"]
    return []


def _absolute(uri: str) -> str:
    if not uri or "://" in uri:
        return uri
    return str(Path(uri).expanduser().absolute())


def _changed(config: StepConfig, preset: str) -> str:
    usual = type(config).defaults(preset)
    changed = {name: v for name, v in config.to_json().items() if v != usual.get(name)}
    return ", ".join(f"{name} {show_value(value)}" for name, value in changed.items())


def _hint(name: str, known: Sequence[str]) -> str:
    nearest = nearest_name(name, known)
    return f", did you mean {nearest}?" if nearest else f", use one of {', '.join(known)}"

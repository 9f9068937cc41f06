"""The settings page of the docs, written from the settings classes: `make docs`."""

from sightline.cli import limit_texts, show_value, type_name
from sightline.config import StepConfig, default_of
from sightline.steps import COMMANDS, Step
from sightline.storage.settings import StorageConfig
from sightline.telemetry import print_answer
from sightline_cluster.config import ClusterConfig

_HEAD = """# Settings

Written by `make docs` from the settings classes, which `sightline <step> --help` prints too.

A setting of step `pretrain` is given as `--epochs 3` to `sightline pretrain`, as
`--set pretrain.epochs=3` to `python -m pipelines run`, as `{"epochs": 3}` in a file for
`--config`, and in the field `settings_pretrain` of KFP's form.
`gate_floor`, `gate_margin`, `gate_metric`, `seed` and `workers` are parameters of the pipeline
itself; `--preset` names a set of values to start from.
"""

_STORAGE = """## storage

How `s3://…` is reached: flags of every command, `--set storage.s3_region=eu-central-1` for
`python -m pipelines run`, the field `settings_storage` of KFP's form, or environment variables
such as `SIGHTLINE_S3_REGION`. [Storage](storage.md) explains them.
"""

_CLUSTER = """## cluster

How pretrain, finetune and detect run: `--backend pytorchjob --set cluster.cpu=8` for `python -m
pipelines run`, the field `settings_cluster` of KFP's form, `--set cpu=8` for `sightline-cluster`.
[Cluster](cluster.md) explains them.
"""


def render_settings_page() -> str:
    """Return the page's Markdown."""
    steps = [_render_step(step) for step in COMMANDS.values()]
    storage = [_STORAGE, *_render_settings(StorageConfig), ""]
    cluster = [_CLUSTER, *_render_settings(ClusterConfig), ""]
    return "\n".join([_HEAD, *steps, *storage, *cluster])


def _render_step(step: Step) -> str:
    lines = [f"## {step.name}", "", step.summary, ""]
    lines += ["| Address | What it is |", "| --- | --- |"]
    for name, field in step.uris_class.model_fields.items():
        needed = " (required)" if field.is_required() else ""
        lines.append(f"| `{name}` | {_cell(field.description)}{needed} |")
    if step.config_class.model_fields:
        lines += ["", *_render_settings(step.config_class)]
    presets = _render_presets(step.config_class)
    return "\n".join([*lines, *(["", *presets] if presets else []), ""])


def _render_settings(config_class: type[StepConfig]) -> list[str]:
    head = ["| Setting | Type | Default | What it does |", "| --- | --- | --- | --- |"]
    return head + [_render_setting(config_class, name) for name in config_class.model_fields]


def _render_setting(config_class: type[StepConfig], name: str) -> str:
    field = config_class.model_fields[name]
    limits = ", ".join(limit_texts(field))
    kind = _cell(type_name(field)) + (f", {limits}" if limits else "")
    default = show_value(default_of(config_class, name))
    return f"| `{name}` | {kind} | {default} | {_cell(field.description)} |"


def _render_presets(config_class: type[StepConfig]) -> list[str]:
    return [
        f"Preset `{preset}`: "
        + ", ".join(f"`{name}` {show_value(value)}" for name, value in values.items())
        + "."
        for preset, values in config_class.presets.items()
        if values
    ]


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    print_answer(render_settings_page())

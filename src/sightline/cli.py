"""The command line, derived from the settings classes: no flag is written twice."""

from __future__ import annotations

import argparse
import re
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any, NoReturn

from pydantic.fields import FieldInfo

from sightline.config import StepConfig, StepUris, default_of, nearest_name, read_values
from sightline.errors import SettingsError
from sightline.storage import StorageUnavailableError
from sightline.storage.settings import StorageConfig
from sightline.telemetry import print_answer, print_line

TRY_LATER = "try later: "
"""What a complaint starts with when there is nothing to mend."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is an error of ours, and whose help is printed as every answer."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        raise SettingsError(message)

    def _print_message(self, message: str, _file: Any = None) -> None:
        print_answer(message)


def parse_step(
    command: str,
    summary: str,
    uris_class: type[StepUris],
    config_class: type[StepConfig],
    argv: Sequence[str],
) -> tuple[StepUris, StepConfig, dict[str, Any]]:
    """Turn a step's arguments into its two frozen objects.

    Values are taken in this order, later ones win: preset, `--config`, flags.

    Returns:
        The step's addresses, its settings, and the settings of storage that were given, for
        `use_storage_settings`.

    Raises:
        SettingsError: If anything is unknown, missing or out of range; all problems at once.
    """
    parser = _build_parser(command, summary, uris_class, config_class)
    known, unknown = parser.parse_known_args(argv)
    given = {name: value for name, value in vars(known).items() if value is not None}
    uris = {name: given.pop(name) for name in uris_class.model_fields if name in given}
    storage = {name: given.pop(name) for name in StorageConfig.model_fields if name in given}
    values: dict[str, Any] = {}
    problems = [_explain_unknown(flag, uris_class, config_class) for flag in _flags(unknown)]
    loose = [text for text in unknown if not text.startswith("-")]
    if unknown and not problems:
        problems.append(f"unexpected argument {loose[0]!r}")
    try:
        values = read_values(given.pop("config")) if "config" in given else {}
    except SettingsError as error:
        problems.append(str(error))
    values = {**values, **given}
    parsed: list[StepConfig] = []
    groups = ((uris_class, uris), (config_class, values), (StorageConfig, storage))
    for cls, given_values in groups:
        try:
            parsed.append(cls.from_values(given_values))
        except SettingsError as error:
            problems.append(str(error))
    if problems:
        raise SettingsError("; ".join(problems))
    return typing.cast(StepUris, parsed[0]), parsed[1], storage


def _build_parser(
    command: str, summary: str, uris_class: type[StepUris], config_class: type[StepConfig]
) -> argparse.ArgumentParser:
    parser = Parser(prog=f"sightline {command}", description=summary, allow_abbrev=False)
    addresses = parser.add_argument_group("addresses (s3://… or a path)")
    for name, field in uris_class.model_fields.items():
        _add_flag(addresses, uris_class, name, field)
    settings = parser.add_argument_group("settings")
    settings.add_argument("--config", metavar="JSON|FILE", help="settings as JSON; flags win")
    if len(config_class.presets) > 1:
        settings.add_argument(
            "--preset",
            metavar="NAME",
            help=f"values to start from: {', '.join(config_class.presets)} [seed]",
        )
    for name, field in config_class.model_fields.items():
        _add_flag(settings, config_class, name, field)
    storage = parser.add_argument_group("how s3://… is reached (also SIGHTLINE_S3_… variables)")
    for name, field in StorageConfig.model_fields.items():
        _add_flag(storage, StorageConfig, name, field)
    return parser


def _add_flag(
    group: argparse._ArgumentGroup, cls: type[StepConfig], name: str, field: FieldInfo
) -> None:
    flag = "--" + name.replace("_", "-")
    help_text = describe(cls, name).replace("%", "%%")
    if field.annotation is bool:
        group.add_argument(
            flag, dest=name, action=argparse.BooleanOptionalAction, default=None, help=help_text
        )
        return
    is_list = typing.get_origin(field.annotation) is tuple
    group.add_argument(
        flag,
        dest=name,
        default=None,
        metavar=type_name(field),
        type=_split_list if is_list else str,
        help=help_text,
    )


def describe(cls: type[StepConfig], name: str) -> str:
    """Return a setting's description with its limits and default, on one line."""
    field = cls.model_fields[name]
    text = re.sub(r"\s+", " ", field.description or "").strip()
    limits = ", ".join(limit_texts(field))
    text += f" ({limits})" if limits else ""
    if field.is_required():
        return text + " [required]"
    return text + f" [{show_value(default_of(cls, name))}]"


def limit_texts(field: FieldInfo) -> list[str]:
    """Return a field's numeric limits as short texts such as `> 0`."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    found = []
    for entry in field.metadata:
        for limit, sign in signs.items():
            bound = getattr(entry, limit, None)
            if bound is not None:
                found.append(f"{sign} {bound:g}" if isinstance(bound, float) else f"{sign} {bound}")
    return found


def show_value(value: Any) -> str:
    """Return a default as a user would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple | list):
        return ",".join(str(item) for item in value) or "none"
    return "none" if value in (None, "") else str(value)


def type_name(field: FieldInfo) -> str:
    """Return the word that stands for a field's type in help and docs."""
    annotation = field.annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        annotation = parts[0]
    if typing.get_origin(annotation) is typing.Literal:
        return "|".join(str(choice) for choice in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        return "A,B,…"
    names = {int: "INT", float: "NUMBER", str: "TEXT", bool: "on|off"}
    return names.get(annotation, "TEXT")  # type: ignore[arg-type]


def _split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _flags(arguments: Sequence[str]) -> list[str]:
    return [text.split("=")[0] for text in arguments if re.match(r"--?[A-Za-z]", text)]


def _explain_unknown(flag: str, uris_class: type[StepUris], config_class: type[StepConfig]) -> str:
    declared = (uris_class, config_class, StorageConfig)
    known = [*(name for cls in declared for name in cls.model_fields), "config", "preset"]
    nearest = nearest_name(flag.lstrip("-").replace("-", "_"), known)
    hint = f", did you mean --{nearest.replace('_', '-')}?" if nearest else ", see --help"
    return f"{flag} is unknown{hint}"


def complain(command: str, error: Exception) -> None:
    """Print an error the way a person reads a log at night: one line, no traceback."""
    advice = TRY_LATER if isinstance(error, StorageUnavailableError) else ""
    print_line(f"{f'sightline {command}'.rstrip()}: {advice}{error}", sys.stderr)

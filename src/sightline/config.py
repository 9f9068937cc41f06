"""One declaration per setting; flags, JSON, pipeline defaults and the settings page follow."""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticUndefined

from sightline.errors import SettingsError

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""A seed as every generator takes it; numpy's older one and scikit-learn take none above."""


def _refuse_empty(address: str) -> str:
    # An unset variable; joined with a name it would be a folder of the machine's own, /runs.
    if not address:
        raise ValueError("an address is needed, got an empty one")
    return address


Place = Annotated[str, AfterValidator(_refuse_empty)]
"""An address below which folders of ours lie, by names of their own."""

# `?name=`, where a token would stand; a key may hold other question marks.
_QUERY = re.compile(r"\?[^/=]+=")

Rule = tuple[str, Callable[[Any], bool]]
"""What must hold of several settings together: what to say where it does not, with the settings in
the place of `{0}`, and whether it does."""


class StepConfig(BaseModel):
    """A step's settings: frozen, closed, finite; a field's docstring is its description.

    The defaults are preset `seed`. A preset is a named set of values of the same class,
    and `presets` is the only place that names them.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"seed": {}}
    rules: ClassVar[Sequence[Rule]] = ()
    changes_no_result: ClassVar[frozenset[str]] = frozenset()
    """Settings that may differ when a step goes on: they say how it is computed, not what."""

    @model_validator(mode="after")
    def _follow_rules(self, info: ValidationInfo) -> Self:
        refused = info.context or frozenset()
        for name in refused:
            self.__dict__.pop(name, None)
        broken = []
        for text, holds in self.rules:
            try:
                if not holds(self):
                    broken.append(text.format(self))
            except AttributeError:
                if not refused:
                    raise  # else a rule about a setting that was refused by itself
        if broken:
            raise _BrokenRulesError(broken)
        return self

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Build the settings from plain values, which may name a `preset` to start from.

        Args:
            values: Setting names and values, as JSON gives them; numbers may be strings.

        Raises:
            SettingsError: If anything is unknown, missing or out of range; all problems at once.
        """
        given = dict(values)
        preset = given.pop("preset", "seed")
        problems = []
        start: Mapping[str, Any] = {}
        if isinstance(preset, str) and preset in cls.presets:
            start = cls.presets[preset]
        else:
            problems.append(f"preset {preset!r} is unknown, use one of {', '.join(cls.presets)}")
        values = {**start, **given}
        try:
            config = cls.model_validate(values)
        except ValidationError as error:
            problems.extend(_explain(cls, error))
            problems.extend(_explain_rest(cls, values, error))
        if problems:
            count = f"{len(problems)} setting{'s' if len(problems) > 1 else ''}"
            raise SettingsError(f"{cls.__name__} rejects {count}: " + "; ".join(problems), problems)
        return config

    @classmethod
    def defaults(cls, preset: str = "seed") -> dict[str, Any]:
        """Return a preset's values as JSON types, without those that are None.

        The KFP compiler fails on a None inside a dict default.
        """
        return cls.from_values({"preset": preset}).to_json()

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON types, without those that are None."""
        return self.model_dump(mode="json", exclude_none=True)

    def what_counts(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of a step's settings, as JSON types, that its result depends on."""
        return {name: v for name, v in settings.items() if name not in self.changes_no_result}


class _BrokenRulesError(ValueError):
    def __init__(self, rules: Sequence[str]) -> None:
        super().__init__("; ".join(rules))
        self.rules = rules


class StepUris(StepConfig):
    """A step's addresses: where it reads and where it writes; `s3://…` or a path.

    They stand in manifests, in results and in logs, so one with credentials in it is refused here.
    """

    @field_validator("*")
    @classmethod
    def _check_address(cls, uri: str) -> str:
        return check_address(uri)


def read_values(text: str, flag: str = "--config") -> dict[str, Any]:
    """Read settings: a JSON object, or the path of a file that holds one.

    Args:
        text: What the user gave.
        flag: The flag it was given to, as messages name it.

    Raises:
        SettingsError: If it is neither.
    """
    if text.lstrip().startswith("{"):
        source, content = flag, text
    else:
        source = text
        try:
            content = Path(text).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # a ValueError: bytes that are no UTF-8, a NUL
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise SettingsError(
                f"{flag} needs a JSON object or a readable file, got {text!r}: {reason}"
            ) from None
    try:
        values = json.loads(content)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{source} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{source} must be a JSON object, got {type(values).__name__}")
    return values


def nearest_name(name: str, known: Sequence[str]) -> str | None:
    """Return the known name that a misspelt one most likely meant."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return matches[0] if matches else None


def check_address(uri: str) -> str:
    """Return the address of a folder or a file, `s3://…` or a path, as it was given.

    Raises:
        ValueError: If it is of another kind, holds credentials, or names a host before a path, no
            bucket, or not one place. What may be a secret is not repeated.
    """
    scheme, separator, place = uri.partition("://")
    mistyped = re.match(r"(s3a?|gs|https?|file):", uri, re.IGNORECASE)
    if mistyped and not separator:
        # As a path it would be a folder of that name, here, where nobody looks for it.
        raise ValueError(
            f"an address that begins with {mistyped[0]} needs two slashes after it: write "
            "s3://bucket/prefix, or ./ before a folder of that name"
        )
    if separator and scheme not in ("s3", "file"):
        raise ValueError(f"cannot open {scheme}://…: give s3://bucket/prefix or a folder")
    if scheme == "file" and separator and not place.startswith("/"):
        raise ValueError("a file:// address names no host: give file:///folder, or just the path")
    if re.match("//[^/]*@", uri):
        raise ValueError("an address holds no credentials: give s3://bucket/prefix or a folder")
    if not separator or scheme == "file":
        return uri
    bucket, _, prefix = place.partition("/")
    if "@" in bucket or ":" in bucket or _QUERY.search(place):
        raise ValueError(
            "an S3 address holds no credentials, no port and no query: give s3://bucket/prefix, "
            "and the credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not bucket or not all(letter.isalnum() or letter in "._-" for letter in bucket):
        raise ValueError(f"{uri!r} names no bucket: give s3://bucket/prefix")
    if {".", ".."} & set(prefix.split("/")):
        raise ValueError(f"{uri!r} holds . or ..: give the address itself")
    return uri


def check_http_address(text: str, credentials: str, example: str = "http://minio:9000") -> str:
    """Return the address of a server, or "", as it was given.

    Args:
        text: What the user gave.
        credentials: What to do about credentials, which an address does not hold.
        example: An address as it should be.

    Raises:
        ValueError: If it is none; credentials in it are not repeated.
    """
    if re.search("[@?#]", text):  # a token may stand in a query, too
        raise ValueError(f"an address holds no credentials, and no @, ? or #: {credentials}")
    if text and not _is_http_address(text):
        raise ValueError(f"needs an address such as {example}, got {text!r}")
    return text


def _is_http_address(text: str) -> bool:
    if re.search(r"\s", text):  # which urlsplit drops
        return False
    try:
        parts = urllib.parse.urlsplit(text)
        is_served = parts.scheme in ("http", "https") and parts.port != 0
        return is_served and _is_host(parts.hostname or "")
    except ValueError:  # an open bracket, or a port that is no number up to 65535
        return False


def _is_host(name: str) -> bool:
    """Say whether a name may be one of a host: an address, or labels of up to 63 characters.

    Raises:
        ValueError: If not, too.
    """
    if ":" in name:
        return bool(ipaddress.ip_address(name))
    ascii_name = name.encode("idna").decode()  # as a name server is asked
    return bool(re.fullmatch(r"([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?", ascii_name))


def _explain(cls: type[StepConfig], error: ValidationError) -> list[str]:
    problems = []
    for problem in error.errors(include_url=False):
        name = ".".join(str(part) for part in problem["loc"]) or cls.__name__
        if problem["type"] == "extra_forbidden":
            nearest = nearest_name(name, list(cls.model_fields))
            hint = f"did you mean {nearest}?" if nearest else f"see {cls.__name__} for all names"
            problems.append(f"{name} is unknown, {hint}")
        elif problem["type"] == "missing":
            problems.append(f"{name} is required")
        elif isinstance(broken := problem.get("ctx", {}).get("error"), _BrokenRulesError):
            problems.extend(broken.rules)
        elif problem["type"] == "value_error":
            rule = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{name}: {rule}" if problem["loc"] else rule)
        else:
            rule = problem["msg"][0].lower() + problem["msg"][1:]
            problems.append(f"{name}: {rule}, got {problem['input']!r}")
    return problems


def _explain_rest(
    cls: type[StepConfig], values: Mapping[str, Any], error: ValidationError
) -> list[str]:
    """Say which rules are broken among the settings that were not refused by themselves.

    pydantic looks at several together only where each alone is right.
    """
    refused = frozenset(problem["loc"][0] for problem in error.errors() if problem["loc"])
    if not refused:
        return []
    try:
        rest = {name: value for name, value in values.items() if name not in refused}
        cls.model_validate(rest, context=refused)
    except ValidationError as broken:
        return [] if any(problem["loc"] for problem in broken.errors()) else _explain(cls, broken)
    return []


def default_of(cls: type[StepConfig], name: str) -> Any:
    """Return a field's default as JSON shows it, or None if it is required."""
    default = cls.model_fields[name].default
    return None if default is PydanticUndefined else default

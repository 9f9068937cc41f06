"""What a job is to do: one step with all its settings, and who it belongs to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sightline.config import StepConfig, StepUris
from sightline.errors import UserError
from sightline.steps import COMMANDS

STEPS = ("pretrain", "finetune", "detect")
"""The steps that may run as a job of their own."""


@dataclass(frozen=True)
class Task:
    """One step of one run, checked whole."""

    step: str
    uris: StepUris
    config: StepConfig
    storage: Mapping[str, Any]
    """How S3 is reached, where it differs from the defaults."""

    @property
    def out_uri(self) -> str:
        """The folder that receives the step's results."""
        # Every class of addresses has this field, but their base declares none.
        return str(self.uris.out_uri)  # type: ignore[attr-defined]

    @property
    def run_id(self) -> str:
        """The run's name: results lie in `…/<run>/<step>`, or else in `…/<run>`."""
        parts = [part for part in self.out_uri.split("/") if part]
        if len(parts) > 1 and parts[-1] == self.step:
            return parts[-2]
        return parts[-1]

    @property
    def has_data(self) -> bool:
        """Whether there is anything to do; else the step publishes that it was skipped."""
        # The steps that run as jobs have it, and no others come here.
        return bool(self.uris.dataset_uri)  # type: ignore[attr-defined]

    @property
    def workers(self) -> int:
        """Processes that train together; one to say that there is nothing to do."""
        return int(getattr(self.config, "workers", 1)) if self.has_data else 1


def make_task(
    step: str, uris: Mapping[str, Any], settings: Mapping[str, Any], storage: Mapping[str, Any]
) -> Task:
    """Check a step's addresses and settings as the worker would, before anything is asked for.

    Raises:
        UserError: If anything is refused, or the step's data lie where no pod can read them.
    """
    if step not in STEPS:
        raise UserError(f"a job runs {', '.join(STEPS)}, got {step!r}")
    command = COMMANDS[step]
    parsed = command.uris_class.from_values(
        {name: one_spelling(uri) if isinstance(uri, str) else uri for name, uri in uris.items()}
    )
    config = command.config_class.from_values(settings)
    local = {
        name: uri for name, uri in parsed.to_json().items() if uri and not uri.startswith("s3://")
    }
    if local:
        found = ", ".join(f"{name} {uri}" for name, uri in local.items())
        raise UserError(f"pods read and write s3://… only, got {found}: copy the data to a bucket")
    return Task(step, parsed, config, storage)


def one_spelling(uri: str) -> str:
    """Return an S3 address without the slashes that name no other place, at its end or doubled."""
    scheme, separator, place = uri.partition("://")
    if scheme != "s3":
        return uri
    return f"{scheme}{separator}{'/'.join(part for part in place.split('/') if part)}"


def label_value(text: str, length: int = 63) -> str:
    """Return a text as a label's value: the same where it can be, else cut, with 8 hex digits."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-_.")
    if plain == text and len(text) <= length:
        return text
    return f"{plain[: length - 9].rstrip('-_.')}-{short_hash(text)}".lstrip("-")


def short_hash(text: str) -> str:
    """Return 8 hex digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]

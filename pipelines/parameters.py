"""The pipeline's parameters: which settings have one of their own, and what the rest default to."""

from collections.abc import Mapping
from typing import Any

from sightline.config import StepConfig
from sightline_cluster.config import ClusterConfig

GATE = ("gate_floor", "gate_margin", "gate_metric")
OWN_PARAMETERS = ("seed", "workers", *GATE)
"""Settings that a user changes most: each is a typed parameter of the pipeline, by its own name."""

_OF_STEP = {"prepare": (), "pretrain": ("seed", "workers"), "promote": ("seed", *GATE)}


def own_parameters(step: str) -> tuple[str, ...]:
    """Return the settings of a step that arrive as parameters of their own."""
    return _OF_STEP.get(step, ("seed",))


def without_own(step: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that travel in the step's dict parameter."""
    return {name: value for name, value in values.items() if name not in own_parameters(step)}


def settings_default(step: str, config_class: type[StepConfig]) -> dict[str, Any]:
    """Return the default of a step's dict parameter: whole, so that KFP's form shows it all."""
    return without_own(step, config_class.defaults())


def cluster_default() -> dict[str, Any]:
    """Return the default of a cluster's run: the image that its steps run in holds no torch."""
    return {**ClusterConfig.defaults(), "backend": "pytorchjob"}

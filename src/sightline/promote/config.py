"""Settings of promotion and of its way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sightline.config import Place, Rule, Seed, StepConfig, StepUris

Task = Literal["classification", "detection"]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]

METRICS_OF_TASK: Mapping[str, tuple[str, ...]] = {
    "classification": ("balanced_accuracy", "accuracy", "f1_macro", "f1_weighted"),
    "detection": ("map50_95", "map50"),
}


class PromoteUris(StepUris):
    """Where the challenger lies, and the store whose champion it challenges."""

    report_uri: str = ""
    """Folder of the finished report step, to which the champion's record points; empty: none."""
    finetune_uri: str = ""
    """Folder of the finished finetune step, whose classifier task classification judges."""
    detect_uri: str = ""
    """Folder of the finished detect step, whose detector task detection judges."""
    labels_uri: str = ""
    """Data set version with labels whose test split judges classifiers; empty: there is none."""
    boxes_uri: str = ""
    """Data set version with boxes whose test split judges detectors; empty: there is none."""
    models_uri: Place
    """Store of promoted models; the champion is <models_uri>/<task>/<name>/champion.json."""
    out_uri: str
    """Folder for decision.json; must hold no result yet."""


class PromoteConfig(StepConfig):
    """The gate a challenger must pass."""

    task: Task = "classification"
    """Which model is promoted: the fine-tuned classifier or the detector."""
    name: ModelName = "default"
    """Name of the champion; runs with the same name compete for one place (a-z, 0-9, . _ -)."""
    gate_metric: Literal[
        "auto", "balanced_accuracy", "accuracy", "f1_macro", "f1_weighted", "map50_95", "map50"
    ] = "auto"
    """Number that decides, from 0 to 1; auto: balanced_accuracy for a classifier, map50_95 for a
    detector."""
    gate_floor: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Least value of the metric that any champion must reach, from 0 to 1."""
    gate_margin: Annotated[float, Field(ge=0, le=1)] = 0.0
    """By how much the challenger must beat the champion, in units of the metric; a tie never
    promotes."""
    seed: Seed = 0
    """Seed of the bootstrap behind the intervals."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "seed": {},
        "paper": {},
        "mri": {},
        "demo": {"gate_floor": 0.4},
    }

    rules: ClassVar[Sequence[Rule]] = (
        (
            "gate_metric {0.gate_metric} does not exist for task {0.task}: use auto or one of "
            "{0.metrics}",
            lambda config: config.gate_metric in ("auto", *METRICS_OF_TASK[config.task]),
        ),
    )

    @property
    def metrics(self) -> str:
        """The metrics that may decide, as a message lists them."""
        return ", ".join(METRICS_OF_TASK[self.task])

    @property
    def metric(self) -> str:
        """The metric that decides, with `auto` resolved."""
        return METRICS_OF_TASK[self.task][0] if self.gate_metric == "auto" else self.gate_metric


class RollbackUris(StepUris):
    """The store whose champion is moved back."""

    models_uri: Place
    """Store of promoted models; the champion is <models_uri>/<task>/<name>/champion.json."""


class RollbackConfig(StepConfig):
    """Which champion is moved back."""

    task: Task = "classification"
    """Which kind of model: the classifier or the detector."""
    name: ModelName = "default"
    """Name of the champion, as it was promoted."""

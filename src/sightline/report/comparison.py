"""The protocols side by side: rows, gaps with their paired intervals, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.errors import UserError
from sightline.report.config import ReportConfig
from sightline.report.protocols import BY_KEY, PROTOCOLS, Protocol
from sightline.report.results import Results, StepResult
from sightline.report.wording import percent, points, points_interval
from sightline.scoring import Predictions, paired_difference, read_predictions


@dataclass(frozen=True)
class Row:
    """One protocol with its entry of `metrics.json`."""

    protocol: Protocol
    entry: dict[str, Any]

    @property
    def accuracy(self) -> dict[str, Any]:
        """Accuracy with its interval."""
        return dict(self.entry["accuracy"])


@dataclass(frozen=True)
class Gap:
    """How much better one protocol is than another on the same images."""

    better: Protocol
    baseline: Protocol
    question: str
    accuracy: dict[str, Any]
    balanced_accuracy: dict[str, Any]
    sentence: str

    @property
    def key(self) -> str:
        """The gap's name in `summary.json`."""
        return f"{self.better.key}_minus_{self.baseline.key}"

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `not distinguishable`, `open` or `no interval`.

        `open`: by accuracy and by balanced accuracy it is not the same one of the first three.
        """
        return _verdict(self.accuracy, self.balanced_accuracy)


@dataclass(frozen=True)
class _Question:
    better: str
    baseline: str
    question: str
    if_better: str
    if_worse: str
    if_equal: str


_QUESTIONS = (
    _Question(
        "finetuned",
        "linear",
        "Is it worth training the whole encoder, or are frozen features enough?",
        "The frozen features do not hold all that the labels ask for: adapting the encoder pays.",
        "Training the whole encoder lost something that the frozen features hold, most likely by "
        "overfitting: prefer the linear layer, or train more gently.",
        "The frozen features may already hold what the labels ask for; this test split cannot "
        "tell.",
    ),
    _Question(
        "finetuned",
        "scratch",
        "Does pretraining help the fine-tuned network?",
        "Pretraining helps: the same network without it does worse on the same images.",
        "Pretraining hurts here: the same network does better without it.",
        "This run does not show that pretraining helps or hurts; more test groups or several seeds "
        "could.",
    ),
    _Question(
        "linear",
        "linear_random",
        "Did pretraining learn anything that a random encoder does not have?",
        "Pretraining has put class information into the features that random weights lack.",
        "The features of a random encoder serve the labels better: pretraining went wrong, or "
        "learned something that the labels do not ask for.",
        "Pretrained features cannot be told from random ones here: no evidence that they learned.",
    ),
    _Question(
        "finetuned",
        "pixel_nearest_neighbour",
        "Is it better than looking up the most similar picture?",
        "More than looking up similar pixels.",
        "A look-up of similar pixels does better: the network is not worth using, or the test "
        "images have near copies in the training split.",
        "The network cannot be told from a look-up of similar pixels: no evidence of skill.",
    ),
)


def collect_rows(results: Results) -> list[Row]:
    """Return every protocol that was measured, baselines first, the strongest idea last."""
    entries = {**results.evaluate.protocols, **results.finetune.protocols}
    return [
        Row(protocol, entries[protocol.key]) for protocol in PROTOCOLS if protocol.key in entries
    ]


def label_fraction_rows(results: Results) -> list[dict[str, Any]]:
    """Return the trainings with a part of the labels, fewest first, the whole ones last."""
    fractions = results.finetune.metrics.get("label_fractions") or {}
    if not fractions:
        return []
    steps = [*sorted(fractions.items(), key=lambda item: float(item[0]))]
    return [
        {
            "share": percent(float(fraction)),
            "title": BY_KEY[key].title,
            "colour": BY_KEY[key].colour,
            "entry": entry,
        }
        for fraction, protocols in [*steps, ("1", results.finetune.protocols)]
        for key, entry in protocols.items()
    ]


def measure_gaps(results: Results, config: ReportConfig) -> list[Gap]:
    """Return each question's gap, for the protocols that left their predictions.

    Raises:
        UserError: If two protocols were not scored on the same images.
    """
    predictions = _read_all_predictions((results.evaluate, results.finetune))
    return [
        _measure(question, predictions[question.better], predictions[question.baseline], config)
        for question in _QUESTIONS
        if question.better in predictions and question.baseline in predictions
    ]


def _read_all_predictions(steps: Sequence[StepResult]) -> dict[str, Predictions]:
    found = {}
    for step in steps:
        for key in step.protocols:
            if step.has(f"predictions_{key}.csv"):
                found[key] = read_predictions(step.folder / f"predictions_{key}.csv")
    return found


def _measure(
    question: _Question, first: Predictions, second: Predictions, config: ReportConfig
) -> Gap:
    better, baseline = BY_KEY[question.better], BY_KEY[question.baseline]
    second = _aligned(first, second, better, baseline)
    accuracy, balanced = (
        paired_difference(
            metric,
            first.labels,
            first.probabilities,
            second.probabilities,
            first.groups,
            bootstrap_samples=config.bootstrap_samples,
            seed=config.seed,
        )
        for metric in ("accuracy", "balanced_accuracy")
    )
    sentence = _say(question, better, baseline, accuracy, balanced)
    return Gap(better, baseline, question.question, accuracy, balanced, sentence)


def _aligned(
    first: Predictions, second: Predictions, better: Protocol, baseline: Protocol
) -> Predictions:
    if sorted(first.names) != sorted(second.names) or first.classes != second.classes:
        raise UserError(
            f"{better.key} and {baseline.key} were scored on different test images or classes, so "
            "their gap means nothing: run evaluate and finetune on the same data set version"
        )
    places = {name: place for place, name in enumerate(second.names)}
    order = np.array([places[name] for name in first.names], dtype=np.int64)
    return Predictions(
        first.names,
        first.groups,
        second.labels[order],
        second.predicted[order],
        second.probabilities[order],
        second.classes,
    )


def _verdict(accuracy: dict[str, Any], balanced: dict[str, Any]) -> str:
    verdicts = {_judge(accuracy), _judge(balanced)}
    if "no interval" in verdicts:
        return _judge(accuracy)
    return verdicts.pop() if len(verdicts) == 1 else "open"


def _judge(difference: dict[str, Any]) -> str:
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return "no interval"
    if low > 0:
        return "better"
    return "worse" if high < 0 else "not distinguishable"


def _say(
    question: _Question,
    better: Protocol,
    baseline: Protocol,
    accuracy: dict[str, Any],
    balanced: dict[str, Any],
) -> str:
    names = f"{better.title} minus {baseline.title[0].lower()}{baseline.title[1:]}"
    measured = f"{names}: {points(accuracy['value'])} points of accuracy"
    verdict = _verdict(accuracy, balanced)
    if verdict == "no interval":
        return f"{measured}. One test group alone gives no interval, so nothing follows from it."
    measured += f" (95 % interval {points_interval(accuracy)})."
    if verdict == "open":
        return f"{measured} {_say_where_they_disagree(accuracy, balanced)}"
    if verdict == "not distinguishable":
        return f"{measured} Not distinguishable: the interval contains 0. {question.if_equal}"
    return f"{measured} {question.if_better if verdict == 'better' else question.if_worse}"


def _say_where_they_disagree(accuracy: dict[str, Any], balanced: dict[str, Any]) -> str:
    relations = {
        "not distinguishable": "contains 0",
        "better": "lies above 0",
        "worse": "lies below 0",
    }
    return (
        f"By accuracy the interval {relations[_judge(accuracy)]}, by balanced accuracy "
        f"({points_interval(balanced)}) it {relations[_judge(balanced)]}: the two disagree, so "
        "treat it as open."
    )


def best_row(rows: Sequence[Row]) -> Row | None:
    """Return the protocol whose classifier the run leaves: fine-tuned, else linear, else none."""
    by_key = {row.protocol.key: row for row in rows}
    return by_key.get("finetuned") or by_key.get("linear")


def chance_of(row: Row) -> str:
    """Return what guessing evenly among the classes would reach."""
    return percent(1 / len(row.entry["confusion_matrix"]["classes"]))

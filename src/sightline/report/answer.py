"""The answer in sentences, and what limits its trust."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sightline.report.comparison import Gap, Row, best_row
from sightline.report.config import ReportConfig
from sightline.report.detection import detection_gap_sentence
from sightline.report.results import Results
from sightline.report.wording import (
    count,
    decimal,
    decimal_interval,
    listing,
    percent,
    percent_with_interval,
)

_COMPARED = ("majority", "pixel_nearest_neighbour", "linear_random", "linear", "scratch")


@dataclass(frozen=True)
class DemoScale:
    """Whether the numbers are too few to be trusted, and which counts say so."""

    reasons: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.reasons)


def judge_scale(results: Results, rows: Sequence[Row], config: ReportConfig) -> DemoScale:
    """Compare the counts behind the numbers with the settings' thresholds."""
    reasons = []
    for what, entry in _test_sets(results, rows):
        images, groups = entry.get("test_images"), entry.get("test_groups")
        if images is not None and images < config.demo_below_test_images:
            reasons.append(
                f"{what} is tested on {count(images, 'image')}, "
                f"fewer than {config.demo_below_test_images:,}"
            )
        if groups is not None and groups < config.demo_below_test_groups:
            reasons.append(
                f"{what} is tested on {count(groups, 'group')}, "
                f"fewer than {config.demo_below_test_groups:,}"
            )
    images = results.pretrain.metrics.get("images")
    if images is not None and images < config.demo_below_pretrain_images:
        reasons.append(
            f"pretraining saw {count(images, 'image')}, "
            f"fewer than {config.demo_below_pretrain_images:,}"
        )
    return DemoScale(tuple(reasons))


def _test_sets(results: Results, rows: Sequence[Row]) -> list[tuple[str, dict[str, Any]]]:
    found = [("classification", row.entry) for row in rows[-1:]]
    detectors = list(results.detect.protocols.values())
    return found + [("detection", entry) for entry in detectors[-1:]]


def headline(results: Results, rows: Sequence[Row], gaps: Sequence[Gap]) -> list[str]:
    """Return the run's answer in plain sentences, numbers and intervals included."""
    return [
        *_classification_sentences(results, rows, gaps),
        *_detection_sentences(results),
    ]


def _classification_sentences(
    results: Results, rows: Sequence[Row], gaps: Sequence[Gap]
) -> list[str]:
    best = best_row(rows)
    if best is None:
        reason = results.evaluate.skipped or results.finetune.skipped
        return [f"Nothing was classified: {reason}." if reason else "Nothing was classified."]
    test = (
        f"{count(best.entry['test_images'], 'test image')} of "
        f"{count(best.entry['test_groups'], 'group')}"
    )
    sentences = [
        f"The {_lower(best.protocol.title)} classifier names the right class in "
        f"{percent_with_interval(best.accuracy)} of {test}."
    ]
    others = [
        f"{_lower(row.protocol.title)} {percent(row.accuracy['value'])}"
        for row in rows
        if row.protocol.key in _COMPARED and row is not best
    ]
    if others:
        sentences.append(f"On the same images: {listing(others)}.")
    sentences += [gap.sentence for gap in gaps if gap.baseline.key in ("scratch", "linear")]
    return sentences


def _detection_sentences(results: Results) -> list[str]:
    detectors = results.detect.protocols
    if "pretrained" not in detectors:
        reason = results.detect.skipped
        return [f"Nothing was detected: {reason}." if reason else "Nothing was detected."]
    said = []
    for key, words in (("pretrained", "on the pretrained encoder"), ("scratch", "from scratch")):
        number = detectors.get(key, {}).get("map50_95")
        if number:
            bounds = decimal_interval(number)
            interval = f" ({bounds})" if bounds else " (no interval)"
            said.append(f"{decimal(number['value'])}{interval} {words}")
    sentences = [f"YOLOv12 reaches an mAP50-95 of {listing(said)}."]
    return [*sentences, *filter(None, [detection_gap_sentence(results.detect)])]


def limitations(
    results: Results, rows: Sequence[Row], scale: DemoScale, config: ReportConfig
) -> list[str]:
    """Return in words what the numbers do not show."""
    found = []
    if scale:
        found.append(
            "Demo scale: " + "; ".join(scale.reasons) + ". The numbers show that the "
            "pipeline works, not how good the method is, and a bootstrap over few groups gives "
            "intervals that are too narrow."
        )
    found += [note for note in [groups_note(results, config)] if note]
    found += [
        "One seed: training again with another seed changes the numbers by an amount that these "
        "intervals do not contain. They describe the choice of test groups only.",
        "One test split, read once per run after every choice was made on the validation split. "
        "Images from another scanner or hospital may be harder.",
        "Intervals are 95 % percentile bootstraps over groups. With several comparisons on one "
        "page, one in twenty misses the truth by design.",
    ]
    if (
        len(rows)
        and min((facts["support"] for facts in rows[-1].entry["per_class"].values()), default=30)
        < 30
    ):
        found.append("Some classes have fewer than 30 test images: read their rows with care.")
    return found


def groups_note(results: Results, config: ReportConfig) -> str:
    """Return what must be said beside every interval about the groups; empty if nothing."""
    if config.groups_are:
        return f"Groups are {config.groups_are}."
    groups = results.prepare.metrics.get("groups") or {}
    known, images = groups.get("known", 0), groups.get("images", 0)
    if not groups or known >= images:
        return ""
    whose = "no image" if not known else f"only {known:,} of {images:,} images"
    return (
        f"Groups (patients) are known for {whose}; every other image counts as its own group. "
        "Images of one patient may then lie in several splits, which raises scores, and the "
        "intervals are narrower than they should be."
    )


def _lower(title: str) -> str:
    return title if title[:2] == "kN" else title[0].lower() + title[1:]

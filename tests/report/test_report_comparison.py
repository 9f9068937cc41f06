from collections.abc import Callable
from typing import Any

import pytest

from sightline.errors import UserError
from sightline.report import comparison, wording
from sightline.report.answer import headline
from sightline.report.comparison import collect_rows, label_fraction_rows, measure_gaps
from sightline.report.config import ReportConfig, ReportUris
from sightline.report.detection import detection_gap_sentence
from sightline.report.results import read_results

QUICK = ReportConfig(bootstrap_samples=500)
RIGHT = {
    "finetuned": 0,
    "linear": 0,
    "scratch": 0,
    "linear_random": 0,
    "pixel_nearest_neighbour": 0,
}


def gaps_by_key(write_run: Callable[..., ReportUris], **wrong: int) -> dict[str, Any]:
    results = read_results(write_run(wrong={**RIGHT, **wrong}))
    return {gap.key: gap for gap in measure_gaps(results, QUICK)}


def test_rows_go_from_baselines_to_the_finetuned_network(write_run: Callable[..., ReportUris]):
    rows = collect_rows(read_results(write_run()))
    assert [row.protocol.key for row in rows] == [
        "majority",
        "pixel_nearest_neighbour",
        "linear_random",
        "knn",
        "linear",
        "scratch",
        "finetuned",
    ]


def test_gap_is_a_difference_of_accuracies_on_the_same_images(
    write_run: Callable[..., ReportUris],
):
    gap = gaps_by_key(write_run, linear=12)["finetuned_minus_linear"]
    assert gap.accuracy["value"] == pytest.approx(12 / 24)
    assert gap.verdict == "better"
    assert gap.accuracy["low"] > 0
    assert "+50.0 points of accuracy" in gap.sentence
    assert "adapting the encoder pays" in gap.sentence


def test_equal_protocols_are_not_distinguishable(write_run: Callable[..., ReportUris]):
    gap = gaps_by_key(write_run)["finetuned_minus_scratch"]
    assert gap.accuracy == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert gap.verdict == "not distinguishable"
    assert "Not distinguishable: the interval contains 0." in gap.sentence
    assert "does not show that pretraining helps or hurts" in gap.sentence


def test_one_error_more_in_six_groups_is_not_distinguishable(
    write_run: Callable[..., ReportUris],
):
    # Only 1 group of 6 differs; resamples without it, (5/6)^6 = 33 %, have a gap of 0.
    gap = gaps_by_key(write_run, scratch=1)["finetuned_minus_scratch"]
    assert gap.accuracy["value"] == pytest.approx(1 / 24)
    assert gap.accuracy["low"] == 0
    assert gap.verdict == "not distinguishable"


def test_pretraining_that_hurts_is_said(write_run: Callable[..., ReportUris]):
    gap = gaps_by_key(write_run, finetuned=12)["finetuned_minus_scratch"]
    assert gap.verdict == "worse"
    assert f"{wording.MINUS}50.0 points" in gap.sentence
    assert "Pretraining hurts here" in gap.sentence


def test_beating_the_nearest_pixels_is_said_to_be_that_and_no_more(
    write_run: Callable[..., ReportUris],
):
    gap = gaps_by_key(write_run, pixel_nearest_neighbour=12)[
        "finetuned_minus_pixel_nearest_neighbour"
    ]
    assert gap.verdict == "better"
    assert gap.sentence.endswith("More than looking up similar pixels.")


def test_one_group_alone_gives_no_verdict(write_run: Callable[..., ReportUris]):
    uris = write_run(classes=("one",), groups_per_class=1)
    gap = measure_gaps(read_results(uris), QUICK)[0]
    assert gap.verdict == "no interval"
    assert "nothing follows from it" in gap.sentence


def test_protocols_on_different_images_are_refused(write_run: Callable[..., ReportUris]):
    uris = write_run(drop_test_image_of="finetuned")
    with pytest.raises(UserError, match="on the same data set version"):
        measure_gaps(read_results(uris), QUICK)


def test_few_labels_are_listed_before_all_of_them(write_run: Callable[..., ReportUris]):
    results = read_results(write_run())
    whole = results.finetune.protocols
    few = {key: {**entry, "labels_used": 5} for key, entry in whole.items()}
    assert label_fraction_rows(results) == []
    results.finetune.metrics["label_fractions"] = {"0.5": whole, "0.1": few}
    lines = label_fraction_rows(results)
    assert [line["share"] for line in lines] == ["10.0 %"] * 2 + ["50.0 %"] * 2 + ["100.0 %"] * 2
    assert lines[0]["entry"]["labels_used"] == 5


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.2, "Pretraining helps the detector."),
        (-0.05, 0.2, "Not distinguishable: the interval contains 0"),
        (-0.3, -0.1, "Pretraining hurts the detector here."),
        (None, None, "gives no interval"),
    ],
)
def test_detectors_are_compared_by_their_paired_interval(
    write_run: Callable[..., ReportUris], low: float | None, high: float | None, said: str
):
    detect = read_results(write_run()).detect
    detect.metrics["difference"] = {"map50_95": {"value": 0.1, "low": low, "high": high}}
    assert said in detection_gap_sentence(detect)
    detect.metrics["difference"] = {"map50_95": {"value": None, "low": None, "high": None}}
    assert detection_gap_sentence(detect) == ""


def test_numbers_read_as_people_write_them():
    number = {"value": 0.8125, "low": 0.7701, "high": 0.85}
    assert wording.percent_with_interval(number) == "81.2 % (95 % interval 77.0 to 85.0 %)"
    assert wording.percent(None) == wording.MISSING
    assert wording.points(-0.0004) == "±0.0"
    assert wording.points(-0.034) == f"{wording.MINUS}3.4"
    assert wording.count(1, "image") == "1 image"
    assert wording.count(2400, "image") == "2,400 images"
    assert wording.listing(["a", "b", "c"]) == "a, b and c"
    assert wording.markdown_cell("a|b\n<c>") == "a\\|b &lt;c>"


def number(low: float | None, high: float | None) -> dict[str, float | None]:
    return {"value": 0.128, "low": low, "high": high}


@pytest.mark.parametrize(
    ("accuracy", "balanced", "verdict", "said"),
    [
        (
            number(-0.026, 0.269),
            number(0.006, 0.271),
            "open",
            "By accuracy the interval contains 0, by balanced accuracy (+0.6 to +27.1) it lies "
            "above 0: the two disagree, so treat it as open.",
        ),
        (number(0.01, 0.2), number(0.0, 0.2), "open", "lies above 0, by balanced accuracy (±0.0"),
        (number(0.01, 0.2), number(-0.2, -0.1), "open", "it lies below 0: the two disagree"),
        (number(0.01, 0.2), number(0.01, 0.3), "better", "Pretraining helps"),
        (number(-0.1, 0.2), number(0.0, 0.3), "not distinguishable", "the interval contains 0."),
        (number(None, None), number(None, None), "no interval", "nothing follows from it"),
    ],
)
def test_accuracy_and_balanced_accuracy_that_disagree_leave_the_question_open(
    write_run: Callable[..., ReportUris],
    monkeypatch: pytest.MonkeyPatch,
    accuracy: dict[str, float | None],
    balanced: dict[str, float | None],
    verdict: str,
    said: str,
):
    measured = {"accuracy": accuracy, "balanced_accuracy": balanced}
    monkeypatch.setattr(comparison, "paired_difference", lambda metric, *_, **__: measured[metric])
    results = read_results(write_run())
    gaps = measure_gaps(results, QUICK)
    gap = {gap.key: gap for gap in gaps}["finetuned_minus_scratch"]
    assert gap.verdict == verdict
    assert said in gap.sentence
    assert ("treat it as open" in gap.sentence) == (verdict == "open")
    assert gap.sentence in headline(results, collect_rows(results), gaps)

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sightline.config import StepConfig, StepUris
from sightline.data import open_dataset
from sightline.encoders import EncoderSpec, build_encoder
from sightline.encoders.yolo_detector import DetectorSpec, build_detector, save_detector
from sightline.encoders.yolo_scoring import load_detector, score_detector
from sightline.promote.config import PromoteConfig, PromoteUris
from sightline.promote.run import run
from sightline.storage import new_artifacts
from sightline.storage.artifacts import read_json, write_json


class StandInConfig(StepConfig):
    """Settings of a stand-in step."""


class StandInUris(StepUris):
    """Addresses of a stand-in step."""

    dataset_uri: str
    out_uri: str


@pytest.fixture
def detect_step(tmp_path: Path, boxes_dataset: str) -> Callable[..., str]:
    """Return `write(name, map50_95, classes)`: a finished detect step of an untrained detector."""

    def write(name: str, map50_95: float, classes: tuple[str, ...] = ("disc", "square")) -> str:
        encoder = build_encoder(EncoderSpec("resnet18", 64), seed=len(name))
        spec = DetectorSpec(encoder.spec, "n", classes, 64)
        uri = str(tmp_path / name / "detect")
        uris = StandInUris(dataset_uri=boxes_dataset, out_uri=uri)
        number = {"value": map50_95, "low": None, "high": None}
        with new_artifacts("detect", uris, StandInConfig(), uri) as folder:
            save_detector(build_detector(encoder, spec), folder / "detector.pt")
            entry = {"map50_95": number, "map50": number}
            write_json(folder / "metrics.json", {"protocols": {"pretrained": entry}})
        return uri

    return write


@pytest.fixture
def promote_detector(tmp_path: Path, boxes_dataset: str) -> Callable[..., dict[str, Any]]:
    """Return `promote(name, detect_uri)`: judges a detect step."""

    def promote(name: str, detect_uri: str, **settings: object) -> dict[str, Any]:
        uris = PromoteUris(
            report_uri=str(tmp_path / name / "report"),
            finetune_uri=str(tmp_path / name / "finetune"),
            detect_uri=detect_uri,
            boxes_uri=boxes_dataset,
            models_uri=str(tmp_path / "models"),
            out_uri=str(tmp_path / name / "promote"),
        )
        config = PromoteConfig.from_values({"task": "detection", "gate_floor": 0.0, **settings})
        return run(uris, config)

    return promote


def test_champion_detector_is_scored_again_by_its_own_weights(
    detect_step: Callable[..., str],
    promote_detector: Callable[..., dict[str, Any]],
    boxes_dataset: str,
    tmp_path: Path,
):
    # It is recorded with 0.9, but its weights are random: scored again it finds nothing, so a
    # challenger with 0.3 takes its place.
    first = promote_detector("first", detect_step("first", 0.9))
    assert first["promoted"]
    second = promote_detector("second", detect_step("second", 0.3))
    assert second["champion_before"]["recorded_value"] == 0.9
    stored = load_detector(
        f"{tmp_path}/models/detection/default/versions/{first['champion_after']}"
    )
    truth = score_detector(stored, open_dataset(boxes_dataset))["map50_95"]
    assert second["champion_before"]["on_this_test_split"]["value"] == truth["value"] < 0.3
    assert second["promoted"]
    record = read_json(tmp_path / "models/detection/default/champion.json")
    assert (record["metric"], record["value"]) == ("map50_95", 0.3)


def test_detector_of_other_classes_is_not_compared(
    detect_step: Callable[..., str], promote_detector: Callable[..., dict[str, Any]]
):
    promote_detector("first", detect_step("first", 0.9))
    other = detect_step("second", 0.95, classes=("disc", "square", "star"))
    decision = promote_detector("second", other)
    assert not decision["promoted"]
    assert "they cannot be compared" in decision["reason"]

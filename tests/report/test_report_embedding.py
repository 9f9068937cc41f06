from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.errors import UserError
from sightline.report import figures
from sightline.report.config import ReportConfig, ReportUris
from sightline.report.embedding import map_features
from sightline.report.results import Results, StepResult, read_results


def features_of(
    folder: Path, names: list[str], labels: list[int], **arrays: np.ndarray[Any, Any]
) -> StepResult:
    folder.mkdir(parents=True)
    np.savez(folder / "test_features.npz", names=np.array(names), labels=np.array(labels), **arrays)
    return StepResult(str(folder), folder, {}, {})


def results_with(evaluate: StepResult, finetune: StepResult) -> Results:
    empty = StepResult("none", Path("none"), {}, {})
    return Results(empty, empty, evaluate, finetune, empty)


def test_maps_show_the_same_images_in_the_same_order_whatever_order_the_files_have(tmp_path: Path):
    random = np.random.default_rng(0)
    names = [f"{number:02d}.png" for number in range(40)]
    labels = [number % 2 for number in range(40)]
    values = random.normal(size=(40, 8)).astype(np.float32) + 20 * np.array(labels)[:, None]
    back = list(reversed(range(40)))
    evaluate = features_of(tmp_path / "e", names, labels, random=values, pretrained=values)
    finetune = features_of(
        tmp_path / "f", [names[i] for i in back], [labels[i] for i in back], finetuned=values[back]
    )
    maps = map_features(results_with(evaluate, finetune), ReportConfig())
    assert maps is not None
    assert list(maps.maps) == ["random", "pretrained", "finetuned"]
    assert maps.labels.tolist() == labels
    # The same features in another file's order give the very same map.
    np.testing.assert_array_equal(maps.maps["pretrained"], maps.maps["finetuned"])


def test_classes_far_apart_in_features_are_apart_in_the_map(tmp_path: Path):
    random = np.random.default_rng(0)
    labels = [0] * 20 + [1] * 20
    values = random.normal(size=(40, 8)).astype(np.float32) + 50 * np.array(labels)[:, None]
    names = [f"{number:02d}.png" for number in range(40)]
    evaluate = features_of(tmp_path / "e", names, labels, pretrained=values)
    maps = map_features(results_with(evaluate, evaluate), ReportConfig())
    assert maps is not None
    points = maps.maps["pretrained"]
    for index, point in enumerate(points):
        distances = np.linalg.norm(points - point, axis=1)
        distances[index] = np.inf
        assert labels[int(distances.argmin())] == labels[index]


def test_too_many_images_are_thinned_by_the_seed(write_run: Callable[..., ReportUris]):
    results = read_results(write_run())
    maps = map_features(results, ReportConfig(tsne_points=10))
    assert maps is not None
    assert (len(maps.labels), maps.images) == (10, 24)
    assert all(points.shape == (10, 2) for points in maps.maps.values())


def test_too_few_images_give_no_map(tmp_path: Path):
    values = np.zeros((6, 4), np.float32)
    evaluate = features_of(tmp_path / "e", list("abcdef"), [0] * 6, pretrained=values)
    assert map_features(results_with(evaluate, evaluate), ReportConfig()) is None


def test_features_of_different_images_are_refused(tmp_path: Path):
    values = np.zeros((8, 4), np.float32)
    evaluate = features_of(tmp_path / "e", list("abcdefgh"), [0] * 8, pretrained=values)
    finetune = features_of(tmp_path / "f", list("abcdefgx"), [0] * 8, finetuned=values)
    with pytest.raises(UserError, match="features of other images"):
        map_features(results_with(evaluate, finetune), ReportConfig())


def test_thousands_of_points_are_drawn_as_one_picture():
    points = np.random.default_rng(0).normal(size=(5000, 2))
    labels = np.arange(5000) % 3
    svg = figures.feature_map(points, labels, ("a", "b", "c"), "many")
    assert "data:image/png;base64" in svg
    assert len(svg) < 600_000

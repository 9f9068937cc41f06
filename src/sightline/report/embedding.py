"""t-SNE maps of the same test images by the random, the pretrained and the fine-tuned encoder."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from sightline.errors import UserError
from sightline.report.config import ReportConfig
from sightline.report.results import Results
from sightline.telemetry import announce, format_duration, track

FEATURE_SETS = (
    ("random", "Random initialisation"),
    ("pretrained", "Pretrained, frozen"),
    ("finetuned", "Fine-tuned"),
)
_FEWEST_POINTS = 7
_PROBE_POINTS = 200
_PROBE_ITERATIONS = 250
_ITERATIONS = 1000
_COMPONENTS = 50


@dataclass(frozen=True)
class FeatureMaps:
    """Maps of the same images; row i of every map belongs to `labels[i]`."""

    labels: NDArray[np.int64]
    maps: dict[str, NDArray[np.float64]]
    images: int
    """How many test images there were before thinning."""


def map_features(results: Results, config: ReportConfig) -> FeatureMaps | None:
    """Map the test features that evaluate and finetune left; None if there are too few.

    Raises:
        UserError: If the two steps left features of different images.
    """
    features, labels = _collect(results)
    if not features or len(labels) < _FEWEST_POINTS:
        return None
    generator = np.random.default_rng(config.seed)
    count = min(len(labels), config.tsne_points)
    chosen = np.sort(generator.choice(len(labels), size=count, replace=False))
    reduced = {key: _reduce(values[chosen], config.seed) for key, values in features.items()}
    _announce_duration(list(reduced.values()), config)
    maps = {
        key: _embed(values, config, _ITERATIONS)
        for key, values in track(reduced.items(), "report: t-SNE maps", len(reduced))
    }
    return FeatureMaps(labels[chosen], maps, len(labels))


def _collect(results: Results) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    features: dict[str, NDArray[np.float32]] = {}
    names: NDArray[np.str_] | None = None
    labels = np.empty(0, dtype=np.int64)
    for step in (results.evaluate, results.finetune):
        arrays = step.read_arrays("test_features.npz")
        present = [key for key, _ in FEATURE_SETS if key in arrays]
        if not present:
            continue
        order = np.argsort(arrays["names"], kind="stable")
        if names is not None and not np.array_equal(names, arrays["names"][order]):
            raise UserError(
                f"{step.uri} has test features of other images than {results.evaluate.uri}: "
                "run evaluate and finetune on the same data set version"
            )
        names, labels = arrays["names"][order], arrays["labels"][order].astype(np.int64)
        features.update({key: arrays[key][order] for key in present})
    return {key: features[key] for key, _ in FEATURE_SETS if key in features}, labels


def _reduce(values: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    # As van der Maaten and Hinton (2008) do: it removes noise and most of the cost.
    components = min(_COMPONENTS, *values.shape)
    pca = PCA(n_components=components, svd_solver="full", random_state=seed)
    reduced: NDArray[np.float64] = pca.fit_transform(values.astype(np.float64))
    return reduced


def _embed(values: NDArray[np.float64], config: ReportConfig, steps: int) -> NDArray[np.float64]:
    tsne = TSNE(
        perplexity=min(config.tsne_perplexity, (len(values) - 1) / 3),
        init="pca",
        max_iter=steps,
        random_state=config.seed,
    )
    points: NDArray[np.float64] = tsne.fit_transform(values).astype(np.float64)
    return points


def _announce_duration(feature_sets: list[NDArray[np.float64]], config: ReportConfig) -> None:
    count = len(feature_sets[0])
    probe = min(count, _PROBE_POINTS)
    start = time.perf_counter()
    _embed(feature_sets[0][:probe], config, _PROBE_ITERATIONS)
    seconds = time.perf_counter() - start
    # Barnes-Hut t-SNE costs N log N a step.
    growth = count * math.log(count) / (probe * math.log(probe))
    total = seconds * growth * _ITERATIONS / _PROBE_ITERATIONS * len(feature_sets)
    announce(
        "report",
        f"mapping the features of {count} test images {len(feature_sets)} times with t-SNE, "
        f"about {format_duration(total)}",
    )

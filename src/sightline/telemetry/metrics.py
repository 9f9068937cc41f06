"""Every metric that Sightline exports: its name, kind, unit and meaning, once.

Names follow https://prometheus.io/docs/practices/naming: one prefix, base units, `_total` on
counters. Labels hold one of a few words, never an address or a setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One line of the table."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    """What it counts or measures, with its unit."""
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper ends of a histogram's buckets."""


TRAIN_LOSS = Metric("sightline_train_loss", "gauge", "Loss of the last step in nats.", ("step",))
TRAIN_LEARNING_RATE = Metric(
    "sightline_train_learning_rate", "gauge", "Learning rate of the last step.", ("step",)
)
TRAIN_EPOCH = Metric(
    "sightline_train_epoch", "gauge", "Epoch that is trained, counted from 1.", ("step",)
)
TRAIN_STEPS = Metric(
    "sightline_train_steps_total", "counter", "Optimiser steps of this process.", ("step",)
)
TRAIN_IMAGES = Metric(
    "sightline_train_images_total",
    "counter",
    "Images that all workers have trained on since this process started.",
    ("step",),
)
TRAIN_STEP_SECONDS = Metric(
    "sightline_train_step_duration_seconds",
    "histogram",
    "Seconds of one optimiser step, waiting for data included.",
    ("step",),
    (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
)
TRAIN_DATA_WAIT = Metric(
    "sightline_train_data_wait_seconds_total",
    "counter",
    "Seconds in which the network waited for data.",
    ("step",),
)
TRAIN_GRADIENT_NORM = Metric(
    "sightline_train_gradient_norm", "gauge", "Euclidean norm of the last gradient.", ("step",)
)
EMBEDDING_STD = Metric(
    "sightline_embedding_std",
    "gauge",
    "Spread of the projections: 1 in all directions alike, 0 collapsed to a point.",
    ("step",),
)
EMBEDDING_EFFECTIVE_RANK = Metric(
    "sightline_embedding_effective_rank", "gauge", "Directions that projections fill.", ("step",)
)
EMBEDDING_KNN_ACCURACY = Metric(
    "sightline_embedding_knn_accuracy_ratio",
    "gauge",
    "kNN accuracy of the frozen encoder on labelled val images, 0 to 1.",
    ("step",),
)
CHECKPOINT_SAVED_AT = Metric(
    "sightline_checkpoint_last_save_timestamp_seconds",
    "gauge",
    "Unix time at which the last checkpoint was stored.",
    ("step",),
)
CHECKPOINT_FAILURES = Metric(
    "sightline_checkpoint_failures_total",
    "counter",
    "Checkpoints that could not be stored; training went on.",
    ("step",),
)
CHECKPOINT_FALLBACKS = Metric(
    "sightline_checkpoint_fallbacks_total",
    "counter",
    "Damaged checkpoints that were passed over for the one before.",
    ("step",),
)
STORAGE_RETRIES = Metric(
    "sightline_storage_retries_total",
    "counter",
    "Requests to the object store that were tried again, by kind of failure.",
    ("kind",),
)
PUSHES_DROPPED = Metric(
    "sightline_push_dropped_total", "counter", "Pushes that the Pushgateway did not take."
)
STEP_STARTED_AT = Metric(
    "sightline_step_last_start_timestamp_seconds",
    "gauge",
    "Unix time at which a step of the pipeline last began.",
    ("step",),
)
STEP_SUCCESS_AT = Metric(
    "sightline_step_last_success_timestamp_seconds",
    "gauge",
    "Unix time at which a step of the pipeline last ended well.",
    ("step",),
)
STEP_SECONDS = Metric(
    "sightline_step_duration_seconds", "gauge", "Seconds that a step took.", ("step",)
)
BUILD_INFO = Metric("sightline_build_info", "gauge", "1; which Sightline runs.", ("version",))

METRICS: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)

"""Every network's features, computed once; all protocols start from them."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sightline.data import derived_seed
from sightline.data.labelled import LabelledImages
from sightline.encoders import Encoder, build_encoder, encode_images
from sightline.errors import UserError
from sightline.evaluate.config import EvaluateConfig
from sightline.telemetry import announce, format_duration, track
from sightline.training.devices import autocast, pick_device

Features = dict[str, NDArray[np.float32]]


def frozen_networks(encoder: Encoder, config: EvaluateConfig) -> dict[str, Encoder]:
    """Return the encoder as `pretrained` and one from random initialisation as `random`."""
    random_encoder = build_encoder(encoder.spec, seed=derived_seed(config.seed, "random encoder"))
    networks = {"pretrained": encoder, "random": random_encoder}
    for network in networks.values():
        network.requires_grad_(False).eval()
    return networks


def encode_all(
    networks: Mapping[str, Encoder], images: LabelledImages, config: EvaluateConfig
) -> Features:
    """Return each network's features of the images, float32 (N, width)."""
    device = pick_device()
    size = config.encode_batch_size
    features: Features = {}
    for name, network in networks.items():
        starts = range(0, len(images), size)
        with autocast(device, config.precision):
            parts = [
                encode_images(
                    network, images.images[start : start + size], config.image_size, size, device
                )
                for start in track(starts, f"evaluate: {name} features of {images.name}, batch")
            ]
        features[name] = np.concatenate(parts)
        if not np.isfinite(features[name]).all():
            raise UserError(
                f"the {name} encoder gives features that are not finite for {images.name} images: "
                "its training diverged, or its precision is too low; pretrain again"
            )
    return features


def announce_duration(
    networks: Mapping[str, Encoder], images: LabelledImages, total: int, config: EvaluateConfig
) -> None:
    """Encode a few images, and say how long all of them will take on this machine."""
    few = images.take(range(min(len(images), config.encode_batch_size, 32)))
    one = {"pretrained": networks["pretrained"]}
    encode_all(one, few.take([0]), config)
    start = time.perf_counter()
    encode_all(one, few, config)
    seconds = (time.perf_counter() - start) / len(few) * total * len(networks)
    announce("evaluate", f"encoding takes about {format_duration(seconds)} on this machine")

"""Encoders as pretraining leaves them, and a detect step that has run once on tiny images."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sightline.detect.config import DetectConfig, DetectUris
from sightline.encoders import EncoderSpec, build_encoder, save_encoder
from sightline.storage import new_artifacts

TINY = {
    "image_size_px": 64,
    "epochs": 2,
    "batch_size": 4,
    "warmup_epochs": 0.0,
    "mosaic_off_epochs": 1,
    "bootstrap_samples": 20,
    "picture_count": 2,
    "loader_processes": 0,
}


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., DetectConfig]:
    """Return `make(**changes)`: settings that train in seconds."""

    def make(**changes: object) -> DetectConfig:
        return DetectConfig.from_values({**TINY, **changes})

    return make


@pytest.fixture(scope="session")
def encoder_uri(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return `make(name)`: the address of an encoder with statistics of its own."""
    store = tmp_path_factory.mktemp("encoders")

    def make(name: str) -> str:
        uri = str(store / name)
        if not Path(uri).exists():
            encoder = build_encoder(EncoderSpec(name, image_size=64), seed=1)
            encoder.train()
            with torch.no_grad():
                encoder(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
            nowhere = DetectUris(encoder_uri="-", dataset_uri="", out_uri=uri)
            with new_artifacts("pretrain", nowhere, DetectConfig(), uri) as folder:
                save_encoder(encoder, folder)
        return uri

    return make


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    boxes_dataset: str,
    encoder_uri: Callable[[str], str],
    tiny_config: Callable[..., DetectConfig],
) -> SimpleNamespace:
    """Return a finished detect step: `uris`, `config`, `metrics`, `folder`."""
    from sightline.detect.run import run

    folder = tmp_path_factory.mktemp("detect") / "out"
    uris = DetectUris(
        encoder_uri=encoder_uri("resnet18"), dataset_uri=boxes_dataset, out_uri=str(folder)
    )
    config = tiny_config()
    return SimpleNamespace(uris=uris, config=config, metrics=run(uris, config), folder=folder)

"""An encoder with one linear layer on h: what fine-tuning trains and promotion scores again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sightline.encoders.base import Encoder, EncoderSpec, build_encoder
from sightline.encoders.files import explain_misfit, read_state_dict
from sightline.errors import UserError
from sightline.storage.artifacts import fetch_artifacts, read_json, write_json
from sightline.training.tensors import save_tensors

CLASSIFIER_FILE = "classifier.pth"
DESCRIPTION_FILE = "classifier.json"


class Classifier(nn.Module):
    """Images (N, 3, H, W) in 0..1 to logits (N, C): `head` is one linear layer on h, never on z.

    Args:
        encoder: The encoder f; it becomes a part, so training the classifier trains it.
        classes: Class names in the order of the logits.
        seed: Seed of the head's initialisation; None draws from torch's global generator.
    """

    def __init__(self, encoder: Encoder, classes: Sequence[str], seed: int | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = tuple(classes)
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self.head = nn.Linear(encoder.width, len(self.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, C) of images (N, 3, H, W) in 0..1."""
        logits: Tensor = self.head(self.encoder(images))
        return logits


def save_classifier(classifier: Classifier, folder: Path, file_name: str = CLASSIFIER_FILE) -> None:
    """Write a classifier's state dict, and into `classifier.json` what rebuilds it.

    Several classifiers of one encoder and the same classes may share the folder.
    """
    state = {name: tensor.detach().cpu() for name, tensor in classifier.state_dict().items()}
    save_tensors(state, folder / file_name)
    described = {
        "encoder": classifier.encoder.spec.to_json(),
        "classes": list(classifier.classes),
    }
    write_json(folder / DESCRIPTION_FILE, described)


def load_classifier(uri: str, file_name: str = CLASSIFIER_FILE) -> Classifier:
    """Load a classifier that fine-tuning left, in evaluation mode.

    Args:
        uri: The address of a finished finetune step.
        file_name: `classifier.pth`, or `classifier_scratch.pth`.

    Raises:
        NotFoundError: If nothing has finished there, or it left no such file.
        UserError: If a file was altered, is no state dict, or does not fit.
    """
    folder = fetch_artifacts(uri, [file_name, DESCRIPTION_FILE])
    described = read_json(folder / DESCRIPTION_FILE)
    encoder = build_encoder(EncoderSpec.from_json(described["encoder"]), seed=0)
    classifier = Classifier(encoder, described["classes"], seed=0)
    state = read_state_dict(folder / file_name)
    misfit = explain_misfit(classifier.state_dict(), state)
    if misfit:
        raise UserError(
            f"{uri}/{file_name} does not fit a classifier of {encoder.spec.name} and "
            f"{len(classifier.classes)} classes: tensors {misfit}"
        )
    classifier.load_state_dict(state)
    return classifier.eval()

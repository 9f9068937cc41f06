"""The protocols that are compared: their names, their order, and what each one shows."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.report.palette import PROTOCOL_COLOURS


@dataclass(frozen=True)
class Protocol:
    """One way from images to answers."""

    key: str
    title: str
    explanation: str
    is_baseline: bool

    @property
    def colour(self) -> str:
        """The protocol's colour everywhere on the page."""
        return PROTOCOL_COLOURS[self.key]


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol("majority", "Majority class", "always answers the commonest training class", True),
    Protocol(
        "pixel_nearest_neighbour",
        "Pixel nearest neighbour",
        "answers the class of the training image with the most similar pixels",
        True,
    ),
    Protocol(
        "linear_random",
        "Linear, random encoder",
        "one linear layer on the features of an untrained encoder",
        True,
    ),
    Protocol(
        "knn", "kNN, frozen encoder", "a vote of the nearest training images in features h", False
    ),
    Protocol(
        "linear",
        "Linear, frozen encoder",
        "one linear layer on h; the encoder learns nothing",
        False,
    ),
    Protocol(
        "scratch",
        "From scratch",
        "the same network fine-tuned from random initialisation, without pretraining",
        True,
    ),
    Protocol(
        "finetuned", "Fine-tuned", "the pretrained encoder and its head, nothing frozen", False
    ),
)
BY_KEY = {protocol.key: protocol for protocol in PROTOCOLS}

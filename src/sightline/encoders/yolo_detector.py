"""A detector: an encoder with YOLOv12's neck and head, how it looks at images, and its file.

The file is a plain dictionary of numbers, texts and tensors that loads with `weights_only=True`;
Ultralytics' own format is pickled code, and the safe loader refuses a network that is not its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.data import derived_seed
from sightline.encoders.base import Encoder, EncoderSpec, build_encoder
from sightline.errors import UserError
from sightline.scoring.detection import Detections
from sightline.storage import fetch_artifacts
from sightline.training.tensors import ForeignFileError, load_tensors, save_tensors

if TYPE_CHECKING:
    from sightline.encoders.yolo_network import DetectorNetwork

DETECTOR_FILE = "detector.pt"
FORMAT_VERSION = 1

# COCO's evaluation and Ultralytics' defaults: nearly everything is kept, the ranking decides.
LEAST_CONFIDENCE = 0.001
MOST_DETECTIONS = 300
_SUPPRESSION_OVERLAP = 0.7
_PADDING_GRAY = 114


@dataclass(frozen=True)
class DetectorSpec:
    """What must be known to rebuild a detector around its weights."""

    encoder: EncoderSpec
    scale: str
    classes: tuple[str, ...]
    image_size_px: int
    confidence: float = 0.25
    """From here on a detection is shown, and counts for precision and recall."""

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON types."""
        return {**asdict(self), "encoder": self.encoder.to_json(), "classes": list(self.classes)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DetectorSpec:
        """Rebuild a spec from `to_json`'s values."""
        encoder = EncoderSpec.from_json(values["encoder"])
        return cls(**{**values, "encoder": encoder, "classes": tuple(values["classes"])})


@dataclass(frozen=True)
class Detector:
    """A network that finds boxes in images."""

    spec: DetectorSpec
    network: DetectorNetwork

    @property
    def encoder(self) -> Encoder:
        """The encoder inside."""
        return self.network.encoder

    def with_confidence(self, confidence: float) -> Detector:
        """Return the same detector with another confidence from which findings count."""
        return replace(self, spec=replace(self.spec, confidence=confidence))

    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        least_confidence: float = LEAST_CONFIDENCE,
    ) -> list[Detections]:
        """Find boxes in images of shape (height, width, 3), RGB, 0..255, of any size.

        Returns:
            For each image its detections, most confident first, boxes in its own pixels.
        """
        if not images:
            return []
        side = self.spec.image_size_px
        placed = [letterbox(image, side) for image in images]
        batch = torch.from_numpy(np.stack([pixels for pixels, _ in placed]))
        device = next(self.network.parameters()).device
        tensor = batch.permute(0, 3, 1, 2).to(device).float() / 255
        self.network.eval()
        with torch.no_grad():
            raw = self.network(tensor)[0]
        return [
            _to_image(found, placement, image.shape[:2])
            for found, (_, placement), image in zip(
                _suppress(raw, least_confidence, len(self.spec.classes)),
                placed,
                images,
                strict=True,
            )
        ]


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the square a network sees: pixel * scale + offset."""

    scale: float
    left: int
    top: int


def letterbox(image: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], Placement]:
    """Fit an image into a gray square of `side` pixels as the training does."""
    from ultralytics.data.augment import LetterBox

    height, width = image.shape[:2]
    scale = min(side / height, side / width)
    rest_y, rest_x = side - max(round(height * scale), 1), side - max(round(width * scale), 1)
    placement = Placement(scale, round(rest_x / 2 - 0.1), round(rest_y / 2 - 0.1))
    square = LetterBox((side, side), auto=False, padding_value=_PADDING_GRAY)(image=image)
    return np.ascontiguousarray(square, dtype=np.uint8), placement


def build_detector(encoder: Encoder, spec: DetectorSpec, seed: int = 0) -> Detector:
    """Put YOLOv12's neck and head, random from `seed`, on an encoder that stays as it is.

    Raises:
        UserError: If Ultralytics is not installed.
    """
    from sightline.encoders.yolo_network import DetectorNetwork

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("detector head", seed))
        network = DetectorNetwork(encoder, spec.scale, spec.classes)
    return Detector(spec, network)


def save_detector(detector: Detector, path: Path) -> None:
    """Write a detector, its classes and its settings into one file."""
    state = {name: tensor.detach().cpu() for name, tensor in detector.network.state_dict().items()}
    content = {
        "format_version": FORMAT_VERSION,
        "detector": detector.spec.to_json(),
        "state_dict": state,
    }
    save_tensors(content, path)


def load_detector(uri: str, file_name: str = DETECTOR_FILE) -> Detector:
    """Load a detector that a detect step left.

    Args:
        uri: The address of a finished detect step.
        file_name: `detector.pt`, or `detector_scratch.pt` for its twin without pretraining.

    Raises:
        NotFoundError: If no detect step has finished there.
        UserError: If the file was altered, is no detector, or Ultralytics is not installed.
    """
    return read_detector(fetch_artifacts(uri, [file_name]) / file_name)


def read_detector(path: Path) -> Detector:
    """Rebuild a detector from its file; no code in the file can run.

    Raises:
        UserError: If the file is no detector of ours, or Ultralytics is not installed.
    """
    try:
        content = load_tensors(path)
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}")
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(f"{path} has format {version}, this version reads {FORMAT_VERSION}")
        spec = DetectorSpec.from_json(content["detector"])
        detector = build_detector(build_encoder(spec.encoder, seed=0), spec)
        detector.network.load_state_dict(content["state_dict"])
    except (ForeignFileError, RuntimeError, KeyError, TypeError) as error:
        is_foreign = isinstance(error, ForeignFileError)
        reason = error if is_foreign else f" ({str(error).splitlines()[0]})"
        raise UserError(
            f"{path} is no detector written by sightline detect{reason}; an Ultralytics .pt "
            "file is not accepted, because loading one runs code"
        ) from None
    detector.network.eval()
    return detector


def _suppress(raw: Tensor, least_confidence: float, n_classes: int) -> list[Tensor]:
    from ultralytics.utils.nms import non_max_suppression

    # Without a limit on the time: a busy machine would otherwise drop images from the score.
    found: list[Tensor] = non_max_suppression(
        raw,
        least_confidence,
        _SUPPRESSION_OVERLAP,
        multi_label=True,
        max_det=MOST_DETECTIONS,
        nc=n_classes,
        max_time_img=float("inf"),
    )
    return found


def _to_image(found: Tensor, placement: Placement, shape: tuple[int, ...]) -> Detections:
    values = found.cpu().numpy().astype(np.float64)
    offset = np.array([placement.left, placement.top] * 2, dtype=np.float64)
    boxes = (values[:, :4] - offset) / placement.scale
    limits = np.array([shape[1], shape[0]] * 2, dtype=np.float64)
    return Detections(np.clip(boxes, 0, limits), values[:, 5].astype(np.int64), values[:, 4].copy())

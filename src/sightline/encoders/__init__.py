"""Encoders: what turns an image into features, behind one small protocol.

The names are loaded when they are first used: settings need `encoders.names`, which must not
bring torch along.
"""

from typing import TYPE_CHECKING

from sightline.lazy import lazy_exports

if TYPE_CHECKING:
    from sightline.encoders.base import Encoder, EncoderSpec, build_encoder
    from sightline.encoders.classifier import (
        CLASSIFIER_FILE,
        Classifier,
        load_classifier,
        save_classifier,
    )
    from sightline.encoders.files import BACKBONE_FILE, load_encoder, save_encoder
    from sightline.encoders.inference import encode_images, predict_probabilities
    from sightline.encoders.inputs import resize_images

__all__ = [
    "BACKBONE_FILE",
    "CLASSIFIER_FILE",
    "Classifier",
    "Encoder",
    "EncoderSpec",
    "build_encoder",
    "encode_images",
    "load_classifier",
    "load_encoder",
    "predict_probabilities",
    "resize_images",
    "save_classifier",
    "save_encoder",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "BACKBONE_FILE": "files",
        "CLASSIFIER_FILE": "classifier",
        "Classifier": "classifier",
        "Encoder": "base",
        "EncoderSpec": "base",
        "build_encoder": "base",
        "encode_images": "inference",
        "load_classifier": "classifier",
        "load_encoder": "files",
        "predict_probabilities": "inference",
        "resize_images": "inputs",
        "save_classifier": "classifier",
        "save_encoder": "files",
    },
)

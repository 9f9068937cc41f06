"""Encoders: what turns an image into features, behind one small protocol."""

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

"""Encoders: what turns an image into features, behind one small protocol."""

from sightline.encoders.base import Encoder, EncoderSpec, build_encoder
from sightline.encoders.files import BACKBONE_FILE, load_encoder, save_encoder

__all__ = [
    "BACKBONE_FILE",
    "Encoder",
    "EncoderSpec",
    "build_encoder",
    "load_encoder",
    "save_encoder",
]

"""Encoders: what turns an image into features, behind one small protocol.

The names are loaded when they are first used: settings need `encoders.names`, which must not
bring torch along.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "BACKBONE_FILE": "files",
    "Encoder": "base",
    "EncoderSpec": "base",
    "build_encoder": "base",
    "load_encoder": "files",
    "save_encoder": "files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

"""YOLOv12's neck and head over any encoder; importing this module imports Ultralytics."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sightline.encoders.base import Encoder
from sightline.encoders.yolo import import_ultralytics
from sightline.errors import UserError

import_ultralytics()

from ultralytics.nn.modules import Index  # noqa: E402
from ultralytics.nn.tasks import BaseModel, DetectionModel, parse_model  # noqa: E402
from ultralytics.utils import ROOT, YAML  # noqa: E402
from ultralytics.utils.torch_utils import initialize_weights  # noqa: E402

STRIDES = (8, 16, 32)

# Where Ultralytics' own yolo12.yaml has the three maps and starts its head, and where ours does.
_MAP_LAYERS = {4: 1, 6: 2, 8: 3}
_HEAD_STARTS, _OUR_HEAD_STARTS = 9, 4


class EncoderBackbone(nn.Module):
    """An encoder as the first layer of a detector, with its normalisation and constants."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps at strides 8, 16 and 32 of images (N, 3, H, W) in 0..1."""
        return list(self.encoder.feature_maps(images))


class DetectorNetwork(DetectionModel):  # type: ignore[misc]
    """YOLOv12 whose backbone is the encoder itself, not a copy of its weights.

    Ultralytics rebuilds a model from its YAML when training starts and on loading, and sets every
    BatchNorm's constants; a torchvision encoder would then no longer be the pretrained function
    (ultralytics' `initialize_weights`). Here only the neck and head are built from YAML.
    """

    def __init__(self, encoder: Encoder, scale: str, classes: tuple[str, ...]) -> None:
        BaseModel.__init__(self)
        published = YAML.load(ROOT / "cfg" / "models" / "12" / "yolo12.yaml")
        widths = _map_widths(encoder)
        backbone = [[0, 1, "Index", [width, place]] for place, width in enumerate(widths)]
        backbone.insert(0, [-1, 1, "Index", [3, 0]])  # holds the encoder's place until it is set
        self.yaml: dict[str, Any] = {
            "nc": len(classes),
            "scale": scale,
            "scales": published["scales"],
            "channels": 3,
            "backbone": backbone,
            "head": [[_our_layer(source), *rest] for source, *rest in published["head"]],
        }
        layers, self.save = parse_model(copy.deepcopy(self.yaml), ch=3, verbose=False)
        self.model = layers
        initialize_weights(self)
        placeholder: Index = layers[0]
        first = EncoderBackbone(encoder)
        for attribute in ("i", "f", "type"):
            setattr(first, attribute, getattr(placeholder, attribute))
        parameters = sum(parameter.numel() for parameter in encoder.parameters())
        setattr(first, "np", parameters)  # noqa: B010 (Ultralytics' name, for its summaries)
        layers[0] = first
        self.names = dict(enumerate(classes))
        self.nc = len(classes)
        self.inplace = True
        self.stride = torch.tensor([float(stride) for stride in STRIDES])
        head = layers[-1]
        head.inplace = True
        head.stride = self.stride
        head.bias_init()

    @property
    def encoder(self) -> Encoder:
        """The encoder inside."""
        encoder: Encoder = self.model[0].encoder
        return encoder


def _our_layer(source: Any) -> Any:
    if isinstance(source, list):
        return [_our_layer(one) for one in source]
    if source < 0:
        return source
    return _MAP_LAYERS.get(source, source - _HEAD_STARTS + _OUR_HEAD_STARTS)


def _map_widths(encoder: Encoder) -> list[int]:
    side = 64
    was_training = encoder.training
    encoder.eval()  # no running statistic may move
    with torch.no_grad():
        device = next(encoder.parameters()).device
        maps = encoder.feature_maps(torch.zeros(1, 3, side, side, device=device))
    encoder.train(was_training)
    found = tuple(side // feature_map.shape[-1] for feature_map in maps)
    if found != STRIDES:
        raise UserError(f"a detector needs maps at strides {STRIDES}, {encoder.spec.name}: {found}")
    return [feature_map.shape[1] for feature_map in maps]

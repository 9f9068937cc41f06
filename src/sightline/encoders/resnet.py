"""torchvision's ResNets without their last layer."""

from __future__ import annotations

from typing import cast

import torchvision
from torch import Tensor, nn

from sightline.encoders.base import Encoder, EncoderSpec


class ResNetEncoder(Encoder):
    """A torchvision ResNet (He et al. 2015, arXiv:1512.03385); h is its global average pool."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__(spec)
        trunk = torchvision.models.get_model(spec.name, weights=None)
        self.width = cast(int, trunk.fc.in_features)
        trunk.fc = nn.Identity()
        self.trunk = trunk

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of layer2, layer3 and layer4."""
        trunk = cast(torchvision.models.ResNet, self.trunk)
        stem = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(self.normalize(images)))))
        stride8 = trunk.layer2(trunk.layer1(stem))
        stride16 = trunk.layer3(stride8)
        return stride8, stride16, trunk.layer4(stride16)

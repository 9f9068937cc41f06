"""The projection head g: z = g(h), where the loss is applied; thrown away after pretraining."""

from __future__ import annotations

import itertools

from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Linear layers with a ReLU between them (Chen et al. 2020, section 4.2).

    Args:
        width: Number of values in the encoder's features h.
        hidden: Width of the layers between.
        out: Number of values in a projection z.
        layers: Number of linear layers.
        batch_norm: Put a BatchNorm behind each linear layer, in place of its bias.
    """

    def __init__(
        self, width: int, hidden: int, out: int, layers: int = 2, batch_norm: bool = False
    ) -> None:
        super().__init__()
        widths = [width, *[hidden] * (layers - 1), out]
        modules: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            if modules:
                modules.append(nn.ReLU(inplace=True))
            modules.append(nn.Linear(before, after, bias=not batch_norm))
            if batch_norm:
                modules.append(nn.BatchNorm1d(after))
        self.layers = nn.Sequential(*modules)

    def forward(self, features: Tensor) -> Tensor:
        """Return projections (N, out) of features (N, width)."""
        return self.layers(features)  # type: ignore[no-any-return]

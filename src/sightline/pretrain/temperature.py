"""What the temperature does: which negatives the gradient of NT-Xent comes from."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

TEMPERATURES = (0.01, 0.07, 1.0)
_SIMILARITIES = 41
_POSITIVE_SIMILARITY = 0.9


def gradient_shares(temperature: float) -> dict[str, Any]:
    """Return the share of an anchor's gradient that negatives of each cosine similarity get.

    One negative stands at each of 41 similarities from -1 to 1, and autograd differentiates
    what NT-Xent costs this anchor. The shares of the negatives sum to 1 and do not depend on where
    the positive stands.
    """
    negatives = torch.linspace(-1, 1, _SIMILARITIES, dtype=torch.float64)
    positive = torch.tensor([_POSITIVE_SIMILARITY], dtype=torch.float64)
    similarities = torch.cat([positive, negatives])[None].requires_grad_()
    loss = F.cross_entropy(similarities / temperature, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss, similarities)
    shares = gradient[0, 1:] / gradient[0, 1:].sum()
    return {
        "temperature": temperature,
        "similarities": negatives.tolist(),
        "gradient_shares": shares.tolist(),
    }


def temperature_figure(configured: float) -> dict[str, Any]:
    """Return what `temperature.json` holds: the user's three temperatures and the configured."""
    temperatures = sorted({*TEMPERATURES, configured})
    return {"configured": configured, "curves": [gradient_shares(t) for t in temperatures]}

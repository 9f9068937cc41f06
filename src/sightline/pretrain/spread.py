"""Whether projections still tell images apart: how far they spread, and in how many directions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def embedding_std(projections: Tensor) -> float:
    """Return the spread of projections (N, D): 1 in all directions alike, 0 at one point.

    The standard deviation of each value of the unit vectors over the batch, averaged, times √D
    (Chen, He 2021, arXiv:2011.10566, section 4.1).
    """
    unit = F.normalize(projections.float(), dim=1)
    return (unit.std(dim=0).mean() * math.sqrt(unit.shape[1])).item()


def effective_rank(projections: Tensor) -> float:
    """Return how many directions projections (N, D) fill: from 1 to the smaller of N and D.

    The exponential of the entropy of their normalised singular values (Garrido et al. 2023,
    "RankMe", arXiv:2210.02885, equation 1).
    """
    unit = F.normalize(projections.double(), dim=1)
    singular = torch.linalg.svdvals(unit)
    shares = singular / singular.sum()
    return math.exp(torch.special.entr(shares).sum().item())

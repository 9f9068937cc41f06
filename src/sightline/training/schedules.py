"""Learning rates over the epochs of a training."""

from __future__ import annotations

import math


def cosine_learning_rate(
    epoch_index: float, epochs: int, base: float, warmup_epochs: float = 0
) -> float:
    """Return the learning rate of an epoch: half a cosine from `base` to 0 (arXiv:1608.03983).

    One value holds for a whole epoch, so epoch e counted from 1 has the index e - 1, and the
    last epoch ends just above 0. A warm-up rises in equal steps, none of them 0, and reaches
    `base` in the epoch that follows it, where the cosine starts.

    Args:
        epoch_index: Epochs that are over; a fraction is allowed.
        epochs: Length of the training, warm-up included.
        base: The highest learning rate.
        warmup_epochs: Epochs of the warm-up; fewer than `epochs`.
    """
    if epoch_index < warmup_epochs:
        return base * (epoch_index + 1) / (warmup_epochs + 1)
    progress = (epoch_index - warmup_epochs) / (epochs - warmup_epochs)
    return base * 0.5 * (1 + math.cos(math.pi * progress))

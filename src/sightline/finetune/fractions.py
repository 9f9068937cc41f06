"""A share of the labels, drawn by group, to see how far few labels go."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sightline.data import derived_seed


def draw_label_fraction(
    labels: NDArray[np.integer], groups: Sequence[str], fraction: float, seed: int
) -> NDArray[np.int64]:
    """Draw whole groups until each class has its share of images, and at least one group.

    A patient's slices are labelled together, so a share drawn image by image would see every
    patient and look better than it is. A group counts for its commonest class. The groups of a
    smaller share are among those of a larger one.

    Args:
        labels: Class indices, shape (N,).
        groups: Each image's group, N names.
        fraction: Share of each class's images, above 0, at most 1.
        seed: Seed of the draw.

    Returns:
        Places of the drawn images, ascending.
    """
    members: defaultdict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    groups_of_class: defaultdict[int, list[str]] = defaultdict(list)
    for group in sorted(members):
        votes = Counter(int(labels[place]) for place in members[group])
        groups_of_class[max(votes, key=lambda label: (votes[label], -label))].append(group)
    drawn: list[int] = []
    for label, candidates in sorted(groups_of_class.items()):
        wanted = fraction * sum(len(members[group]) for group in candidates)
        random = np.random.default_rng(derived_seed(seed, "label fraction", label))
        images = 0
        for place in random.permutation(len(candidates)):
            if images >= wanted:
                break
            chosen = members[candidates[place]]
            drawn += chosen
            images += len(chosen)
    return np.array(sorted(drawn), dtype=np.int64)

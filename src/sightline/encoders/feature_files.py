"""`test_features.npz`: the features of the test images by several networks, for pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEATURES_FILE = "test_features.npz"


def write_features(
    folder: Path,
    names: Sequence[str],
    labels: NDArray[np.int64],
    features: Mapping[str, NDArray[np.float32]],
) -> None:
    """Write names, labels (class indices) and one float32 array (N, width) a network."""
    arrays: dict[str, Any] = {
        "names": np.array(names, dtype=np.str_),
        "labels": labels,
        **features,
    }
    np.savez_compressed(folder / FEATURES_FILE, **arrays)

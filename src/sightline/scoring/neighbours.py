"""The kNN protocol: similar labelled images vote, nothing is trained."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize


def knn_predict(
    bank_features: NDArray[np.floating],
    bank_labels: NDArray[np.integer],
    features: NDArray[np.floating],
    n_classes: int,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> NDArray[np.float64]:
    """Let the most similar labelled images vote, each with exp(cosine similarity / temperature).

    The weighted kNN of Wu et al. 2018 (arXiv:1805.01978, section 3.4), the customary measure of
    features on which nothing was trained.

    Args:
        bank_features: Features of labelled images, shape (M, D).
        bank_labels: Their class indices, shape (M,).
        features: Features of the images to classify, shape (N, D).
        n_classes: Number of classes.
        neighbours: How many vote; all M if there are fewer.
        temperature: Divisor of the similarities; no unit, above 0.

    Returns:
        Shares of the votes, shape (N, n_classes), rows summing to 1.
    """
    index = NearestNeighbors(n_neighbors=min(neighbours, len(bank_features)), algorithm="brute")
    index.fit(normalize(np.asarray(bank_features, dtype=np.float64)))
    distances, nearest = index.kneighbors(normalize(np.asarray(features, dtype=np.float64)))
    # On the unit sphere |a - b|² = 2 - 2 a·b.
    similarities = 1 - np.square(distances) / 2
    # Relative to the nearest, for exp(1 / 0.001) is no float.
    votes = np.exp((similarities - similarities.max(axis=1, keepdims=True)) / temperature)
    shares = np.zeros((len(features), n_classes))
    np.add.at(shares, (np.arange(len(features))[:, None], bank_labels[nearest]), votes)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares

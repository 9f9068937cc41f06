"""What a classifier must beat before its numbers mean anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

THUMBNAIL_SIZE = 32


def majority_probabilities(
    train_labels: NDArray[np.integer], n_classes: int, n_test: int
) -> NDArray[np.float64]:
    """Predict the commonest training class for every image, with its frequency as probability.

    Returns:
        The training frequencies of the classes, repeated, shape (n_test, n_classes).
    """
    frequencies = np.bincount(train_labels, minlength=n_classes) / len(train_labels)
    return np.tile(frequencies, (n_test, 1))


def nearest_neighbour_probabilities(
    train_images: Sequence[NDArray[np.uint8]],
    train_labels: NDArray[np.integer],
    test_images: Sequence[NDArray[np.uint8]],
    n_classes: int,
) -> NDArray[np.float64]:
    """Give each test image the class of the most similar training image, pixel by pixel.

    Similar means the highest correlation of 32 x 32 gray thumbnails, which overlooks brightness
    and contrast. No training, no features: what it scores is how much a test split repeats the
    training split.

    Args:
        train_images: Images of shape (height, width, 3), 0..255, of any size.
        train_labels: Their class indices.
        test_images: Images to classify, as `train_images`.
        n_classes: Number of classes.

    Returns:
        Ones and zeros, shape (len(test_images), n_classes).
    """
    neighbour = KNeighborsClassifier(n_neighbors=1, algorithm="brute")
    neighbour.fit(thumbnails(train_images), train_labels)
    predicted = neighbour.predict(thumbnails(test_images))
    return np.eye(n_classes, dtype=np.float64)[np.asarray(predicted, dtype=np.int64)]


def thumbnails(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Return 32 x 32 gray thumbnails as rows of mean 0 and length 1, shape (len(images), 1024).

    The distance of two such rows falls as their correlation rises. An image of one gray is 0.
    """
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    small = [
        np.asarray(Image.fromarray(image).convert("L").resize(size, Image.Resampling.BOX))
        for image in images
    ]
    rows = np.stack(small).reshape(len(small), -1).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)

import math

import numpy as np
import pytest

from sightline.scoring.neighbours import knn_predict

# Three labelled directions in the plane, 0, 60 and 90 degrees away from the first axis.
BANK = np.array([[1, 0], [0.5, math.sqrt(3) / 2], [0, 1]], dtype=np.float32)
LABELS = np.array([0, 1, 1])


def test_votes_are_the_exponentials_of_the_cosine_similarities():
    found = knn_predict(BANK, LABELS, np.array([[2.0, 0.0]]), 2, neighbours=3, temperature=0.5)
    votes = math.exp(1 / 0.5), math.exp(0.5 / 0.5) + math.exp(0)
    assert found[0] == pytest.approx([votes[0] / sum(votes), votes[1] / sum(votes)])


def test_only_the_nearest_vote():
    found = knn_predict(BANK, LABELS, np.array([[1.0, 0.1]]), 3, neighbours=1)
    assert found.tolist() == [[1, 0, 0]]


def test_more_neighbours_than_images_means_all_of_them():
    assert np.allclose(
        knn_predict(BANK, LABELS, BANK, 2, neighbours=200),
        knn_predict(BANK, LABELS, BANK, 2, neighbours=3),
    )


def test_length_of_a_feature_vector_does_not_matter():
    lengths = np.array([[1.0], [50.0], [0.01]])
    assert np.allclose(
        knn_predict(BANK, LABELS, BANK, 2), knn_predict(BANK * lengths, LABELS, BANK, 2)
    )


def test_tiny_temperature_gives_numbers_all_the_same():
    found = knn_predict(BANK, LABELS, BANK, 2, temperature=1e-4)
    assert found.tolist() == [[1, 0], [0, 1], [0, 1]]

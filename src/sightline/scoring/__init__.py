"""Every quality number, defined once, of classifiers and of detectors; predictions files."""

from sightline.scoring.baselines import majority_probabilities, nearest_neighbour_probabilities
from sightline.scoring.classification import score_classification
from sightline.scoring.intervals import bootstrap_interval, paired_difference
from sightline.scoring.predictions import Predictions, read_predictions, write_predictions

__all__ = [
    "Predictions",
    "bootstrap_interval",
    "majority_probabilities",
    "nearest_neighbour_probabilities",
    "paired_difference",
    "read_predictions",
    "score_classification",
    "write_predictions",
]

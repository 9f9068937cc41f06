"""Evaluation: how good are the frozen features, and how much of that is the pixels' own?"""

from __future__ import annotations

from typing import Any

from sightline.data import open_dataset
from sightline.data.labelled import check_labels, describe_labelled, read_labelled
from sightline.encoders import load_encoder
from sightline.encoders.feature_files import write_features
from sightline.evaluate.config import EvaluateConfig, EvaluateUris
from sightline.evaluate.features import announce_duration, encode_all, frozen_networks
from sightline.evaluate.protocols import predict_protocols, train_linear_protocols
from sightline.scoring import score_classification, write_predictions
from sightline.storage import new_artifacts, require_new
from sightline.storage.artifacts import publish_skipped, write_json
from sightline.telemetry import announce, count
from sightline.training.history import chosen_epochs, write_classifier_history
from sightline.training.tensors import save_tensors


def run(uris: EvaluateUris, config: EvaluateConfig) -> dict[str, Any]:
    """Measure a frozen encoder with kNN and linear evaluation, beside baselines.

    Returns:
        What `metrics.json` holds.

    Raises:
        UserError: If the output exists, or encoder or labels cannot be used.
    """
    require_new(uris.out_uri)
    if not uris.dataset_uri:
        reason = "no labelled images were given, so the encoder cannot be evaluated"
        announce("evaluate", reason)
        return publish_skipped("evaluate", uris, config, uris.out_uri, reason)
    encoder = load_encoder(uris.encoder_uri)
    dataset = open_dataset(uris.dataset_uri)
    classes = dataset.classes
    notes = check_labels(dataset)
    size = config.image_size or encoder.spec.image_size
    announce(
        "evaluate",
        f"{encoder.spec.name} stays frozen; {len(dataset)} images of {len(classes)} "
        f"classes at {size} px; kNN, and one linear layer for {count(config.epochs, 'epoch')}",
    )
    for note in notes:
        announce("evaluate", f"note: {note}")

    networks = frozen_networks(encoder, config)
    train, val = (read_labelled(dataset, split, "evaluate") for split in ("train", "val"))
    known = train + val
    announce_duration(networks, known, len(dataset), config)
    features = encode_all(networks, known, config)
    trainings = train_linear_protocols(features, train, val, len(classes), config)

    # Every choice is made: only now is the test split read, once.
    test = read_labelled(dataset, "test", "evaluate")
    test_features = encode_all(networks, test, config)
    predictions = predict_protocols(
        trainings, features, known, test_features, test, len(classes), config
    )
    metrics: dict[str, Any] = {
        "classes": list(classes),
        "dataset": describe_labelled(dataset, (train, val, test)),
        "encoder": encoder.spec.to_json(),
        "image_size": size,
        "notes": notes,
        "chosen": chosen_epochs(trainings),
        "protocols": {
            protocol: score_classification(
                test.labels,
                probabilities,
                classes,
                test.groups,
                labels_used=len(known),
                bootstrap_samples=config.bootstrap_samples,
                seed=config.seed,
            )
            for protocol, probabilities in predictions.items()
        },
    }
    with new_artifacts("evaluate", uris, config, uris.out_uri) as folder:
        save_tensors(trainings["linear"].layer.state_dict(), folder / "linear.pth")
        write_classifier_history(folder, trainings)
        for protocol, probabilities in predictions.items():
            path = folder / f"predictions_{protocol}.csv"
            write_predictions(path, test.samples, classes, probabilities)
        write_features(folder, test.names, test.labels, test_features)
        write_json(folder / "metrics.json", metrics)
    for protocol, entry in metrics["protocols"].items():
        announce("evaluate", f"{protocol}: test accuracy {entry['accuracy']['value']:.1%}")
    return metrics

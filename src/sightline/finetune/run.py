"""Fine-tuning: the whole pretrained classifier, and the same network from scratch beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.data import open_dataset
from sightline.data.labelled import LabelledImages, check_labels, describe_labelled, read_labelled
from sightline.encoders import (
    Encoder,
    encode_images,
    load_encoder,
    predict_probabilities,
    save_classifier,
)
from sightline.encoders.feature_files import write_features
from sightline.finetune.augment import steps_per_epoch
from sightline.finetune.config import FinetuneConfig, FinetuneUris
from sightline.finetune.protocols import (
    CLASSIFIER_FILES,
    Trained,
    new_classifiers,
    train_on_fraction,
    train_protocols,
)
from sightline.finetune.training import seconds_per_step
from sightline.scoring import score_classification, write_predictions
from sightline.storage import new_artifacts, require_new
from sightline.storage.artifacts import publish_skipped, write_json
from sightline.telemetry import announce, count, format_duration
from sightline.training.devices import pick_device
from sightline.training.history import chosen_epochs, write_classifier_history


def run(uris: FinetuneUris, config: FinetuneConfig) -> dict[str, Any]:
    """Fine-tune the encoder, train the same network from scratch, and test both once.

    Returns:
        What `metrics.json` holds.

    Raises:
        UserError: If the output exists, encoder or labels cannot be used, or a loss is not finite.
    """
    require_new(uris.out_uri)
    if not uris.dataset_uri:
        reason = "no labelled images were given, so there is nothing to fine-tune on"
        announce("finetune", reason)
        return publish_skipped("finetune", uris, config, uris.out_uri, reason)
    encoder = load_encoder(uris.encoder_uri)
    dataset = open_dataset(uris.dataset_uri)
    classes = dataset.classes
    notes = check_labels(dataset)
    size = config.image_size or encoder.spec.image_size
    train, val = (read_labelled(dataset, split, "finetune") for split in ("train", "val"))
    _announce_work(encoder, classes, train, notes, size, config)

    trained = train_protocols(encoder, classes, train, val, config)
    trainings = {protocol: one.training for protocol, one in trained.items()}
    of_fractions = {
        f"{fraction:g}": train_on_fraction(encoder, classes, train, val, config, fraction)
        for fraction in config.label_fractions
    }

    # Every choice is made: only now is the test split read, once.
    test = read_labelled(dataset, "test", "finetune")
    predictions = _predict(trained, test, size)
    metrics: dict[str, Any] = {
        "classes": list(classes),
        "dataset": describe_labelled(dataset, (train, val, test)),
        "encoder": encoder.spec.to_json(),
        "image_size": size,
        "notes": notes,
        "chosen": chosen_epochs(trainings),
        "protocols": _score(trained, predictions, test, classes, config),
    }
    if of_fractions:
        metrics["label_fractions"] = {
            fraction: _score(few, _predict(few, test, size), test, classes, config)
            for fraction, few in of_fractions.items()
        }
    with new_artifacts("finetune", uris, config, uris.out_uri) as folder:
        for protocol, one in trained.items():
            save_classifier(one.classifier, folder, CLASSIFIER_FILES[protocol])
            path = folder / f"predictions_{protocol}.csv"
            write_predictions(path, test.samples, classes, predictions[protocol])
        write_classifier_history(folder, trainings)
        features = encode_images(
            trained["finetuned"].classifier.encoder, test.images, size, device=pick_device()
        )
        write_features(folder, test.names, test.labels, {"finetuned": features})
        write_json(folder / "metrics.json", metrics)
    for protocol, entry in metrics["protocols"].items():
        announce("finetune", f"{protocol}: test accuracy {entry['accuracy']['value']:.1%}")
    return metrics


def _announce_work(
    encoder: Encoder,
    classes: tuple[str, ...],
    train: LabelledImages,
    notes: list[str],
    size: int,
    config: FinetuneConfig,
) -> None:
    trials = new_classifiers(encoder, classes, config)
    trainings = len(trials) * (1 + len(config.label_fractions))
    steps = config.epochs * steps_per_epoch(len(train), config.batch_size)
    announce(
        "finetune",
        f"all layers of {encoder.spec.name} on {len(train)} images of {len(classes)} classes at "
        f"{size} px, {count(config.epochs, 'epoch')} of {count(steps // config.epochs, 'step')}"
        + ("; the same from scratch" if config.scratch else "")
        + (f"; with {_list(config.label_fractions)} of the labels" * bool(config.label_fractions)),
    )
    for note in notes:
        announce("finetune", f"note: {note}")
    seconds = seconds_per_step(trials["finetuned"], train.images, config) * steps * trainings
    announce(
        "finetune",
        f"{count(trainings, 'training')}, about {format_duration(seconds)} in all on this machine",
    )


def _list(fractions: tuple[float, ...]) -> str:
    return ", ".join(f"{fraction:.0%}" for fraction in fractions)


def _predict(
    trained: dict[str, Trained], test: LabelledImages, size: int
) -> dict[str, NDArray[np.float64]]:
    return {
        protocol: predict_probabilities(one.classifier, test.images, size, device=pick_device())
        for protocol, one in trained.items()
    }


def _score(
    trained: dict[str, Trained],
    predictions: dict[str, NDArray[np.float64]],
    test: LabelledImages,
    classes: tuple[str, ...],
    config: FinetuneConfig,
) -> dict[str, Any]:
    return {
        protocol: score_classification(
            test.labels,
            predictions[protocol],
            classes,
            test.groups,
            labels_used=one.labels_used,
            bootstrap_samples=config.bootstrap_samples,
            seed=config.seed,
        )
        for protocol, one in trained.items()
    }

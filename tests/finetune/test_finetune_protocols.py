import pytest
import torch

from sightline.data import derived_seed, open_dataset
from sightline.data.labelled import read_labelled
from sightline.encoders import EncoderSpec, build_encoder
from sightline.finetune.config import FinetuneConfig
from sightline.finetune.protocols import new_classifiers, train_protocols

SPEC = EncoderSpec("resnet18", 32)
CLASSES = ("checks", "columns", "rows")
CONFIG = FinetuneConfig(epochs=1, batch_size=12)


def equal(first, second):
    """Tell whether two networks hold the same tensors."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.fixture(scope="module")
def starts():
    """Return two pretrained encoders, and the classifiers that each gives."""
    encoders = [build_encoder(SPEC, seed=seed) for seed in (1, 2)]
    return encoders, [new_classifiers(encoder, CLASSES, CONFIG) for encoder in encoders]


def test_finetuned_starts_from_a_copy_of_the_pretrained_encoder(starts):
    for encoder, classifiers in zip(*starts, strict=True):
        assert equal(classifiers["finetuned"].encoder, encoder)
        # A second training, on few labels, starts from the same encoder.
        assert classifiers["finetuned"].encoder is not encoder


def test_scratch_knows_nothing_of_the_pretrained_encoder(starts):
    encoders, (of_first, of_second) = starts
    assert equal(of_first["scratch"].encoder, of_second["scratch"].encoder)
    for encoder in encoders:
        assert not torch.equal(
            of_first["scratch"].encoder.trunk.conv1.weight, encoder.trunk.conv1.weight
        )


def test_both_protocols_start_from_the_same_head(starts):
    for classifiers in starts[1]:
        assert equal(classifiers["finetuned"].head, classifiers["scratch"].head)


def test_equal_starts_end_equal_so_the_protocols_differ_in_nothing_but_the_start(labelled_dataset):
    dataset = open_dataset(labelled_dataset)
    train, val = (read_labelled(dataset, split, "test") for split in ("train", "val"))
    same = build_encoder(SPEC, seed=derived_seed(CONFIG.seed, "scratch"))
    trained = train_protocols(same, CLASSES, train, val, CONFIG)
    assert equal(trained["finetuned"].classifier, trained["scratch"].classifier)
    assert trained["finetuned"].labels_used == trained["scratch"].labels_used

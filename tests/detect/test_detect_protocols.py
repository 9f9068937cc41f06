import pytest

from sightline.data import open_dataset
from sightline.detect import training
from sightline.detect.protocols import train_protocols
from sightline.detect.training import Training, backbone_digest
from sightline.encoders import EncoderSpec, build_encoder


@pytest.fixture
def networks_at_start(boxes_dataset, tiny_config, monkeypatch):
    """Return `look(encoder)`: each protocol's network as its training gets it."""

    def keep(detector, protocol, *arguments, **options):
        return Training(detector, best_epoch=1)

    def look(encoder):
        monkeypatch.setattr(training, "train_detector", keep)
        trainings = train_protocols(encoder, open_dataset(boxes_dataset), tiny_config())
        return {protocol: done.detector.network for protocol, done in trainings.items()}

    return look


def test_scratch_backbone_is_the_same_random_one_whatever_was_pretrained(networks_at_start):
    starts = [
        networks_at_start(build_encoder(EncoderSpec("resnet18", image_size=64), seed=seed))
        for seed in (1, 2)
    ]
    pretrained = [backbone_digest(start["pretrained"]) for start in starts]
    scratch = [backbone_digest(start["scratch"]) for start in starts]
    assert scratch[0] == scratch[1]
    assert len({*pretrained, *scratch}) == 3


def test_both_protocols_start_from_the_same_head(networks_at_start):
    start = networks_at_start(build_encoder(EncoderSpec("resnet18", image_size=64), seed=1))
    states = [start[protocol].state_dict() for protocol in ("pretrained", "scratch")]
    head = [name for name in states[0] if not name.startswith("model.0.")]
    assert head
    assert all((states[0][name] == states[1][name]).all() for name in head)

import json

import numpy as np
import pytest
import torch
from torch import nn

from sightline.encoders import (
    Classifier,
    EncoderSpec,
    build_encoder,
    encode_images,
    load_classifier,
    predict_probabilities,
    resize_images,
    save_classifier,
)
from sightline.errors import UserError
from sightline.finetune.config import FinetuneConfig, FinetuneUris
from sightline.storage import NotFoundError, new_artifacts

CLASSES = ("glioma", "meningioma", "pituitary")
SPEC = EncoderSpec("resnet18", 32)


@pytest.fixture(scope="module")
def classifier():
    return Classifier(build_encoder(SPEC, seed=1), CLASSES, seed=2)


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    shapes = [(32, 32), (40, 24), (64, 64), (32, 50), (20, 20)]
    return [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def publish(classifier, tmp_path):
    out = str(tmp_path / "finetune")
    uris = FinetuneUris(encoder_uri="e", out_uri=out)
    with new_artifacts("finetune", uris, FinetuneConfig(), out) as folder:
        save_classifier(classifier, folder)
        save_classifier(Classifier(build_encoder(SPEC, seed=9), CLASSES), folder, "scratch.pth")
    return out


def test_head_is_one_linear_layer_on_h(classifier, images):
    classifier.eval()
    features = torch.from_numpy(encode_images(classifier.encoder, images))
    expected = torch.softmax(features @ classifier.head.weight.T + classifier.head.bias, 1)
    found = predict_probabilities(classifier, images, image_size=32)
    assert isinstance(classifier.head, nn.Linear)
    assert np.allclose(found, expected.detach().numpy(), atol=1e-5)


def test_loaded_classifier_gives_the_very_same_probabilities(classifier, images, tmp_path):
    out = publish(classifier, tmp_path)
    loaded = load_classifier(out)
    assert loaded.classes == CLASSES
    assert loaded.encoder.spec == SPEC
    expected = predict_probabilities(classifier, images, 32)
    assert (predict_probabilities(loaded, images, 32) == expected).all()
    assert (
        predict_probabilities(load_classifier(out, "scratch.pth"), images, 32) != expected
    ).any()


def test_altered_classifier_is_refused(classifier, tmp_path):
    out = publish(classifier, tmp_path)
    path = tmp_path / "finetune" / "classifier.pth"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"classifier\.pth was altered"):
        load_classifier(out)


def test_classifier_of_other_classes_is_refused(tmp_path):
    out = str(tmp_path / "finetune")
    uris = FinetuneUris(encoder_uri="e", out_uri=out)
    with new_artifacts("finetune", uris, FinetuneConfig(), out) as folder:
        save_classifier(Classifier(build_encoder(SPEC, seed=1), CLASSES), folder)
        described = json.loads((folder / "classifier.json").read_text())
        described["classes"] = ["a", "b"]
        (folder / "classifier.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"resnet18 and 2 classes.*misshapen \(such as head\.bias"):
        load_classifier(out)


def test_unfinished_step_and_missing_file_are_told_apart(classifier, tmp_path):
    with pytest.raises(NotFoundError, match="no finished result"):
        load_classifier(str(tmp_path / "finetune"))
    out = publish(classifier, tmp_path)
    with pytest.raises(NotFoundError, match=r"has no classifier_scratch\.pth"):
        load_classifier(out, "classifier_scratch.pth")


def test_inference_is_independent_of_the_batch_and_leaves_modes_as_they_were(images):
    classifier = Classifier(build_encoder(SPEC, seed=1), CLASSES, seed=2)
    classifier.encoder.trunk.layer1.eval()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    small, large = (predict_probabilities(classifier, images, 32, batch_size=n) for n in (1, 5))
    assert np.allclose(small, large, atol=1e-5)
    assert np.allclose(small.sum(1), 1)
    assert classifier.training
    assert not classifier.encoder.trunk.layer1.training
    assert all(torch.equal(before[name], v) for name, v in classifier.state_dict().items())


def test_plain_function_of_images_may_stand_for_a_classifier(images):
    def brightness(batch):
        assert batch.min() >= 0
        assert batch.max() <= 1
        return torch.stack([batch.mean((1, 2, 3)), torch.zeros(len(batch))], dim=1)

    white, black = np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)
    found = predict_probabilities(brightness, [white, black], 8)
    assert found[:, 0] == pytest.approx([1 / (1 + np.exp(-1)), 0.5])


def test_resize_keeps_an_image_of_the_right_size_as_it_is(images):
    found = resize_images(images[:1], 32)
    assert found.dtype == torch.uint8
    assert (found[0].permute(1, 2, 0).numpy() == images[0]).all()


def test_resize_is_antialiased():
    # Two white columns, two black ones: a quarter of the size averages them to gray, while
    # reading only the pixels nearest to each new one would meet the white columns alone.
    columns = np.where(np.isin(np.arange(64) % 4, (1, 2)), 255, 0).astype(np.uint8)
    stripes = np.repeat(np.tile(columns, (64, 1))[:, :, None], 3, axis=2)
    inner = resize_images([stripes], 16)[0, :, 2:-2, 2:-2].float()
    assert 100 < inner.min() <= inner.max() < 190


def test_no_images_give_no_features():
    assert encode_images(build_encoder(SPEC, seed=1), []).shape == (0, 512)

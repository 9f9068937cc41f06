import copy

import numpy as np
import pytest
import torch

from sightline.encoders import EncoderSpec, build_encoder
from sightline.encoders.yolo_detector import (
    DetectorSpec,
    build_detector,
    letterbox,
    read_detector,
    save_detector,
)
from sightline.errors import UserError

FAMILIES = ("resnet18", "yolo12n")


def new_detector(name="yolo12n", encoder_seed=0, seed=0):
    encoder = build_encoder(EncoderSpec(name, image_size=64), seed=encoder_seed)
    _unsettle(encoder)
    spec = DetectorSpec(encoder.spec, "n", ("disc", "square"), image_size_px=64, confidence=0.4)
    return encoder, build_detector(encoder, spec, seed)


def _unsettle(encoder):
    """Give BatchNorm statistics like after a training, so that its constants matter."""
    generator = torch.Generator().manual_seed(1)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)


def maps_inside(network, images):
    """Return what the neck reads: the outputs of the layers that hand on the three maps."""
    seen = []
    hooks = [
        network.model[place].register_forward_hook(lambda *call: seen.append(call[2]))
        for place in (1, 2, 3)
    ]
    with torch.no_grad():
        network.eval()(images)
    for hook in hooks:
        hook.remove()
    return seen


def assert_same_maps(network, expected, images):
    for inside, own in zip(maps_inside(network, images), expected, strict=True):
        assert torch.allclose(inside, own, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_inside_the_detector_are_the_encoders_own_also_after_reload(name, tmp_path):
    encoder, detector = new_detector(name)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = copy.deepcopy(encoder).eval().feature_maps(images)
    assert_same_maps(detector.network, expected, images)
    save_detector(detector, tmp_path / "detector.pt")
    assert_same_maps(read_detector(tmp_path / "detector.pt").network, expected, images)


@pytest.mark.parametrize(
    ("name", "constants"), [("resnet18", (1e-5, 0.1)), ("yolo12n", (1e-3, 0.03))]
)
def test_backbone_keeps_its_batch_norm_constants(name, constants):
    _, detector = new_detector(name)
    norms = [m for m in detector.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {constants}


@pytest.mark.parametrize("name", FAMILIES)
def test_detector_fused_for_inference_gives_the_same_boxes(name):
    _, detector = new_detector(name)
    images = torch.rand(1, 3, 64, 64)
    fused = copy.deepcopy(detector.network).eval().fuse(verbose=False)
    with torch.no_grad():
        assert torch.allclose(fused(images)[0], detector.network.eval()(images)[0], atol=1e-3)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace")
@pytest.mark.parametrize("name", FAMILIES)
def test_detector_traced_for_export_gives_the_same_boxes(name):
    _, detector = new_detector(name)
    images = torch.rand(1, 3, 64, 64)
    network = detector.network.eval()
    with torch.no_grad():
        expected = network(images)[0]
        network.model[-1].export = True  # as Ultralytics' exporter does: boxes and scores alone
        traced = torch.jit.trace(network, images)
        assert torch.allclose(traced(images), expected, atol=1e-4)


def test_head_depends_on_the_seed_and_not_on_the_encoder():
    _, first = new_detector(encoder_seed=0, seed=5)
    _, second = new_detector(encoder_seed=1, seed=5)
    _, other = new_detector(encoder_seed=0, seed=6)
    heads = [d.network.model[4:].state_dict() for d in (first, second, other)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert not all(torch.equal(heads[0][name], heads[2][name]) for name in heads[0])


def test_reloaded_detector_finds_the_same_boxes(tmp_path):
    _, detector = new_detector()
    save_detector(detector, tmp_path / "detector.pt")
    image = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    reloaded = read_detector(tmp_path / "detector.pt")
    before, after = (d.predict([image], 0.0)[0] for d in (detector, reloaded))
    assert reloaded.spec == detector.spec
    assert np.array_equal(before.boxes, after.boxes)
    assert np.array_equal(before.confidence, after.confidence)


def test_detector_file_loads_without_running_code(tmp_path):
    _, detector = new_detector()
    save_detector(detector, tmp_path / "detector.pt")
    content = torch.load(tmp_path / "detector.pt", weights_only=True)
    assert content["detector"]["classes"] == ["disc", "square"]


class Poison:
    def __reduce__(self):
        return (open, ("poisoned", "w"))


@pytest.mark.parametrize("content", [Poison(), {"model": "x"}, [1], torch.zeros(1)])
def test_file_that_is_no_detector_is_refused_and_runs_nothing(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "detector.pt")
    told = r"no detector written by sightline detect \([\w.' ]+\); an Ultralytics"
    with pytest.raises(UserError, match=told):
        read_detector(tmp_path / "detector.pt")
    assert not (tmp_path / "poisoned").exists()


def test_weights_of_another_network_are_refused(tmp_path):
    _, detector = new_detector()
    save_detector(detector, tmp_path / "detector.pt")
    content = torch.load(tmp_path / "detector.pt", weights_only=True)
    content["detector"]["encoder"]["name"] = "resnet18"
    torch.save(content, tmp_path / "detector.pt")
    with pytest.raises(UserError, match="no detector written by sightline detect"):
        read_detector(tmp_path / "detector.pt")


@pytest.mark.parametrize("shape", [(40, 80), (90, 30), (64, 64), (301, 200)])
def test_letterbox_says_where_the_image_lies(shape):
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    top, bottom, left, right = height // 4, height // 2, width // 4, width // 2
    image[top:bottom, left:right] = 255
    square, placement = letterbox(image, 64)
    assert square.shape == (64, 64, 3)
    ys, xs = np.nonzero(square[..., 0] > 180)
    found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=float)
    found = (found - [placement.left, placement.top] * 2) / placement.scale
    assert found == pytest.approx([left, top, right, bottom], abs=1.5 / placement.scale)

import subprocess
import sys

import pytest
import torch

from sightline.encoders import EncoderSpec, build_encoder, load_encoder
from sightline.encoders.yolo import import_ultralytics
from sightline.errors import UserError

NO_SCALE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize(("name", "width"), [("yolo12n", 256), ("yolo12s", 512)])
def test_features_are_the_mean_of_the_deepest_map(name, width):
    encoder = build_encoder(EncoderSpec(name, image_size=64), seed=0).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = encoder(images)
        deepest = encoder.trunk(encoder.normalize(images))
    assert encoder.width == width
    assert torch.equal(features, deepest.mean(dim=(2, 3)))


def test_weights_under_the_trunks_own_numbers_are_read_back(tmp_path):
    spec = EncoderSpec("yolo12n", image_size=64)
    trunk = build_encoder(spec, seed=1).trunk
    assert "0.conv.weight" in trunk.state_dict()
    torch.save(trunk.state_dict(), tmp_path / "weights.pth")
    found = load_encoder(str(tmp_path / "weights.pth"), spec).trunk
    for name, tensor in trunk.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_feature_maps_have_strides_8_16_and_32():
    encoder = build_encoder(EncoderSpec("yolo12n", image_size=96), seed=0).eval()
    with torch.no_grad():
        maps = encoder.feature_maps(torch.rand(1, 3, 96, 64))
    assert [tuple(m.shape[2:]) for m in maps] == [(12, 8), (6, 4), (3, 2)]


@pytest.mark.parametrize(
    ("scale", "parameters"), [("n", 2_602_288), ("s", 9_284_096), ("m", 20_199_168)]
)
def test_detector_on_its_own_backbone_has_the_published_size(scale, parameters):
    # Ultralytics' yolo12.yaml states these counts, for 80 classes.
    from sightline.encoders.yolo_network import DetectorNetwork

    encoder = build_encoder(EncoderSpec(f"yolo12{scale}", image_size=64), seed=0)
    network = DetectorNetwork(encoder, scale, tuple(str(index) for index in range(80)))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_detector_on_its_own_backbone_computes_what_ultralytics_yolo12_does():
    import_ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    from sightline.encoders.yolo_network import DetectorNetwork

    official = DetectionModel("yolo12n.yaml", ch=3, nc=3, verbose=False).eval()
    encoder = build_encoder(EncoderSpec("yolo12n", image_size=64, **NO_SCALE), seed=0)
    network = DetectorNetwork(encoder, "n", ("a", "b", "c")).eval()

    def renamed(name):
        _, place, rest = name.split(".", 2)
        if int(place) < 9:
            return f"model.0.encoder.trunk.{place}.{rest}"
        return f"model.{int(place) - 5}.{rest}"

    network.load_state_dict({renamed(k): v for k, v in official.state_dict().items()})
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(network(images)[0], official(images)[0], atol=1e-5)


def test_sides_that_are_no_multiple_of_32_are_refused():
    encoder = build_encoder(EncoderSpec("yolo12n", image_size=64), seed=0)
    with pytest.raises(UserError, match=r"multiples of 32 pixels, got 100 x 64"):
        encoder.feature_maps(torch.rand(1, 3, 64, 100))


def test_pillow_keeps_its_own_way_to_open_images():
    code = (
        "from sightline.encoders import yolo_network; import io, PIL.Image\n"
        "try: PIL.Image.open(io.BytesIO(b'no image'))\n"
        "except PIL.UnidentifiedImageError: print('refused')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "refused"


def test_missing_ultralytics_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(UserError, match=r'pip install "sightline\[detect\]"'):
        import_ultralytics.__wrapped__()


def test_everything_but_the_detector_itself_loads_without_ultralytics():
    code = (
        "import sys; sys.modules['ultralytics'] = None\n"
        "import sightline.encoders.yolo, sightline.encoders.yolo_scoring, sightline.detect.run\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

import copy
import json
import os
import subprocess
import sys

import pytest
import torch

from sightline.data import open_dataset
from sightline.detect import training
from sightline.detect.training import backbone_digest, train_detector
from sightline.detect.yolo_folder import write_yolo_folder
from sightline.encoders import load_encoder
from sightline.encoders.yolo_detector import DetectorSpec, build_detector
from sightline.errors import UserError


def files_of(dataset_uri, folder):
    return write_yolo_folder(open_dataset(dataset_uri), folder / "files", max_gib=1)


@pytest.fixture
def new_detector(encoder_uri):
    def make(name, image_size_px=64):
        encoder = load_encoder(encoder_uri(name))
        spec = DetectorSpec(encoder.spec, "n", ("disc", "square"), image_size_px)
        return build_detector(encoder, spec)

    return make


def maps_inside(network, images):
    seen = []
    hooks = [
        network.model[place].register_forward_hook(lambda *call: seen.append(call[2]))
        for place in (1, 2, 3)
    ]
    with torch.no_grad():
        copy.deepcopy(network).eval()(images)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", ["resnet18", "yolo12n"])
def test_training_starts_from_the_encoders_own_function_and_leaves_it(
    name, new_detector, encoder_uri, boxes_dataset, tiny_config, tmp_path, monkeypatch
):
    detector = new_detector(name)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = load_encoder(encoder_uri(name)).eval().feature_maps(images)
    at_start = {}
    checked = training._Trainer.check_start

    def look(trainer):
        checked(trainer)
        at_start["model"] = maps_inside(trainer.model, images)
        at_start["moving average"] = maps_inside(trainer.ema.ema, images)

    monkeypatch.setattr(training._Trainer, "check_start", look)
    before = backbone_digest(detector.network)
    trained = train_detector(
        detector, "pretrained", files_of(boxes_dataset, tmp_path), tiny_config(epochs=1)
    )
    assert set(at_start) == {"model", "moving average"}
    for maps in at_start.values():
        for inside, own in zip(maps, expected, strict=True):
            assert torch.allclose(inside, own, atol=1e-5, rtol=0)
    assert backbone_digest(detector.network) == before
    assert backbone_digest(trained.detector.network) != before


def test_training_takes_the_image_size_of_the_detector(
    new_detector, boxes_dataset, tiny_config, tmp_path, monkeypatch
):
    seen = []

    def look(trainer, batch):
        seen.append(tuple(batch["img"].shape[2:]))
        raise UserError("seen enough")

    monkeypatch.setattr(training._Trainer, "preprocess_batch", look)
    config = tiny_config(image_size_px=96)
    with pytest.raises(UserError, match="seen enough"):
        train_detector(new_detector("yolo12n"), "x", files_of(boxes_dataset, tmp_path), config)
    assert seen == [(64, 64)]


def initialised_again(trainer):
    setup(trainer)
    torch.nn.init.normal_(next(trainer.model.model[0].parameters()))


def constants_of_ultralytics(trainer):
    setup(trainer)
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03


setup = training._Trainer.setup_model


@pytest.mark.parametrize("spoil", [initialised_again, constants_of_ultralytics])
def test_training_that_would_start_from_another_backbone_is_refused(
    spoil, new_detector, boxes_dataset, tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(training._Trainer, "setup_model", spoil)
    with pytest.raises(UserError, match="model that training would start from is not the given"):
        train_detector(
            new_detector("resnet18"), "x", files_of(boxes_dataset, tmp_path), tiny_config()
        )


@pytest.mark.parametrize(("protocol", "backbone_rate"), [("pretrained", 0.001), ("scratch", 0.01)])
def test_only_a_pretrained_backbone_learns_at_its_share_of_the_learning_rate(
    protocol, backbone_rate, new_detector, boxes_dataset, tiny_config, tmp_path, monkeypatch
):
    seen = {}

    def stop(trainer):
        backbone = {id(parameter) for parameter in trainer.model.model[0].parameters()}
        for group in trainer.optimizer.param_groups:
            for parameter in group["params"]:
                part = "backbone" if id(parameter) in backbone else "head"
                seen.setdefault(part, set()).add(group["initial_lr"])
        raise UserError("seen enough")

    monkeypatch.setattr(training._Trainer, "check_start", stop)
    config = tiny_config(learning_rate=0.01, backbone_learning_rate_share=0.1)
    files = files_of(boxes_dataset, tmp_path)
    with pytest.raises(UserError, match="seen enough"):
        train_detector(new_detector("yolo12n"), protocol, files, config)
    assert {part: list(rates) for part, rates in seen.items()} == {
        "backbone": [pytest.approx(backbone_rate)],
        "head": [0.01],
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_bfloat16_without_a_gpu_says_that_float32_is_used(
    new_detector, boxes_dataset, tiny_config, tmp_path, capsys
):
    config = tiny_config(epochs=1, precision="bfloat16")
    detector = new_detector("yolo12n", image_size_px=32)
    train_detector(detector, "x", files_of(boxes_dataset, tmp_path), config)
    assert "float32 is used on cpu" in capsys.readouterr().out


def test_last_batch_of_one_small_image_is_refused(
    new_detector, boxes_dataset, tiny_config, tmp_path
):
    config = tiny_config(batch_size=7)
    detector = new_detector("yolo12n", image_size_px=32)
    with pytest.raises(UserError, match="batch_size 7 and image_size_px 32 on 8 images, choose"):
        train_detector(detector, "x", files_of(boxes_dataset, tmp_path), config)


def test_memory_that_is_too_small_is_told_and_the_batch_is_not_halved(
    new_detector, boxes_dataset, tiny_config, tmp_path, monkeypatch
):
    def run_out(trainer, batch):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(training._Trainer, "preprocess_batch", run_out)
    with pytest.raises(UserError, match="memory is too small for batches of 4 images of 64 px"):
        train_detector(
            new_detector("yolo12n"), "x", files_of(boxes_dataset, tmp_path), tiny_config()
        )


def test_equal_seeds_train_equal_detectors(new_detector, boxes_dataset, tiny_config, tmp_path):
    states = []
    for attempt in ("first", "second"):
        trained = train_detector(
            new_detector("yolo12n", image_size_px=32),
            "x",
            files_of(boxes_dataset, tmp_path / attempt),
            tiny_config(epochs=1),
        )
        states.append(trained.detector.network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


ALONE = """
import json, os, socket, subprocess, sys, tempfile
attempts = []

def refuse(*arguments, **options):
    attempts.append(repr(arguments[:2])[:200])
    raise OSError("no network in this test")

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = socket.gethostbyname = refuse
real = subprocess.Popen.__init__

def watch(self, command, *arguments, **options):
    if "pip" in str(command) or "uv" in str(command).split("/")[-1:]:
        attempts.append(str(command))
    return real(self, command, *arguments, **options)

subprocess.Popen.__init__ = watch
from pathlib import Path
from sightline.data import open_dataset
from sightline.detect.config import DetectConfig
from sightline.detect.training import train_detector
from sightline.detect.yolo_folder import write_yolo_folder
from sightline.encoders import load_encoder
from sightline.encoders.yolo_detector import DetectorSpec, build_detector
encoder = load_encoder(sys.argv[1])
spec = DetectorSpec(encoder.spec, "n", ("disc", "square"), 32)
config = DetectConfig(
    epochs=1, image_size_px=32, batch_size=4, loader_processes=0, warmup_epochs=0
)
with tempfile.TemporaryDirectory() as folder:
    files = write_yolo_folder(open_dataset(sys.argv[2]), Path(folder), max_gib=1)
    train_detector(build_detector(encoder, spec), "x", files, config)
import ultralytics.utils as ours
print(json.dumps({
    "attempts": attempts,
    "sync": ours.SETTINGS["sync"],
    "online": ours.ONLINE,
    "autoinstall": ours.AUTOINSTALL,
    "safe_load": ours.SAFE_LOAD,
    "rank": os.environ["RANK"],
}))
"""


def test_training_asks_no_network_installs_nothing_and_ignores_torchruns_variables(
    encoder_uri, boxes_dataset, tmp_path
):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("YOLO_")},
        "HOME": str(tmp_path),
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", ALONE, encoder_uri("yolo12n"), boxes_dataset],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "attempts": [],
        "sync": False,
        "online": False,
        "autoinstall": False,
        "safe_load": True,
        "rank": "1",
    }
    assert not list(tmp_path.rglob("*ltralytics*"))

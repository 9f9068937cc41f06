import pickle
import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from sightline.encoders import (
    BACKBONE_FILE,
    EncoderSpec,
    build_encoder,
    load_encoder,
    save_encoder,
)
from sightline.encoders.files import load_weights, local_weights
from sightline.errors import UserError
from sightline.storage.artifacts import sha256_of


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(5)
    return torchvision.models.resnet18(weights=None)


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_features_are_those_of_torchvision_after_its_normalisation(tmp_path, resnet, images):
    torch.save(resnet.state_dict(), tmp_path / "weights.pth")
    encoder = load_encoder(str(tmp_path / "weights.pth")).eval()
    normalize = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    body = nn.Sequential(*list(resnet.children())[:-1]).eval()
    with torch.inference_mode():
        expected = body(normalize(images)).flatten(1)
        assert torch.allclose(encoder(images), expected, atol=1e-5)


def test_notebook_names_give_the_same_features_as_torchvision_names(tmp_path, resnet, images):
    class Notebook(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(*list(resnet.children())[:-1])

    states = {
        "features.0.weight": Notebook().state_dict(),
        "0.weight": Notebook().features.state_dict(),
        "conv1.weight": resnet.state_dict(),
    }
    found = []
    for first_name, state in states.items():
        assert next(iter(state)) == first_name
        torch.save(state, tmp_path / "weights.pth")
        with torch.inference_mode():
            found.append(load_encoder(str(tmp_path / "weights.pth")).eval()(images))
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[2])


def test_names_that_data_parallel_and_wrappers_put_in_front_are_understood(tmp_path, resnet):
    state = {f"module.encoder.{name}": value for name, value in resnet.state_dict().items()}
    torch.save(state, tmp_path / "wrapped.pth")
    encoder = load_encoder(str(tmp_path / "wrapped.pth"))
    assert torch.equal(encoder.trunk.conv1.weight, resnet.conv1.weight)


def test_saved_backbone_loads_into_torchvision_itself(tmp_path):
    encoder = build_encoder(EncoderSpec("resnet18", 64), seed=3)
    save_encoder(encoder, tmp_path)
    state = torch.load(tmp_path / BACKBONE_FILE, weights_only=True)
    found = torchvision.models.resnet18(weights=None).load_state_dict(state, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (["fc.weight", "fc.bias"], [])


def refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError) as caught:
        load_encoder(str(tmp_path / "weights.pth"))
    return str(caught.value)


def test_another_network_is_refused_and_the_tensors_are_named(tmp_path):
    found = refused(tmp_path, torchvision.models.resnet50(weights=None).state_dict())
    assert "does not fit resnet18" in found
    assert "unknown (such as layer1.0.bn3.bias)" in found
    assert "misshapen (such as layer1.0.conv1.weight)" in found


def test_state_dict_with_a_missing_tensor_is_refused(tmp_path, resnet):
    state = dict(resnet.state_dict())
    del state["layer4.1.bn2.running_var"]
    assert "1 missing (such as layer4.1.bn2.running_var)" in refused(tmp_path, state)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}])
def test_file_without_tensors_by_name_is_refused(tmp_path, content):
    assert "needs a state dict of tensors" in refused(tmp_path, content)


def test_wrapped_state_dict_is_refused_with_the_name_it_has(tmp_path, resnet):
    told = refused(tmp_path, {"state_dict": dict(resnet.state_dict()), "epoch": 3})
    assert "got dict under 'state_dict': save the encoder's state dict alone" in told


def test_counts_of_batches_may_be_missing_as_in_old_files(tmp_path, resnet):
    state = resnet.state_dict()
    old = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) == len(state) - 20
    torch.save(old, tmp_path / "weights.pth")
    loaded = load_encoder(str(tmp_path / "weights.pth")).trunk.state_dict()
    for name in old.keys() & loaded.keys():
        assert torch.equal(loaded[name], old[name])


def test_two_networks_in_one_file_are_refused(tmp_path, resnet):
    state = {
        f"{part}.{name}": t
        for part in ("encoder", "backbone")
        for name, t in resnet.state_dict().items()
    }
    assert "two networks, both with conv1.weight" in refused(tmp_path, state)


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (lambda t: t.to_sparse(), "sparse, quantised or without its values"),
        (lambda t: t.to("meta"), "sparse, quantised or without its values"),
        (lambda t: t.to(torch.complex64), "torch.complex64 in tensor conv1.weight"),
        (lambda t: t.int(), "torch.int32 in tensor conv1.weight, where torch.float32 is needed"),
        (lambda t: t.double() * 1e300, "no numbers, in tensor conv1.weight"),
    ],
)
def test_other_kinds_of_number_than_the_encoders_are_refused(tmp_path, resnet, alter, told):
    state = {**resnet.state_dict(), "conv1.weight": alter(resnet.conv1.weight.detach())}
    assert told in refused(tmp_path, state)


def test_wider_numbers_that_fit_are_read(tmp_path, resnet):
    torch.save(
        {n: t.double() if t.is_floating_point() else t for n, t in resnet.state_dict().items()},
        tmp_path / "w.pth",
    )
    assert torch.equal(
        load_encoder(str(tmp_path / "w.pth")).trunk.conv1.weight, resnet.conv1.weight
    )


def test_negative_variances_are_refused(tmp_path, resnet):
    state = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    state["bn1.running_var"][0] = -1
    assert "no variances, in tensor bn1.running_var" in refused(tmp_path, state)


def test_tensors_without_names_are_refused(tmp_path):
    assert "got the name 0" in refused(tmp_path, {0: torch.zeros(2)})


def test_what_was_verified_is_what_is_loaded(tmp_path, resnet):
    path = tmp_path / "weights.pth"
    torch.save(resnet.state_dict(), path)
    before = sha256_of(path)
    with local_weights(str(path)) as (copy, digest):
        path.write_bytes(b"something else")
        assert digest == sha256_of(copy) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, resnet, value):
    state = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    state["layer3.0.bn1.running_mean"][5] = value
    assert "no numbers, in tensor layer3.0.bn1.running_mean" in refused(tmp_path, state)


def test_file_may_end_as_pytorchs_own_files_do(tmp_path, resnet):
    torch.save(resnet.state_dict(), tmp_path / "weights.pt")
    loaded = load_encoder(str(tmp_path / "weights.pt"))
    assert torch.equal(loaded.trunk.state_dict()["conv1.weight"], resnet.conv1.weight)


@pytest.mark.parametrize("content", [b"a picture of a cat", b"junk\n", b"\x89PNG\r\n", b""])
def test_file_that_is_no_torch_file_is_refused_without_the_unpicklers_numbers(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_encoder(str(tmp_path / "weights.pth"))
    told = str(caught.value).removeprefix(f"{tmp_path / 'weights.pth'} ")
    assert told.startswith("is not a plain state dict that loads safely")
    assert told.endswith(
        ": give a PyTorch file, as torch.save(encoder.state_dict(), path) writes it"
    )
    assert not re.search(r"\d", told)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no weights file at .*/absent\.pth"):
        load_encoder(str(tmp_path / "absent.pth"))


class Payload:
    """A pickle that makes a file when it is loaded carelessly."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (Path(self.target),)


@pytest.mark.parametrize(
    "write", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what, protocol=2))]
)
def test_code_inside_a_weights_file_is_refused_and_never_runs(tmp_path, write):
    target = tmp_path / "it-ran"
    write({"conv1.weight": Payload(str(target))}, tmp_path / "weights.pth")
    encoder = build_encoder(EncoderSpec("resnet18", 64), seed=0)
    told = (
        r"weights\.pth is not a plain state dict that loads safely \(it holds [\w.]+\): give a "
        r"PyTorch file, as torch\.save\(encoder\.state_dict\(\), path\) writes it$"
    )
    with pytest.raises(UserError, match=told):
        load_weights(encoder, tmp_path / "weights.pth")
    assert not target.exists()


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("resnet50", 2048)])
def test_feature_maps_have_strides_8_16_32_and_the_last_one_pools_to_h(name, width, images):
    encoder = build_encoder(EncoderSpec(name, 64), seed=0).eval()
    with torch.inference_mode():
        maps = encoder.feature_maps(images)
        assert [tuple(level.shape[2:]) for level in maps] == [(8, 8), (4, 4), (2, 2)]
        assert encoder(images).shape == (2, width)
        assert torch.allclose(maps[-1].mean((2, 3)), encoder(images))


def test_seeded_initialisation_repeats_and_leaves_torchs_own_generator_alone():
    spec = EncoderSpec("resnet18", 64)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, second, other = (build_encoder(spec, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.trunk.conv1.weight, second.trunk.conv1.weight)
    assert not torch.equal(first.trunk.conv1.weight, other.trunk.conv1.weight)

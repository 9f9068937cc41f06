"""Encoders on disk: a plain state dict, and beside it what is needed to rebuild the encoder."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from sightline.encoders.base import Encoder, EncoderSpec, build_encoder
from sightline.errors import UserError
from sightline.storage import NotFoundError, open_storage
from sightline.storage.artifacts import fetch_artifacts, read_json, sha256_of, write_json
from sightline.storage.scratch import ScratchFolder
from sightline.training.tensors import ForeignFileError, load_tensors, save_tensors

BACKBONE_FILE = "simclr_backbone.pth"
SPEC_FILE = "encoder.json"

# With a letter among them: digits alone may be a date.
_DIGEST_IN_NAME = re.compile(r"-(?=[0-9]*[a-f])([0-9a-f]{8,64})\.pth?$")
_WEIGHTS_SUFFIXES = (".pth", ".pt")
_BATCH_COUNT = ".num_batches_tracked"

# A notebook's nn.Sequential(*list(resnet.children())[:-1]) numbers the children it holds;
# a YOLO trunk's own names are numbers.
_SEQUENTIAL_NAMES = {
    "0": "conv1",
    "1": "bn1",
    "4": "layer1",
    "5": "layer2",
    "6": "layer3",
    "7": "layer4",
}


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """Write `simclr_backbone.pth` and `encoder.json` into a folder."""
    state = {name: tensor.detach().cpu() for name, tensor in encoder.trunk.state_dict().items()}
    save_tensors(state, folder / BACKBONE_FILE)
    write_json(folder / SPEC_FILE, encoder.spec.to_json())


def load_encoder(uri: str, spec: EncoderSpec | None = None) -> Encoder:
    """Load an encoder that pretraining left, or a notebook's own weights file.

    Args:
        uri: The address of a finished pretrain step, or of a `.pth` or `.pt` file.
        spec: The encoder a bare file belongs to; resnet18 at 224 px if left out.

    Raises:
        NotFoundError: If nothing has finished there.
        UserError: If the file is no state dict, or does not fit the encoder.
    """
    if uri.endswith(_WEIGHTS_SUFFIXES):
        encoder = build_encoder(spec or EncoderSpec("resnet18", image_size=224), seed=0)
        with _local_file(uri) as weights:
            load_weights(encoder, weights)
        return encoder
    folder = fetch_artifacts(uri, [BACKBONE_FILE, SPEC_FILE])
    encoder = build_encoder(EncoderSpec.from_json(read_json(folder / SPEC_FILE)), seed=0)
    load_weights(encoder, folder / BACKBONE_FILE)
    return encoder


@contextmanager
def local_weights(uri: str, sha256: str = "") -> Iterator[tuple[Path, str]]:
    """Give a weights file on this machine, whole and verified.

    Args:
        uri: A `.pth` or `.pt` file, or the address of a finished pretrain step.
        sha256: What the file's sha256 must be, or how it begins. Without one, the hexadecimal
            digits that end the names of torchvision's files (`resnet18-f37072fd.pth`) are taken
            for it, unless they may be a date.

    Yields:
        The file, and its sha256.

    Raises:
        UserError: If there is none, or its sha256 is another.
    """
    in_name = _DIGEST_IN_NAME.search(uri)
    expected = sha256.lower() or (in_name[1] if in_name else "")
    with _weights_file(uri) as path:
        found = sha256_of(path)
        if not found.startswith(expected):
            raise UserError(
                f"the weights at {uri} have another sha256: expected {expected}, got {found}; "
                "fetch them again from where they were published, or correct "
                "initial_weights_sha256"
            )
        yield path, found


@contextmanager
def _weights_file(uri: str) -> Iterator[Path]:
    if uri.endswith(_WEIGHTS_SUFFIXES):
        with _local_file(uri) as path:
            yield path
    else:
        yield fetch_artifacts(uri, [BACKBONE_FILE]) / BACKBONE_FILE


@contextmanager
def _local_file(uri: str) -> Iterator[Path]:
    # A copy of a local one too: what was verified is what is loaded, whoever writes meanwhile.
    parent, name = posixpath.split(uri)
    with ScratchFolder("encoder") as scratch:
        path = scratch / BACKBONE_FILE
        try:
            open_storage(parent or ".").download(name, path)
        except NotFoundError:
            raise UserError(f"no weights file at {uri}") from None
        except OSError as error:
            raise UserError(f"cannot copy {uri}: {error.strerror}") from None
        try:
            yield path
        except UserError as error:  # speaks of the copy, which nobody knows
            raise UserError(str(error).replace(str(path), uri)) from None


def load_weights(encoder: Encoder, path: Path) -> None:
    """Fill an encoder from a state dict file; every tensor must be there and fit.

    BatchNorm's counts of batches alone may be missing, as in files of before PyTorch 0.4.1.

    Raises:
        UserError: If the file is no plain state dict, names, shapes or kinds of number differ, two
            networks are in it, or a value is not finite.
    """
    state = read_state_dict(path)
    expected = encoder.trunk.state_dict()
    numbered = _SEQUENTIAL_NAMES if encoder.spec.name.startswith("resnet") else {}
    renamed: dict[str, str] = {}
    for name in state:
        other = renamed.setdefault(_own_name(name, numbered), name)
        if other != name:
            raise UserError(
                f"{path} holds two networks, both with {_own_name(name, numbered)} ({other} and "
                f"{name}): save the one to start from alone"
            )
    given = {own: state[name] for own, name in renamed.items() if not own.startswith("fc.")}
    counts = {name: t for name, t in expected.items() if name.endswith(_BATCH_COUNT)}
    given = {**counts, **given}
    misfit = explain_misfit(expected, given)
    if misfit:
        raise UserError(f"{path} does not fit {encoder.spec.name}: tensors {misfit}")
    for name, tensor in given.items():
        kind = expected[name].dtype
        if tensor.is_floating_point() != kind.is_floating_point or tensor.is_complex():
            raise UserError(f"{path} holds {tensor.dtype} in tensor {name}, where {kind} is needed")
        # As they will be: what is finite in float64 may be none in float32.
        is_variance = name.endswith("running_var")
        if not tensor.to(kind).isfinite().all() or (is_variance and (tensor < 0).any()):
            raise UserError(
                f"{path} holds values that are no {'variances' if is_variance else 'numbers'}, in "
                f"tensor {name}: its training went wrong, so take weights from before that"
            )
    encoder.trunk.load_state_dict(given)


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """Read a file of tensors by name; nothing in it is executed.

    Raises:
        UserError: If it is anything else than a plain state dict.
    """
    try:
        state = load_tensors(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ForeignFileError as error:
        raise UserError(
            f"{path} is not a plain state dict that loads safely{error}: give a PyTorch file, "
            "as torch.save(encoder.state_dict(), path) writes it"
        ) from None
    if not isinstance(state, Mapping):
        raise UserError(f"{path} needs a state dict of tensors, got {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(name, str):
            raise UserError(f"{path} needs a state dict of tensors by name, got the name {name!r}")
        if isinstance(value, Tensor) and (
            value.layout != torch.strided or value.is_quantized or value.is_meta
        ):
            raise UserError(
                f"{path} holds {name} sparse, quantised or without its values: save it dense"
            )
        if not isinstance(value, Tensor):
            raise UserError(
                f"{path} needs a state dict of tensors, got {type(value).__name__} under "
                f"{name!r}: save the encoder's state dict alone"
            )
    return state


def explain_misfit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Say which tensors are missing, unknown or misshapen; empty if all fit."""
    missing = sorted(set(expected) - set(given))
    unknown = sorted(set(given) - set(expected))
    misfit = sorted(n for n in set(expected) & set(given) if expected[n].shape != given[n].shape)
    return ", ".join(
        f"{len(names)} {word} (such as {names[0]})"
        for names, word in ((missing, "missing"), (unknown, "unknown"), (misfit, "misshapen"))
        if names
    )


def _own_name(name: str, numbered: Mapping[str, str]) -> str:
    for prefix in ("module.", "encoder.", "backbone.", "features."):
        name = name.removeprefix(prefix)
    head, dot, rest = name.partition(".")
    return f"{numbered.get(head, head)}{dot}{rest}"

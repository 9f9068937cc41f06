"""Where a training runs, in which precision, and from which seed."""

from __future__ import annotations

import contextlib
import functools
import os
import random

import numpy as np
import torch

from sightline.errors import UserError
from sightline.telemetry import announce, count
from sightline.training.names import Precision


def pick_device() -> torch.device:
    """Return this process's accelerator if the machine has any, else the CPU.

    Raises:
        UserError: If more workers run on this machine than it has accelerators.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    workers, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if workers > devices:
        raise UserError(
            f"each worker needs a GPU of its own, got {workers} workers for "
            f"{count(devices, 'GPU')}: set workers to {devices} or less"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def supports_bfloat16(device: torch.device) -> bool:
    """Say whether a device computes bfloat16 itself; a CPU that emulates it is 12 times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch offers no public question for this; a version without these counts as a no.
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[None]:
    """Return the context in which a forward pass computes in a precision.

    bfloat16 is honoured where the device has it natively; elsewhere one line says that
    float32 is used instead.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    if not supports_bfloat16(device):
        _say_once(f"this {device.type} has no bfloat16 of its own, so float32 is used")
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, numpy and torch, on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@functools.cache
def _say_once(text: str) -> None:
    announce("training", text)

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.errors import UserError
from sightline.training.devices import (
    autocast,
    pick_device,
    seed_everything,
    supports_bfloat16,
)

CPU = torch.device("cpu")


def test_the_cpu_is_asked_whether_it_has_bfloat16():
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file() or "flags" not in cpuinfo.read_text():
        pytest.skip("only Linux on x86 lists its instructions")
    flags = set(cpuinfo.read_text().partition("flags")[2].splitlines()[0].split())
    assert supports_bfloat16(CPU) == bool(flags & {"avx512_bf16", "amx_bf16"})


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
def test_each_worker_has_the_gpu_of_its_number(monkeypatch):
    assert pick_device() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert pick_device() == torch.device("cuda", 1)


@pytest.mark.usefixtures("two_gpus")
def test_more_workers_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UserError, match="3 workers for 2 GPUs: set workers to 2 or less"):
        pick_device()


def test_bfloat16_is_used_only_where_the_cpu_has_it():
    with autocast(CPU, "bfloat16"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if supports_bfloat16(CPU) else torch.float32)


def test_float32_stays_float32():
    with autocast(CPU, "float32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_seed_fixes_every_generator():
    draws = []
    for _ in range(2):
        seed_everything(7)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]


def test_names_for_settings_load_without_torch():
    code = "import sys, sightline.training.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

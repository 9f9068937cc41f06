"""Claim: passes of 32 cut a step of 512 images to 1/6 of its memory, for at most 1.5x its time.

python benchmarks/gradient_cache.py [--rounds 3] [--batch 512] [--image-size 96] [--pass 32]

One step is forward, NT-Xent over the whole batch and backward of ResNet-18 with preset `paper`'s
head, float32, one thread. Memory is what a process of its own needs at its peak beyond what it held
before: the network and the views of the batch. Time is the process's CPU time, so that other work
on the machine counts little; both are medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from sightline.pretrain import PretrainConfig, nt_xent_loss
from sightline.pretrain.gradient_cache import backward_in_passes
from sightline.pretrain.train import ContrastiveNetwork

MEMORY_LIMIT, TIME_LIMIT = 1 / 6, 1.5


def measure(batch: int, image_size: int, images_per_pass: int) -> tuple[float, float]:
    """Return the memory in MiB, and the CPU seconds, of a step."""
    torch.set_num_threads(1)
    config = PretrainConfig.from_values({"preset": "paper", "image_size": image_size})
    network = ContrastiveNetwork(config).to(memory_format=torch.channels_last)
    views = torch.rand(2, batch, 3, image_size, image_size)

    def project(images: Tensor) -> Tensor:
        both = views[:, images].flatten(0, 1)
        return network(both.contiguous(memory_format=torch.channels_last))

    def step(passes: list[Tensor]) -> None:
        network.zero_grad()
        backward_in_passes(
            network, passes, project, lambda one, other: nt_xent_loss(one, other, 0.1)
        )

    images = torch.arange(batch)
    step([images[:8], images[8:16]])  # threads and libraries
    network.zero_grad()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status_mib("VmRSS")
    began = time.process_time()
    step(list(images.split(images_per_pass)))
    seconds = time.process_time() - began
    memory = status_mib("VmHWM") - before
    return memory, seconds


def status_mib(field: str) -> float:
    """Return a size that the kernel keeps of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def main() -> int:
    """Print both ratios; 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--pass", type=int, default=32, dest="images_per_pass")
    parser.add_argument("--inside", type=int, metavar="IMAGES_PER_PASS")
    options = parser.parse_args()
    if options.inside:
        print(*measure(options.batch, options.image_size, options.inside))
        return 0
    found: dict[int, list[tuple[float, float]]] = {options.batch: [], options.images_per_pass: []}
    for _ in range(options.rounds):
        for size, rounds in found.items():
            arguments = [*sys.argv[1:], "--inside", str(size)]
            done = subprocess.run(
                [sys.executable, __file__, *arguments], capture_output=True, text=True, check=True
            )
            memory, seconds = map(float, done.stdout.split())
            rounds.append((memory, seconds))
    (whole_mib, whole_seconds), (mib, seconds) = (
        [statistics.median(column) for column in zip(*rounds, strict=True)]
        for rounds in found.values()
    )
    print(
        f"{options.batch} images at {options.image_size} px in passes of {options.images_per_pass}:"
        f" {mib:.0f} MiB against {whole_mib:.0f} MiB, {mib / whole_mib:.1%} (limit "
        f"{MEMORY_LIMIT:.1%}); {seconds:.1f} s of CPU against {whole_seconds:.1f} s, "
        f"{seconds / whole_seconds:.2f}x (limit {TIME_LIMIT}x; one more forward is 1.33x)"
    )
    return int(mib > MEMORY_LIMIT * whole_mib or seconds > TIME_LIMIT * whole_seconds)


if __name__ == "__main__":
    sys.exit(main())

"""Claim: at 2N = 16,384 NT-Xent takes 1/4 of the time and 1/50 of the memory of the whole table.

python benchmarks/nt_xent.py [--rounds 5]

The peer is equation 1 as it is written in most places: the exponentials of the whole table, the
diagonal masked, sums and logarithms, and autograd. Time is the median of interleaved rounds,
forward and backward; memory is what a process of its own needs at its peak beyond what it needed
before, in the same call. Two processes share one batch; the peer is one process with that batch.
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
import torch.nn.functional as F
from torch import Tensor

from sightline.pretrain import nt_xent_loss
from sightline.training import distributed

SIZES = (512, 4096, 16384)
WIDTH, TEMPERATURE = 128, 0.07
LARGEST = SIZES[-1]
TIME_LIMIT, MEMORY_LIMIT = 4.0, 0.02


def naive(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return NT-Xent by the whole table of exponentials."""
    views = F.normalize(torch.cat([first, second]), dim=1)
    count = len(views)
    exponentials = torch.exp(views @ views.T / temperature)
    mask = ~torch.eye(count, dtype=torch.bool)
    sums = (exponentials * mask).sum(dim=1)
    partners = torch.arange(count).roll(len(first))
    return -torch.log(exponentials[torch.arange(count), partners] / sums).mean()


LOSSES = {"tiles": nt_xent_loss, "naive": naive}


def one_round(name: str, views: int) -> float:
    """Return the seconds of one forward and backward on this process's share."""
    generator = torch.Generator().manual_seed(distributed.rank())
    shape = (views // 2 // distributed.world_size(), WIDTH)
    pair = [torch.randn(shape, generator=generator, requires_grad=True) for _ in range(2)]
    began = time.perf_counter()
    LOSSES[name](*pair, TEMPERATURE).backward()
    return time.perf_counter() - began


def median_seconds(name: str, views: int, rounds: int) -> float:
    """Return the median seconds of some rounds, after one for threads and memory pools."""
    one_round(name, views)
    return statistics.median(one_round(name, views) for _ in range(rounds))


def peak_mib(name: str, views: int) -> float:
    """Return how much the peak of this process grows by one round, in MiB."""
    one_round(name, 512)  # threads and libraries
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status_mib("VmRSS")
    one_round(name, views)
    return status_mib("VmHWM") - before


def status_mib(field: str) -> float:
    """Return a size that the kernel keeps of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def run_self(*arguments: str, processes: int = 1) -> list[float]:
    """Run this script in processes of their own and return the numbers that rank 0 printed."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    start = [sys.executable, *(launcher if processes > 1 else []), __file__, *arguments]
    done = subprocess.run(start, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def main() -> int:
    """Print times and memory; 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inside", nargs=3, metavar=("WHAT", "LOSS", "VIEWS"))
    options = parser.parse_args()
    if options.inside:
        what, name, views = options.inside
        with distributed.process_group(torch.device("cpu")):
            size = int(views)
            if what == "memory":
                found = peak_mib(name, size)
            else:
                found = median_seconds(name, size, 1 if size == LARGEST else 4)
            if distributed.is_main():
                print(found)
        return 0
    kept = True
    for views in SIZES:
        for name in LOSSES:
            one_round(name, views)
        times: dict[str, list[float]] = {name: [] for name in LOSSES}
        for _ in range(options.rounds if views == LARGEST else 4 * options.rounds):
            for name in LOSSES:
                times[name].append(one_round(name, views))
        middle = {name: statistics.median(found) for name, found in times.items()}
        ratio = middle["naive"] / middle["tiles"]
        print(
            f"2N = {views:6d}, one process: {1000 * middle['tiles']:8.1f} ms against "
            f"{1000 * middle['naive']:8.1f} ms, {ratio:.2f}x"
        )
        kept &= ratio >= TIME_LIMIT or views != LARGEST
    naive_mib = run_self("--inside", "memory", "naive", str(LARGEST))[0]
    for processes in (1, 2):
        own = [
            run_self("--inside", "memory", "tiles", str(LARGEST), processes=processes)[0]
            for _ in range(options.rounds)
        ]
        share = statistics.median(own) / naive_mib
        print(
            f"2N = {LARGEST}, {processes} process(es): {statistics.median(own):.0f} MiB each "
            f"against {naive_mib:.0f} MiB, {share:.1%} (limit {MEMORY_LIMIT:.0%})"
        )
        kept &= share <= MEMORY_LIMIT
    for views in SIZES:
        together: list[float] = []
        alone: list[float] = []
        for _ in range(options.rounds):
            together += run_self("--inside", "time", "tiles", str(views), processes=2)
            alone += run_self("--inside", "time", "naive", str(views))
        ratio = statistics.median(alone) / statistics.median(together)
        limit = f" (limit {TIME_LIMIT:.0f})" if views == LARGEST else ""
        print(
            f"2N = {views:6d}, two processes: {1000 * statistics.median(together):8.1f} ms against "
            f"{1000 * statistics.median(alone):8.1f} ms of one, {ratio:.2f}x{limit}"
        )
        kept &= ratio >= TIME_LIMIT or views != LARGEST
    print("kept" if kept else "NOT kept")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

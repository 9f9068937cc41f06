"""Claim: loss and BatchNorm over the batch of two workers cost at most 3 % of a step's CPU.

python benchmarks/exact_batch.py [--rounds 12] [--image-size 224]

Two processes with a thread each train ResNet-18 on 16 images each, two views of every image. The
peer is the same step with BatchNorm over each process's share and negatives of that share only.
CPU is the user and system time of both processes; the rounds are interleaved, and the figure is the
median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from time import process_time

import torch
import torch.multiprocessing
from torch import Tensor

from sightline.pretrain import PretrainConfig
from sightline.pretrain.loss import nt_xent_loss
from sightline.pretrain.train import ContrastiveNetwork
from sightline.training import distributed
from sightline.training.batch_norm import synchronise_batch_norms

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "gloo"))
from two_processes import run_in_two_processes

LIMIT = 0.03
IMAGES_EACH, STEPS = 16, 2


def own_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return NT-Xent over this process's share alone."""
    views = torch.nn.functional.normalize(torch.cat([first, second]).float(), dim=1)
    logits = (views @ views.T / temperature).fill_diagonal_(-torch.inf)
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(views)).roll(len(first)))


class Measure:
    """Steps of both kinds in turn; the processes start and end each round together."""

    def __init__(self, rounds: int, image_size: int) -> None:
        self.rounds = rounds
        self.image_size = image_size

    def __call__(self, rank: int) -> list[tuple[float, float]]:
        """Return, for each round, the CPU seconds of both processes: exact, and apart."""
        torch.manual_seed(rank)
        views = torch.rand(2 * IMAGES_EACH, 3, self.image_size, self.image_size)
        views = views.contiguous(memory_format=torch.channels_last)
        steps = {}
        for exact in (True, False):
            network = ContrastiveNetwork(PretrainConfig(image_size=self.image_size))
            if exact:
                synchronise_batch_norms(network)
            trained = distributed.data_parallel(
                network.to(memory_format=torch.channels_last), torch.device("cpu")
            )
            steps[exact] = (trained, nt_xent_loss if exact else own_loss)
        found = []
        for _ in range(self.rounds + 1):
            seconds = {}
            for exact, (trained, loss) in steps.items():
                distributed.all_reduce_sum(torch.zeros(1))
                began = process_time()
                for _ in range(STEPS):
                    first, second = trained(views).chunk(2)
                    loss(first, second, 0.07).backward()
                spent = torch.tensor(process_time() - began, dtype=torch.float64)
                seconds[exact] = distributed.all_reduce_sum(spent).item()
            found.append((seconds[True], seconds[False]))
        return found[1:]


def main() -> int:
    """Print the shares; 1 if the limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--image-size", type=int, default=224)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure = Measure(options.rounds, options.image_size)
        rounds = run_in_two_processes(measure, Path(folder))[0]
    shares = sorted((exact - apart) / apart for exact, apart in rounds)
    share = statistics.median(shares)
    middle = statistics.median(apart for _, apart in rounds) / STEPS
    print(
        f"{options.rounds} rounds of {STEPS} steps at {options.image_size} px: a step takes "
        f"{middle:.2f} s of CPU apart; the exact batch {share:+.1%} (quartiles "
        f"{shares[len(shares) // 4]:+.1%} to {shares[3 * len(shares) // 4]:+.1%}, "
        f"limit {LIMIT:.0%})"
    )
    return int(share > LIMIT)


if __name__ == "__main__":
    sys.exit(main())

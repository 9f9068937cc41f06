"""Two real processes that share work over gloo on the CPU."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from sightline.training import distributed

WORLD_SIZE = 2
CPU = torch.device("cpu")

# Imported once, by a server that forks the processes, instead of by each of them.
multiprocessing.set_forkserver_preload(["torch._dynamo", "sightline.pretrain.train"])


def run_in_processes(work: Callable[[int], Any], folder: Path, count: int) -> list[Any]:
    """Return what `work(rank)` gave in each process; it must be a module's function."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(
        _join, (count, port, work, folder), nprocs=count, start_method="forkserver"
    )
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(count)]


def run_in_two_processes(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Return what `work(rank)` gave in each of two processes."""
    return run_in_processes(work, folder, WORLD_SIZE)


def _join(rank: int, count: int, port: int, work: Callable[[int], Any], folder: Path) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    with distributed.process_group(CPU):
        torch.save(work(rank), folder / f"rank-{rank}.pt")

"""Several processes that train one network; the only place that knows torch.distributed.

Without a process group everything here answers as rank 0 of 1 and changes nothing, so a
training loop is written once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sightline.machine import started_by_torchrun
from sightline.training.preemption import PeerLostError

T = TypeVar("T")

_BEAT_SECONDS = 0.1

# gloo raises plain RuntimeErrors. Most name its source file; those that a pair of processes is
# closed with do not (gloo/transport/tcp/pair.cc).
_GLOO_LOST = (
    "gloo",
    "Application timeout caused pair closure",
    "Connection closed by peer",
    "Connection reset by peer",
    "Connect timeout",
    "Read error",
    "Socket closed",
    "Timed out waiting",
    "Write error",
)
# Its own words, and those of torch's store, for one that is there and does not answer.
_SILENT = re.compile("timed out|timeout", re.IGNORECASE)
_ENDED = re.compile("closed|reset by peer|broken pipe|got 0 bytes|write error", re.IGNORECASE)


@contextmanager
def process_group(device: torch.device, timeout_minutes: float = 10) -> Iterator[None]:
    """Join the processes that torchrun started, for as long as the block runs.

    All processes leave together when the block ends well. One that raises leaves at once, and
    torchrun stops the others.

    Args:
        device: Where this process computes.
        timeout_minutes: How long the others wait for one that does not answer before they end.

    Raises:
        PeerLostError: If another process ended or did not answer, with the notes of the error
            that said so.
    """
    if not started_by_torchrun() or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
        try:
            yield
            dist.barrier()
        finally:
            dist.destroy_process_group()
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        place = ", ".join(getattr(error, "__notes__", []))
        if _SILENT.search(str(error)):
            raise PeerLostError(60 * timeout_minutes, place) from None
        if _ENDED.search(str(error)):
            raise PeerLostError(None, place) from None
        raise


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Say whether this process prints and publishes; exactly one does."""
    return rank() == 0


def from_main(work: Callable[[], T]) -> T:
    """Let rank 0 alone do something, and return its result in every process.

    It may take as long as it takes, as what a slow store is asked for does: it is done in a thread,
    and the others learn meanwhile that rank 0 has not stopped.

    Args:
        work: What to do; it may not call the other processes.

    Raises:
        Exception: In rank 0, what `work` raised; the others then end without a word.
    """
    if world_size() == 1:
        return work()
    outcome: list[Any] = [False, None]
    if not is_main():
        wait_for_main()
        dist.broadcast_object_list(outcome)
        if not outcome[0]:
            sys.exit(1)
        return cast(T, outcome[1])
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        while not wait([done], _BEAT_SECONDS).done:
            still_at_work()
    wait_for_main()
    try:
        outcome = [True, done.result()]
    finally:
        dist.broadcast_object_list(outcome)
    return cast(T, outcome[1])


def still_at_work() -> None:
    """Let rank 0 tell the others, which are in `wait_for_main`, that it has not stopped."""
    any_of(torch.tensor([True]))


def wait_for_main() -> None:
    """Wait in every process until rank 0 comes here, too, after a long work of its own.

    The time that a process may be silent counts from the last `still_at_work` on, so that nobody
    takes long work for a hang.
    """
    while any_of(torch.tensor([False])):
        pass


def is_lost_peer(error: BaseException) -> bool:
    """Say whether an error means that another process ended or does not answer."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _GLOO_LOST)


def all_gather(tensor: Tensor) -> Tensor:
    """Join every process's tensor, in the order of the ranks; without a gradient.

    Args:
        tensor: Shape (n, …), equal on every process.

    Returns:
        Shape (world_size · n, …).
    """
    if world_size() == 1:
        return tensor.detach()
    everyones = tensor.new_empty(world_size() * len(tensor), *tensor.shape[1:])
    dist.all_gather(list(everyones.chunk(world_size())), tensor.detach().contiguous())
    return everyones


def own_part(everyones: Tensor) -> Tensor:
    """Return what this process gave to `all_gather`, as a view."""
    return everyones.chunk(world_size())[rank()]


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; without a gradient."""
    if world_size() == 1:
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def any_of(flags: Tensor) -> Tensor:
    """Return, for each of some flags on the CPU, whether any process has raised it."""
    if world_size() == 1:
        return flags
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return all_reduce_max(flags.to(device, torch.int32)).bool().cpu()


def all_reduce_max(tensor: Tensor) -> Tensor:
    """Return the largest of each element over all processes; without a gradient."""
    if world_size() == 1:
        return tensor.detach()
    largest = tensor.detach().clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes; without a gradient."""
    return all_reduce_sum(tensor) / world_size()


def data_parallel(network: nn.Module, device: torch.device) -> nn.Module:
    """Let the processes average the network's gradients; alone, return the network itself."""
    if world_size() == 1:
        return network
    device_ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=device_ids)


def gradients_not_averaged(network: nn.Module) -> AbstractContextManager[None]:
    """Let forward and backward in the block add up this process's own gradients only.

    The next forward and backward behind it average all that was added up.

    Args:
        network: What `data_parallel` gave.
    """
    if isinstance(network, DistributedDataParallel):
        return cast(AbstractContextManager[None], network.no_sync())
    return nullcontext()

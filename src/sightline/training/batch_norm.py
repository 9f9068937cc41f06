"""BatchNorm over the images of all processes, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from sightline.training import distributed


def synchronise_batch_norms(network: nn.Module) -> None:
    """Let every BatchNorm of a network normalise by the batch of all processes, in place.

    What one process with the whole batch would compute. Parameters, buffers and the names of a
    state dict stay as they are; one process alone, and evaluation, compute as before.
    `nn.SyncBatchNorm` does the same on GPUs and refuses a CPU.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, SynchronisedBatchNorm):
            # The class alone differs, so hooks, parameters and settings need no copy.
            module.__class__ = SynchronisedBatchNorm


@contextmanager
def running_statistics_kept(network: nn.Module) -> Iterator[None]:
    """Let every BatchNorm normalise by its batch, as in training, and learn nothing from it.

    What running mean and variance, and the count of batches, were before the block they are
    behind it.
    """
    following = [
        m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats
    ]
    for module in following:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in following:
            module.track_running_stats = True


class SynchronisedBatchNorm(_BatchNorm):
    """BatchNorm (Ioffe, Szegedy 2015, arXiv:1502.03167) over the batch of all processes.

    Mean and variance of a channel are those of all processes' values, whose numbers may differ;
    the gradient passes through them to every process.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise values (N, channels, …)."""
        if not self.training or distributed.world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        return cast(Tensor, _Normalise.apply(input, self.weight, self.bias, self))

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"BatchNorm needs (N, channels, ...), got {tuple(input.shape)}")

    def follow(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """Move the running mean and variance towards those of a batch, as `nn.BatchNorm2d` does."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        share = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if share is None:
                share = 1 / float(self.num_batches_tracked)
        assert share is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        unbiased = variance * (count / max(count - 1, 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        values: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        module: SynchronisedBatchNorm,
    ) -> Tensor:
        # Given float32 to update (with a momentum of 0), it answers bfloat16 in float32.
        exact = torch.float64 if values.dtype == torch.float64 else torch.float32
        unused = values.new_zeros(values.shape[1], dtype=exact)
        own_mean, own_variance = torch.batch_norm_update_stats(values, unused, unused.clone(), 0.0)
        own_count = own_mean.new_full((1,), values.numel() // values.shape[1])
        everyones = distributed.all_gather(torch.cat([own_mean, own_variance, own_count])[None])
        means, variances, counts = torch.split(everyones, [len(own_mean), len(own_mean), 1], dim=1)
        count = float(counts.sum())
        if count < 2:
            raise ValueError("BatchNorm needs more than one value per channel in a batch, got 1")
        shares = counts / count
        mean = (shares * means).sum(dim=0)
        # Of the shares' own spread and the spread of their means; no difference of large squares.
        variance = (shares * (variances + (means - mean) ** 2)).sum(dim=0)
        module.follow(mean, variance, count)
        inverse_std = (variance + module.eps).rsqrt_()
        context.save_for_backward(values, weight, mean, inverse_std)
        context.share = float(own_count) / count
        return torch.batch_norm(values, weight, bias, mean, variance, False, 0.0, module.eps, False)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, inverse_std = context.saved_tensors
        gradient = gradients[0].contiguous(memory_format=_layout(values))
        # As if this process's values were the whole batch; a GPU gives no sums without a weight ...
        used_weight = torch.ones_like(mean) if weight is None else weight
        own, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            *(gradient, values, used_weight, None, None, mean, inverse_std, True, 0.0),
            [True, True, True],
        )
        # ... then what the others' gradients change: a straight line in the value, per channel.
        count = values.numel() // values.shape[1]
        sums = torch.cat([of_bias, of_weight])
        missing = sums / count - distributed.all_reduce_sum(sums) * (context.share / count)
        of_mean, of_spread = missing.chunk(2)
        scale = used_weight * inverse_std
        slope = scale * of_spread * inverse_std
        offset = scale * of_mean - slope * mean
        shape = [1, -1, *[1] * (values.ndim - 2)]
        own.add_(offset.view(shape).to(own.dtype))
        own.addcmul_(values, slope.view(shape).to(own.dtype))
        if weight is None:
            return own, None, None, None
        return own, of_weight, of_bias, None


def _layout(values: Tensor) -> torch.memory_format:
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format

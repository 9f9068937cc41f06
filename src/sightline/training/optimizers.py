"""The optimisers of the settings, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.training.names import OptimizerName

NamedParameters = Iterable[tuple[str, nn.Parameter]]


def build_optimizer(
    name: OptimizerName,
    trained: nn.Module | NamedParameters,
    learning_rate: float,
    weight_decay: float,
    momentum: float = 0.9,
) -> Optimizer:
    """Build an optimiser over everything in a module, or in named parameters, that may learn.

    Args:
        name: `adam` adds the weight decay to the gradient (L2), `adamw` shrinks the weights
            beside it, `sgd` has Nesterov-free momentum, `lars` is `Lars`.
        trained: A module, or pairs of name and parameter; frozen parameters are left out.
        learning_rate: The first learning rate; a schedule may change it each epoch.
        weight_decay: Share of a weight that is added to its gradient (or taken off it, `adamw`).
        momentum: Share of the last step that is kept; used by `sgd` and `lars`.
    """
    named = trained.named_parameters() if isinstance(trained, nn.Module) else trained
    parameters = [parameter for _, parameter in named if parameter.requires_grad]
    # One kernel for all tensors instead of some for each; on a CPU it gains nothing.
    fused = bool(parameters) and all(parameter.is_cuda for parameter in parameters)
    shared: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay, "fused": fused}
    if name == "adam":
        return torch.optim.Adam(parameters, **shared)
    if name == "adamw":
        return torch.optim.AdamW(parameters, **shared)
    if name == "sgd":
        return torch.optim.SGD(parameters, momentum=momentum, **shared)
    # Biases and BatchNorm's scale and shift are the vectors of a network.
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "adapt": False},
    ]
    return Lars(
        [group for group in groups if group["params"]], learning_rate, weight_decay, momentum
    )


class Lars(Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, arXiv:1708.03888) as SimCLR uses it.

    Each tensor's step is scaled by `trust` times the norm of the tensor over the norm of its
    gradient, weight decay included. Parameter groups with `adapt=False` (biases, BatchNorm)
    are neither decayed nor scaled.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 1e-3,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "trust": trust,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; a closure that computes the loss again is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        rate: Tensor | float = group["lr"]
        if group["adapt"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
            size, slope = parameter.norm(), gradient.norm()
            scale = torch.where((size > 0) & (slope > 0), group["trust"] * size / slope, 1.0)
            rate = group["lr"] * scale
        velocity = self.state[parameter].setdefault("velocity", torch.zeros_like(parameter))
        velocity.mul_(group["momentum"]).add_(gradient * rate)
        parameter.sub_(velocity)

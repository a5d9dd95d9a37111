"""Adam on the CPU, all weights in one compiled pass; elsewhere torch's own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from ..compiled import adam
from ..compiled.team import Call

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .plan import Plan


class Adam:
    """What torch's does with the same arguments, for weights in float32 on the CPU.

    Torch's fused step copies weights whose entries have another order in memory than their indices, and its optimisers
    load its compiler, which takes two seconds and 70 MB.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        self.param_groups = [defaults | group for group in groups]
        self.state: dict[Tensor, dict[str, Any]] = {}
        self.calls: dict[tuple[tuple[int, int], ...], tuple[Call, Tensor, Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                weight.grad = None

    @torch.no_grad()
    def step(self) -> None:  # no closure has a user here
        """One step of every weight that has a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            call, numbers, rates = self._call(weights)
            beta1, beta2 = group["betas"]
            numbers.numpy()[:] = beta1, beta2, group["eps"], group["weight_decay"]
            steps, grads = rates.numpy(), [_like(weight) for weight in weights]
            for i, (weight, grad) in enumerate(zip(weights, grads, strict=True)):
                state = self.state[weight]
                state["step"] = n = state["step"] + 1
                steps[i] = group["lr"] / (1 - beta1**n), math.sqrt(1 - beta2**n)
                call.replace(4 * i + 3, grad)
            call()

    def _call(self, weights: list[Tensor]) -> tuple[Call, Tensor, Tensor]:
        """The compiled step of these weights, with the numbers and the rates that it reads."""
        key = tuple((id(weight), weight.data_ptr()) for weight in weights)
        if key not in self.calls:
            arrays, numbers, rates = [], torch.empty(4), torch.empty(len(weights), 2)
            for weight in weights:
                if weight not in self.state:
                    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
                    self.state[weight] = {"step": 0, "exp_avg": first, "exp_avg_sq": second}
                state = self.state[weight]
                # the gradient's place is held by the weight itself
                arrays += map(_in_memory, (weight, weight, state["exp_avg"], state["exp_avg_sq"]))
            self.calls[key] = Call(adam.step, numbers, rates, *arrays), numbers, rates
        return self.calls[key]


def optimizer(model: nn.Module, plan: Plan) -> Adam | torch.optim.Adam:
    """The optimiser of a fit."""
    weights = list(model.parameters())
    here = all(weight.device.type == "cpu" and weight.dtype == torch.float32 for weight in weights)
    options = {"lr": plan.learning_rate, "eps": plan.eps, "weight_decay": plan.weight_decay}
    groups = model.parameter_groups()
    return Adam(groups, **options) if here else torch.optim.Adam(groups, **options, fused=True)


def _like(weight: Tensor) -> Tensor:
    """The gradient of a weight, in the same order of memory."""
    grad = weight.grad
    return grad if grad.stride() == weight.stride() else torch.empty_like(weight).copy_(grad)


def _in_memory(array: Tensor) -> Tensor:
    """The same entries in the order that they have in memory."""
    array = array.detach()
    return (array if array.is_contiguous() else array.permute(*reversed(range(array.ndim)))).view(-1)

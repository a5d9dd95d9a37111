"""Adam on the CPU, all weights in one compiled pass; elsewhere torch's own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ..compiled import adam
from ..compiled.team import Call

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .plan import Plan


class Adam(torch.optim.Adam):
    """What torch's does with the same arguments, for weights in float32 on the CPU.

    Torch's fused step copies weights whose entries have another order in memory than their indices.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.calls: dict[tuple[int, ...], tuple[Call, Tensor, Tensor]] = {}

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

    step.hooked = (
        True  # keeps torch from wrapping it in what its profiler needs, which takes as long as half the step
    )

    def _call(self, weights: list[Tensor]) -> tuple[Call, Tensor, Tensor]:
        """The compiled step of these weights, with the numbers and the rates that it reads."""
        key = tuple(weight.data_ptr() for weight in weights)
        if key not in self.calls:
            arrays, numbers, rates = [], torch.empty(4), torch.empty(len(weights), 2)
            for weight in weights:
                state = self.state[weight]
                if not state:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
                    state["step"] = 0
                # the gradient's place is held by the weight itself
                arrays += map(_in_memory, (weight, weight, state["exp_avg"], state["exp_avg_sq"]))
            self.calls[key] = Call(adam.step, numbers, rates, *arrays), numbers, rates
        return self.calls[key]


def optimizer(model: nn.Module, plan: Plan) -> torch.optim.Adam:
    """The optimiser of a fit."""
    weights = list(model.parameters())
    here = all(weight.device.type == "cpu" and weight.dtype == torch.float32 for weight in weights)
    return (Adam if here else torch.optim.Adam)(
        model.parameter_groups(),
        lr=plan.learning_rate,
        eps=plan.eps,
        weight_decay=plan.weight_decay,
        fused=None if here else True,
    )


def _like(weight: Tensor) -> Tensor:
    """The gradient of a weight, in the same order of memory."""
    grad = weight.grad
    return grad if grad.stride() == weight.stride() else torch.empty_like(weight).copy_(grad)


def _in_memory(array: Tensor) -> Tensor:
    """The same entries in the order that they have in memory."""
    array = array.detach()
    return (array if array.is_contiguous() else array.permute(*reversed(range(array.ndim)))).view(-1)

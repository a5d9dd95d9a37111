"""Adam on the CPU, all weights in one compiled pass; elsewhere torch's own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ..compiled import adam
from ..compiled.team import run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .plan import Plan


class Adam(torch.optim.Adam):
    """What torch's does with the same arguments, for weights in float32 on the CPU.

    Torch's fused step copies weights whose entries have another order in memory than their indices.
    """

    @torch.no_grad()
    def step(self) -> None:  # no closure has a user here
        """One step of every weight that has a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            arrays = [array for weight in weights for array in self._arrays(weight)]
            beta1, beta2 = group["betas"]
            steps = [self.state[weight]["step"] for weight in weights]
            rates = [(group["lr"] / (1 - beta1**n), math.sqrt(1 - beta2**n)) for n in steps]
            numbers = beta1, beta2, group["eps"], group["weight_decay"]
            run(adam.step, torch.tensor(numbers), torch.tensor(rates), *arrays)

    def _arrays(self, weight: Tensor) -> list[Tensor]:
        """A weight, its gradient and its moments, one-dimensional in the order of memory."""
        state, grad = self.state[weight], weight.grad
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
            state["step"] = 0
        state["step"] += 1
        if grad.stride() != weight.stride():
            grad = torch.empty_like(weight).copy_(grad)
        return [_in_memory(array) for array in (weight, grad, state["exp_avg"], state["exp_avg_sq"])]


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


def _in_memory(array: Tensor) -> Tensor:
    """The same entries in the order that they have in memory."""
    array = array.detach()
    return (array if array.is_contiguous() else array.permute(*reversed(range(array.ndim)))).view(-1)

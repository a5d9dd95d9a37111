"""Where to compute."""

from __future__ import annotations

import torch


def choose(device: str) -> str:
    """``"auto"`` is CUDA where there is one, else the CPU; anything else must exist."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        msg = f"device={device!r} cannot be used here ({str(error).splitlines()[0]}). Use 'auto' or 'cpu'."
        raise ValueError(msg) from error
    return device


def at_hand(device: str) -> str:
    """The device that a model was fitted on, or the CPU where this machine does not have it."""
    try:
        return choose(device)
    except ValueError:
        return "cpu"

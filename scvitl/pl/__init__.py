"""Plots of what `scvitl.get` returns, in scanpy's manner."""

from __future__ import annotations

from ._history import history

__all__ = ["history"]

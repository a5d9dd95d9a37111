"""Read what other packages saved."""

from __future__ import annotations

from ._read_scvi_tools import read_scvi_tools

__all__ = ["read_scvi_tools"]

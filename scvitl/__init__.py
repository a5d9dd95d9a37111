"""Probabilistic models of single-cell data as scanpy-style tools."""

from __future__ import annotations

from . import datasets, get, io, pl, tl

__version__ = "0.1.0"

__all__ = ["__version__", "datasets", "get", "io", "pl", "tl"]

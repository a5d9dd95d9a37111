"""scanpy's logger, the only one that we write to."""

from __future__ import annotations

from scanpy import logging as logg

__all__ = ["logg"]

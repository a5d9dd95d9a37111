"""From AnnData to tensors: what its columns mean, where its counts are, minibatches on the device.

`batches` needs torch, so it is imported where it is used.
"""

from __future__ import annotations

from .counts import find_counts, locate
from .schema import Category, Continuous, Schema, encode, learn

__all__ = ["Category", "Continuous", "Schema", "encode", "find_counts", "learn", "locate"]

"""From AnnData to tensors: what its columns mean, where its counts are, minibatches on the device.

`batches` needs torch, so it is imported where it is used.
"""

from __future__ import annotations

from .columns import Category, Continuous
from .counts import find_counts, locate
from .labels import Labels
from .schema import Schema, encode, learn

__all__ = ["Category", "Continuous", "Labels", "Schema", "encode", "find_counts", "learn", "locate"]

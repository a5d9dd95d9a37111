"""Small data sets that come with the package and need no network."""

from __future__ import annotations

from ._cite import cite
from ._droplets import droplets
from ._pbmc import pbmc
from ._toy import toy

__all__ = ["cite", "droplets", "pbmc", "toy"]

"""One training loop for all models: what to do when (`plan`), doing it (`fit`), showing it (`progress`)."""

from __future__ import annotations

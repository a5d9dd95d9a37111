"""Names of all results, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """Where the results of one model go; ``stem`` is the name of the function or ``key_added``."""

    stem: str

    @property
    def latent(self) -> str:
        """Latent space, in ``obsm``."""
        return f"X_{self.stem}"

    @property
    def model(self) -> str:
        """Fitted model, in ``uns``."""
        return self.stem


def keys(function: str, key_added: str | None = None) -> Keys:
    """Names of the results of ``function``, or of ``key_added`` where the user gave that."""
    return Keys(function if key_added is None else key_added)

"""Checks of what a user passes, with errors that say what exists and what to do next."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    import anndata as ad


def one_of(name: str, value: object, legal: Collection[str]) -> None:
    """``value`` is one of the names in ``legal``."""
    if value not in legal:
        msg = f"{name}={value!r} is not known. Use one of {', '.join(map(repr, legal))}."
        raise ValueError(msg)


def whole_number(name: str, value: object, *, at_least: int = 1, at_most: float = np.inf) -> None:
    """``value`` is an integer within the bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        msg = f"{name} must be a whole number, not {value!r}."
        raise TypeError(msg)
    if value < at_least:
        msg = f"{name}={value} is too small; it must be at least {at_least}."
        raise ValueError(msg)
    if value > at_most:
        msg = f"{name}={value} is too large; it must be at most {at_most}."
        raise ValueError(msg)


def seed(value: object) -> None:
    """``value`` is a seed that NumPy and torch both take."""
    whole_number("random_state", value, at_least=0, at_most=2**32 - 1)


def true_or_false(name: str, value: object) -> None:
    """``value`` is a boolean; words such as "False" would count as true."""
    if not isinstance(value, (bool, np.bool_)):
        msg = f"{name} must be True or False, not {value!r}."
        raise TypeError(msg)


def number(
    name: str,
    value: object,
    *,
    above: float = -np.inf,
    at_least: float = -np.inf,
    below: float = np.inf,
    at_most: float = np.inf,
) -> None:
    """``value`` is a finite number within the bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        msg = f"{name} must be a number, not {value!r}."
        raise TypeError(msg)
    if not (above < value < below and at_least <= value <= at_most):
        lower = f"above {above:g}" if np.isfinite(above) else f"at least {at_least:g}"
        upper = (
            f" and below {below:g}"
            if np.isfinite(below)
            else f" and at most {at_most:g}"
            if np.isfinite(at_most)
            else ""
        )
        msg = f"{name}={value} is out of range; it must be {lower}{upper}."
        raise ValueError(msg)


def word(name: str, value: object) -> None:
    """``value`` is a text with something in it, or a whole number that stands for one."""
    if not isinstance(value, (str, int, np.integer)) or value == "":
        msg = f"{name} takes a word, not {value!r}."
        raise TypeError(msg)


def reading(*, batch_size: object, random_state: object) -> None:
    """Options that all readers of a model share."""
    if batch_size is not None:
        whole_number("batch_size", batch_size)
    seed(random_state)


def did_you_mean(value: str, names: Iterable[str]) -> str:
    """A question such as "Did you mean 'batch'?" with a space before it, or nothing where no name is close."""
    names = {str(name).lower(): str(name) for name in names}
    close = get_close_matches(str(value).lower(), names, n=1)
    return f" Did you mean {names[close[0]]!r}?" if close else ""


def key_added(value: object) -> None:
    """``value`` can name results, in files too."""
    if not isinstance(value, str) or not value or "/" in value:
        msg = f"key_added={value!r} cannot name results: use a word, without a slash."
        raise ValueError(msg)


def obs_column(adata: ad.AnnData, argument: str, key: str) -> None:
    """``key`` is a column of ``obs``."""
    if not isinstance(key, str):
        msg = f"{argument} takes the name of a column of obs, not {key!r}."
        raise TypeError(msg)
    if key not in adata.obs:
        msg = (
            f"{argument}={key!r} is not in adata.obs.{did_you_mean(key, adata.obs.columns)} "
            f"Columns: {', '.join(map(repr, adata.obs.columns)) or 'none'}."
        )
        raise KeyError(msg)


def unique_names(adata: ad.AnnData, *axes: str) -> None:
    """Names along these axes ("obs", "var") are unique."""
    for axis in axes:
        names = getattr(adata, f"{axis}_names")
        if not names.is_unique:
            twice = names[names.duplicated()][0]
            msg = f"adata.{axis}_names are not unique ({twice!r} occurs more than once). Run adata.{axis}_names_make_unique() first."
            raise ValueError(msg)


def several_cells(adata: ad.AnnData) -> None:
    """There is something to learn from."""
    if adata.n_obs < 2 or adata.n_vars < 1:
        msg = f"adata has {adata.n_obs} cells × {adata.n_vars} genes; at least two cells and one gene are needed."
        raise ValueError(msg)


def fits_memory(n_bytes: float, what: str, remedy: str) -> None:
    """What is about to be made fits into the memory that is free."""
    import psutil

    free = psutil.virtual_memory().available
    if n_bytes > free:
        msg = f"{what} needs {n_bytes / 1e9:,.1f} GB of memory, but {free / 1e9:,.1f} GB are free: {remedy}."
        raise MemoryError(msg)

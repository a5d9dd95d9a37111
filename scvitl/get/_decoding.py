"""Options that everything shares which decodes expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _checks
from .._logging import logg
from ..data import selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from ..data import Schema

IMPORTANCE = {"max_cells", "truncation", "n_mc_samples"}


def gene_positions(schema: Schema, genes: Sequence[str] | str | None) -> np.ndarray | None:
    """Positions of the genes asked for, `None` for all."""
    return None if genes is None else selection.genes(schema.genes, genes)


def gene_names(schema: Schema, positions: np.ndarray | None) -> list[str]:
    """Names of the genes at ``positions``."""
    return list(schema.genes) if positions is None else [schema.genes[i] for i in positions]


def batch_codes(schema: Schema, transform_batch: object, *, warn: bool = True) -> list[int | None]:
    """Codes of the batches to decode from; ``[None]`` leaves every cell in its own, which is said."""
    if transform_batch is not None:
        return selection.batches(schema, transform_batch)
    if warn and schema.batch is not None and len(schema.batch.categories) > 1:
        logg.warning(
            "every cell is decoded as of its own batch, so the result is not batch-corrected; "
            "transform_batch='all' averages over all batches, the name of one takes that for every cell"
        )
    return [None]


def check_library_size(library_size: object) -> None:
    """A positive number or "latent"."""
    if isinstance(library_size, str):
        _checks.one_of("library_size", library_size, ("latent",))
    else:
        _checks.number("library_size", library_size, above=0)


def importance(weights: str, options: dict[str, Any] | None) -> dict[str, Any] | None:
    """Options of importance weighting, `None` for uniform weights."""
    _checks.one_of("weights", weights, ("uniform", "importance"))
    options = dict(options or {})
    for name, value in options.items():
        _checks.one_of("importance_options key", name, sorted(IMPORTANCE))
        if name == "truncation":
            _checks.true_or_false(name, value)
        else:
            _checks.whole_number(name, value)
    if options and weights == "uniform":
        msg = "importance_options are for weights='importance': ask for these, or leave the options out."
        raise ValueError(msg)
    return options if weights == "importance" else None

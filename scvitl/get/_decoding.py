"""Options that everything shares which decodes expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _checks, store
from .._logging import logg
from ..data import selection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData

    from ..data import Schema
    from ..posterior.proteins import Quantity
    from ..store import FittedModel

IMPORTANCE = {"max_cells", "truncation", "n_mc_samples"}
MODALITIES = ("rna", "protein")
N_SAMPLES = 25  # draws of the proteins of a cell that are averaged, unless told otherwise


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


def check_proteins(fitted: FittedModel, key: str, *, given: bool) -> None:
    """The model, that in ``uns[key]`` unless it was ``given``, has proteins."""
    if fitted.schema.proteins is None:
        which = "the model given" if given else f"the model in uns[{key!r}]"
        msg = f"{which} is {fitted.params['model']}, which has no proteins: fit one with scvitl.tl.totalvi, or name it with key."
        raise ValueError(msg)


def check_ambient(fitted: FittedModel, key: str, *, given: bool) -> None:
    """The model, that in ``uns[key]`` unless it was ``given``, tells ambient counts."""
    if fitted.params["model"] != "scAR":
        which = "the model given" if given else f"the model in uns[{key!r}]"
        msg = f"{which} is {fitted.params['model']}, which does not tell ambient counts: fit one with scvitl.tl.scar, or name it with key."
        raise ValueError(msg)


def protein_positions(
    schema: Schema, proteins: Sequence[str] | str | None, argument: str = "proteins"
) -> np.ndarray | None:
    """Positions of the proteins asked for, `None` for all."""
    return (
        None if proteins is None else selection.genes(schema.proteins.names, proteins, argument, "proteins")
    )


def protein_batches(schema: Schema, transform_batch: object) -> tuple[list[int | None], np.ndarray | None]:
    """Codes of the batches to decode proteins from, and the share of each in every protein, (batches, P), if uneven."""
    if not (isinstance(transform_batch, str) and transform_batch == "measured"):
        return batch_codes(schema, transform_batch, warn=False), None
    there = schema.proteins.decoded_from.astype(float)  # (K, P)
    codes = np.flatnonzero(there.any(1))
    return codes.tolist(), (there / there.sum(0))[codes]


def decoded_proteins(  # noqa: PLR0913
    adata: AnnData,
    quantity: Callable[[], Quantity],
    *,
    key: str,
    model: FittedModel | None,
    indices: object,
    transform_batch: object,
    proteins: Sequence[str] | str | None,
    n_samples: int | None,
    give_mean: bool,
    return_mean: bool,
    batch_size: int | None,
    random_state: int,
    n_samples_overall: int | None = None,
    scale: bool = False,
) -> pd.DataFrame | np.ndarray:
    """What `scvitl.get` returns of a ``quantity`` of the proteins."""
    n_samples = samples(n_samples, give_mean, return_mean, n_samples_overall)
    _checks.reading(batch_size=batch_size, random_state=random_state)
    fitted, cells = store.open_cells(adata, key=key, model=model, indices=indices)
    check_proteins(fitted, key, given=model is not None)
    known, positions = fitted.schema.proteins.names, protein_positions(fitted.schema, proteins)
    positions = np.arange(len(known)) if positions is None else positions
    batches, shares = protein_batches(fitted.schema, transform_batch)
    rows = n_samples_overall or cells.n_cells * (1 if return_mean else n_samples)
    _checks.fits_memory(4 * rows * len(known), "the result", "name fewer cells with indices")

    from .. import posterior

    shared = {"batches": batches, "shares": shares, "scale": scale, "random_state": random_state}
    if n_samples_overall is not None:
        values = posterior.protein_values(fitted.module, cells, quantity(), n_samples_overall, **shared)
        return values[:, positions]
    (values,) = posterior.protein_quantities(
        fitted.module,
        cells,
        [quantity()],
        n_samples=n_samples,
        give_mean=give_mean,
        return_mean=return_mean,
        batch_size=batch_size,
        **shared,
    )
    values = values[..., positions]
    if values.ndim == 3:
        return values
    return pd.DataFrame(values, index=cells.names, columns=[known[i] for i in positions])


def samples(n_samples: int | None, give_mean: object, return_mean: object, n_samples_overall: object) -> int:
    """Draws per cell, where options that exclude each other are not given together."""
    _checks.true_or_false("give_mean", give_mean)
    _checks.true_or_false("return_mean", return_mean)
    if n_samples is not None:
        _checks.whole_number("n_samples", n_samples)
        if give_mean and n_samples > 1:
            msg = "give_mean=True decodes one state per cell, the posterior mean: leave out n_samples."
            raise ValueError(msg)
    if n_samples_overall is not None:
        _checks.whole_number("n_samples_overall", n_samples_overall)
        if give_mean or (n_samples or 1) > 1:
            msg = "n_samples_overall counts draws from all cells together: leave out n_samples and give_mean."
            raise ValueError(msg)
    return 1 if give_mean else n_samples or N_SAMPLES


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


def check_weights(fitted: FittedModel) -> None:
    """Draws of the model can be weighed by importance: it explains nothing but genes."""
    if fitted.schema.proteins is not None:
        msg = (
            f"importance weights say how well draws explain the genes of cells, but {fitted.params['model']} explains "
            "proteins, too: draw evenly, with weights='uniform'."
        )
        raise ValueError(msg)

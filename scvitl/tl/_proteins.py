"""The tables of proteins that a fitted totalVI model leaves with the cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ..get._decoding import N_SAMPLES, protein_batches

if TYPE_CHECKING:
    from .. import store
    from .._keys import Keys
    from ..data.batches import CellData


def tables(
    model: store.FittedModel,
    data: CellData,
    names: Keys,
    *,
    transform_batch: object = "measured",
    n_samples: int = N_SAMPLES,
    random_state: int = 0,
    **options,
) -> dict[str, pd.DataFrame]:
    """Denoised proteins and the probability that they are there, as they go into ``obsm``."""
    from .. import posterior

    check_key(model.schema.proteins.key, names)
    batches, shares = protein_batches(model.schema, transform_batch)
    values = posterior.protein_quantities(
        model.module,
        data,
        [posterior.Expression(), posterior.foreground],
        batches=batches,
        shares=shares,
        n_samples=n_samples,
        random_state=random_state,
        **options,
    )
    columns = safe_columns(model.schema.proteins.names)
    frames = [pd.DataFrame(table, data.names, columns) for table in values]
    return dict(zip((names.protein, names.protein_foreground), frames, strict=True))


def check_key(key: str, names: Keys) -> None:
    """No result takes the place of the counts in ``obsm[key]``."""
    if key in {names.latent, names.protein, names.protein_foreground}:
        msg = (
            f"the counts of proteins are in obsm[{key!r}], where a result would take their place: choose another "
            "key_added, or keep the counts under another name."
        )
        raise ValueError(msg)


def safe_columns(names: tuple[str, ...]) -> list[str]:
    """Names that a file can hold as columns: without a slash, and still distinct."""
    columns: list[str] = []
    for name in names:
        column = name.replace("/", "_")
        while column in {*names, *columns} - {name}:
            column += "_"
        columns.append(column)
    return columns

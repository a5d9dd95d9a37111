from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _checks
from .._keys import keys
from .._logging import logg
from ..data import columns, empty, multimodal
from ._ambient import find
from ._fit import check_copy, write
from ._options import check_place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from anndata import AnnData


def ambient_profile(  # noqa: PLR0913
    adata: AnnData,
    raw: AnnData | str | PathLike[str] | Mapping[str, AnnData | str | PathLike[str]],
    *,
    prob: float | None = None,
    min_raw_counts: int = 2,
    iterations: int = 3,
    sample: int | None = None,
    cells_may_be_empty: bool = False,
    feature_type: str | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    random_state: int = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Find the ambient profile: what RNA floats between the cells, from the droplets that hold no cell :cite:p:`Lun19`.

    Most droplets of a run are empty, and what counts they have come from ambient RNA, which is in every droplet with a cell,
    too. Counts of an empty droplet are likely as draws from the ambient profile; droplets are judged by that, and the profile
    is what the empty ones hold together. :func:`scvitl.tl.scar` does this by itself when it is given ``raw``; call it alone to
    choose how strict it is, or to look at it with :func:`scvitl.pl.ambient`.

    Parameters
    ----------
    adata
        Cells × genes. Its counts are not used, only the names of cells and genes.
    raw
        All droplets before cells were called, matched to ``adata`` by the names of the genes: an AnnData, which may be
        backed and is left as it is; the path of a 10x ``.h5``, of an ``.h5ad``, or of a folder with ``matrix.mtx``; or these
        by batch, ``{"batch": …}``. Cells are found in it by name, or else by barcode. Those that are not found are taken for
        the droplets with the most counts.
    prob
        How likely the counts of a droplet have to be for it to be empty: on average per gene, the probability is at least
        ``prob``. `None` takes the 95 % most likely of the droplets that hold fewer counts than all but 5 % of the cells.
        scvi-tools takes 0.995, which with fewer genes leaves few droplets.
    min_raw_counts
        Droplets with fewer counts are not looked at.
    iterations
        Times that empty droplets are told by the profile and the profile taken from the empty droplets.
    sample
        Droplets to judge, drawn at random if there are more; per batch, at least 50. `None` takes all, scvi-tools 50,000.
    cells_may_be_empty
        Whether cells of ``adata`` can count as empty droplets, as in scvi-tools.
    feature_type
        Which features of ``adata`` to take where ``var["feature_types"]`` has several, as in :func:`scvitl.tl.scar`. `None`
        takes all, and gives each type a profile of its own, which sums to one.
    batch_key
        Column of ``adata.obs`` with the batches, each of which gets a profile. ``raw.obs`` needs it as well, unless ``raw``
        comes by batch.
    layer
        Layer of ``raw`` with the counts. `None` takes ``X`` if it holds counts, else ``layers["counts"]``.
    random_state
        Seed of the ``sample``.
    key_added
        Stem of the names of the results, in place of ``"scar"``.
    copy
        Whether to return a copy rather than write into ``adata``.

    Returns
    -------
    `None`, or a copy of ``adata`` if ``copy=True``. These fields are set:

    `adata.varm['scar_ambient' | key_added + '_ambient']` : :class:`pandas.DataFrame` (dtype `float64`)
        Share of every gene in the empty droplets, in a column ``"ambient"`` or one for each batch.
    `adata.uns['scar_ambient' | key_added + '_ambient']` : :class:`dict`
        ``droplets``, a frame with the ``total`` and the ``class`` of every droplet (``"cell"``, ``"empty"``, ``"other"``)
        and its ``batch``; ``counts``, genes × batches, of the empty droplets together; ``prob`` by batch, as used; and
        ``batch_key``, if there is one.

    Raises
    ------
    KeyError
        A batch has no droplets in ``raw``, or a column or layer does not exist.
    FileNotFoundError
        There is nothing at the path ``raw``.
    TypeError
        ``raw`` is neither an AnnData nor a path.
    ValueError
        ``raw`` has other genes, is the filtered object, or fewer droplets than there are cells; its values are not counts;
        names of genes repeat; or there are fewer than 50 empty droplets, when the largest ``prob`` that works is named.

    Examples
    --------
    >>> import scvitl
    >>> raw = scvitl.datasets.toy(n_empty_droplets=2000)
    >>> adata = raw[raw.obs["is_cell"]].copy()
    >>> scvitl.tl.ambient_profile(adata, raw)
    >>> round(float(adata.varm["scar_ambient"]["ambient"].sum()), 6)
    1.0
    """
    check_copy(adata, copy)
    multimodal.refuse(adata, "an ambient profile")
    names = keys("scar", key_added)
    check_place(adata, names)
    if prob is not None:
        _checks.number("prob", prob, above=0, below=1)
    _checks.whole_number("min_raw_counts", min_raw_counts)
    _checks.whole_number("iterations", iterations)
    if sample is not None:
        _checks.whole_number("sample", sample, at_least=empty.FEW)
    _checks.true_or_false("cells_may_be_empty", cells_may_be_empty)
    _checks.seed(random_state)
    start = logg.info("looking for empty droplets")
    found = find(
        adata,
        raw,
        feature_type=feature_type,
        batch=None if batch_key is None else columns.category(adata, "batch_key", batch_key),
        layer=layer,
        prob=prob,
        min_raw_counts=min_raw_counts,
        iterations=iterations,
        sample=sample,
        cells_may_be_empty=cells_may_be_empty,
        random_state=random_state,
    )
    adata = adata.copy() if copy else adata
    write(adata, {"varm": {names.ambient: found.frame()}, "uns": {names.ambient: found.record()}})
    logg.info(
        "    finished",
        time=start,
        deep=(
            f"added\n    {names.ambient!r}, ambient profile (adata.varm)\n"
            f"    {names.ambient!r}, droplets it comes from (adata.uns)"
        ),
    )
    return adata if copy else None

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

MEDIAN_LIBRARY = 1500
NOISE_WITHIN_TYPE = 0.3
DRIVEN_SHARE = 0.6
STRENGTHS = (1.6, 0.8)
EMPTY = "Empty"


def simulate_cells(
    n_cells: int, *, n_types: int, n_factors: int, n_batches: int, rng: np.random.Generator
) -> AnnData:
    """Cells without genes: type, batch, library size and factors."""
    types = _shuffled_codes(n_cells, n_types, rng=rng)
    batches = _shuffled_codes(n_cells, n_batches, rng=rng)
    batch_offset = np.linspace(-0.15, 0.15, n_batches)
    log_library = rng.normal(np.log(MEDIAN_LIBRARY) + (batch_offset - batch_offset.mean())[batches], 0.3)
    obs = pd.DataFrame(
        {
            "batch": _categorical(batches, "batch", n_batches),
            "cell_type": _categorical(types, "type", n_types),
            "library": np.exp(log_library),
        },
        index=_names("cell", n_cells, digits=4),
    )
    factors = _factors(types, _centroids(n_types, n_factors, rng=rng), n_factors, rng=rng)
    return AnnData(obs=obs, obsm={"factors": factors.astype(np.float32)})


def simulate_genes(cells: AnnData, n_genes: int, *, rng: np.random.Generator) -> AnnData:
    """The same cells with genes: truth in ``var`` and ``varm``, counts in ``X``."""
    n_batches = len(cells.obs["batch"].cat.categories)
    loadings = _loadings(n_genes, cells.obsm["factors"].shape[1], rng=rng)
    intercept = rng.normal(0.0, 0.8, n_genes)
    dispersion = rng.lognormal(np.log(5.0), 0.4, n_genes)
    shift = rng.normal(0.0, 0.3, (n_genes, n_batches))
    shift -= shift.mean(axis=1, keepdims=True)

    logits = intercept + cells.obsm["factors"] @ loadings.T + shift.T[cells.obs["batch"].cat.codes]
    rates = np.exp(logits - logits.max(axis=1, keepdims=True))
    rates /= rates.sum(axis=1, keepdims=True)
    counts = _negative_binomial(cells.obs["library"].to_numpy()[:, None] * rates, dispersion, rng=rng)
    _fill_empty(counts, rates)

    var = pd.DataFrame(
        {"intercept": intercept, "dispersion": dispersion}, index=_names("gene", n_genes, digits=3)
    )
    varm = {"loadings": loadings.astype(np.float32), "batch_shift": shift.astype(np.float32)}
    return AnnData(_csr(counts), obs=cells.obs, var=var, obsm=dict(cells.obsm), varm=varm)


def with_droplets(cells: AnnData, n_droplets: int, *, rng: np.random.Generator) -> AnnData:
    """The cells with ambient counts added, followed by droplets that hold nothing else."""
    native = cells.X.toarray().astype(np.int64)
    profile = native.sum(axis=0) * rng.gamma(4.0, 0.25, cells.n_vars)
    profile /= profile.sum()

    fraction = rng.uniform(0.05, 0.10, cells.n_obs)
    n_ambient = rng.poisson(native.sum(axis=1) * fraction / (1 - fraction))
    n_droplet = np.exp(rng.uniform(np.log(10), np.log(200), n_droplets)).round().astype(np.int64)
    ambient = rng.multinomial(np.concatenate([n_ambient, n_droplet]), profile)
    native = np.vstack([native, np.zeros((n_droplets, cells.n_vars), dtype=np.int64)])

    obs = pd.concat([_cell_obs(cells), _droplet_obs(cells, n_droplets, rng=rng)])
    obs["is_cell"] = np.arange(len(obs)) < cells.n_obs
    obs["ambient_fraction"] = ambient.sum(axis=1) / (native + ambient).sum(axis=1)
    nowhere = np.full((n_droplets, cells.obsm["factors"].shape[1]), np.nan, dtype=np.float32)
    return AnnData(
        _csr(native + ambient),
        obs=obs,
        var=cells.var.assign(ambient_profile=profile),
        obsm={"factors": np.vstack([cells.obsm["factors"], nowhere])},
        varm=dict(cells.varm),
        layers={"native": _csr(native)},
    )


def with_proteins(adata: AnnData, n_proteins: int, *, rng: np.random.Generator) -> AnnData:
    """The same object with protein counts and the truth about their foreground."""
    types, batches = adata.obs["cell_type"], adata.obs["batch"].cat
    names = _names("protein", n_proteins, digits=2)
    expressed = _expressed_by_type([name for name in types.cat.categories if name != EMPTY], names, rng=rng)
    foreground = expressed.reindex(types.astype(str), fill_value=False).set_axis(adata.obs_names)

    background = rng.lognormal(np.log(10.0), 0.5, n_proteins)
    background = background * rng.lognormal(0.0, 0.2, (len(batches.categories), n_proteins))
    fold = rng.uniform(5.0, 20.0, n_proteins)
    cell_size = rng.lognormal(0.0, 0.3, (adata.n_obs, 1))
    mean = cell_size * background[batches.codes] * np.where(foreground, fold, 1.0)
    counts = _negative_binomial(mean, rng.lognormal(np.log(5.0), 0.3, n_proteins), rng=rng)

    adata.obsm["protein_expression"] = pd.DataFrame(counts, index=adata.obs_names, columns=names)
    adata.obsm["protein_foreground"] = foreground
    return adata


def _shuffled_codes(n: int, n_groups: int, *, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(np.arange(n) % n_groups)


def _categorical(codes: np.ndarray, stem: str, n_groups: int) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, [f"{stem}_{group}" for group in range(n_groups)])


def _names(stem: str, n: int, *, digits: int) -> pd.Index:
    # As many digits as the last name needs, so that names sort in their order.
    digits = max(digits, len(str(n - 1)))
    return pd.Index([f"{stem}_{number:0{digits}}" for number in range(n)])


def _csr(counts: np.ndarray) -> sparse.csr_matrix:
    return sparse.csr_matrix(counts, dtype=np.float32)


def _negative_binomial(mean: np.ndarray, dispersion: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    return rng.negative_binomial(dispersion, dispersion / (dispersion + mean))


def _centroids(n_types: int, n_factors: int, *, rng: np.random.Generator) -> np.ndarray:
    """Centred, orthogonal columns of unit variance, as many as the types allow."""
    n_columns = min(n_factors, n_types - 1)

    def draw() -> np.ndarray:
        points = rng.standard_normal((n_types, n_columns))
        return np.linalg.qr(points - points.mean(axis=0)).Q * np.sqrt(n_types)

    def closest(points: np.ndarray) -> float:
        return min((np.linalg.norm(a - b) for a, b in combinations(points, 2)), default=0.0)

    # With few factors, a single draw may put two types on top of each other.
    return max((draw() for _ in range(20)), key=closest)


def _factors(
    types: np.ndarray, centroids: np.ndarray, n_factors: int, *, rng: np.random.Generator
) -> np.ndarray:
    """Cells around the centroids, turned as little as it takes to make the columns uncorrelated."""
    between = NOISE_WITHIN_TYPE * rng.standard_normal((len(types), centroids.shape[1])) + centroids[types]
    within = rng.standard_normal((len(types), n_factors - centroids.shape[1]))
    factors = np.hstack([between, within])
    factors -= factors.mean(axis=0)
    variances, axes = np.linalg.eigh(factors.T @ factors / len(factors))
    return factors @ (axes / np.sqrt(variances)) @ axes.T


def _loadings(n_genes: int, n_factors: int, *, rng: np.random.Generator) -> np.ndarray:
    """One block of genes per factor; the strength falls from the first factor to the last."""
    half = int(DRIVEN_SHARE * n_genes / n_factors) // 2
    loadings = np.zeros((n_genes, n_factors))
    for factor, strength in enumerate(np.linspace(*STRENGTHS, n_factors)):
        signs = np.repeat([1.0, -1.0], half)
        start = 2 * half * factor
        loadings[start : start + 2 * half, factor] = strength * signs * rng.uniform(0.7, 1.3, 2 * half)
    return loadings


def _fill_empty(counts: np.ndarray, rates: np.ndarray) -> None:
    """Give every cell without counts one count of its most likely gene, in place."""
    empty = np.flatnonzero(counts.sum(axis=1) == 0)
    counts[empty, rates[empty].argmax(axis=1)] = 1


def _cell_obs(cells: AnnData) -> pd.DataFrame:
    return cells.obs.assign(cell_type=cells.obs["cell_type"].cat.add_categories(EMPTY))


def _droplet_obs(cells: AnnData, n_droplets: int, *, rng: np.random.Generator) -> pd.DataFrame:
    """Rows for droplets, with the columns and categories of the cells."""
    batch_names, type_names = (cells.obs[key].cat.categories for key in ("batch", "cell_type"))
    codes = _shuffled_codes(n_droplets, len(batch_names), rng=rng)
    return pd.DataFrame(
        {
            "batch": pd.Categorical.from_codes(codes, batch_names),
            "cell_type": pd.Categorical([EMPTY] * n_droplets, [*type_names, EMPTY]),
            "library": 0.0,
        },
        index=_names("droplet", n_droplets, digits=4),
    )


def _expressed_by_type(
    type_names: list[str], protein_names: pd.Index, *, rng: np.random.Generator
) -> pd.DataFrame:
    """Which type expresses which protein: at least one, and not all if there are several."""
    n_types, proteins = len(type_names), np.arange(len(protein_names))
    expressed = rng.random((n_types, len(proteins))) < 0.25
    expressed[proteins % n_types, proteins] = True
    if n_types > 1:
        expressed[(proteins + 1) % n_types, proteins] = False
    return pd.DataFrame(expressed, index=type_names, columns=protein_names)

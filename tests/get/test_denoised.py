"""Counts without what is ambient, against their closed forms and against cells of which the truth is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy import optimize, stats

import scvitl
from scvitl import get, store
from scvitl.posterior import engine

PRIOR = 10  # counts that the decoded share of ambient counts weighs
SMALL = {"n_hidden": 16, "n_latent": 4, "max_epochs": 3, "progress": False}
NEGLIGIBLE = 1e-4  # probability of being ambient with which no count is taken away


@pytest.fixture(scope="module")
def _cleaned(soup):
    adata, raw = soup()
    scvitl.tl.scar(adata, raw, max_epochs=20, progress=False)
    return adata


@pytest.fixture
def cleaned(_cleaned):
    return _cleaned.copy()


@pytest.fixture(scope="module")
def _by_batch(soup):
    """A softmax model of cells whose batches have profiles of their own."""
    adata, _ = soup(random_state=1)
    shares = np.random.default_rng(0).dirichlet(np.ones(60), size=2)
    table = pd.DataFrame(shares.T, adata.var_names, ["batch_0", "batch_1"])
    options = {"gene_likelihood": "nb", "scale_activation": "softmax", **SMALL}
    scvitl.tl.scar(adata, ambient=table, batch_key="batch", **options)
    return adata


@pytest.fixture
def by_batch(_by_batch):
    return _by_batch.copy()


@pytest.fixture(params=["one profile", "by batch"])
def either(request, _cleaned, _by_batch):
    return (_cleaned if request.param == "one profile" else _by_batch).copy()


def profile(adata):
    """Ambient shares in the batch of every cell, (n, G), by what is in ``varm``."""
    table = adata.varm["scar_ambient"]
    if list(table) == ["ambient"]:
        return np.tile(table["ambient"], (adata.n_obs, 1))
    return table[adata.obs["batch"].astype(str)].to_numpy().T


def decoded(adata, states=None, *, explained=True):
    """Native shares (..., n, G) and decoded shares of ambient counts (..., n) at the posterior mean, or at ``states``.

    With ``explained``, native shares are such that no count is beyond what they and the ambient profile account for.
    """
    model = get.model(adata, key="scar")
    cells = store.load(adata, model, key="scar").gather(torch.arange(adata.n_obs))
    module = model.module
    with torch.no_grad():
        states = module.encode(cells).mean if states is None else states
        h = module.decode(states, cells)
        native, noise = (
            module.decoder.scale(h).double().numpy(),
            module.decoder.noise(h)[..., 0].double().numpy(),
        )
    if not explained:
        return native, noise
    x = adata.X.toarray()
    total, ambient = x.sum(1, keepdims=True), profile(adata)
    shares = np.array(
        [
            [searched(*cell) for cell in zip(x, sample, ambient, prior, strict=True)]
            for sample, prior in zip(np.atleast_3d(native.T).T, np.atleast_2d(noise), strict=True)
        ]
    ).reshape(noise.shape)
    rate = total * shares[..., None] * ambient
    beyond = (x > 1) & (x > rate + total * native)
    return np.where(beyond, np.maximum(native, (x - stats.poisson.ppf(0.9999, rate)) / total), native), noise


def probability(adata, native, share):
    """Of a count to be native, (n, G)."""
    inside = (1 - share)[:, None] * native
    return inside / (inside + share[:, None] * profile(adata))


def most_likely(x, native, ambient, prior):
    """The share of ambient counts of one cell, by looking everywhere."""
    grid = np.linspace(1e-4, 1 - 1e-4, 9999)
    seen = x > 0
    mixed = (1 - grid[:, None]) * native[seen] + grid[:, None] * ambient[seen]
    value = np.log(mixed) @ x[seen] + PRIOR * (prior * np.log(grid) + (1 - prior) * np.log(1 - grid))
    return grid[value.argmax()]


def searched(x, native, ambient, prior):
    """The same, faster."""
    seen = x > 0

    def cost(share):
        mixed = (1 - share) * native[seen] + share * ambient[seen]
        return -np.log(mixed) @ x[seen] - PRIOR * (prior * np.log(share) + (1 - prior) * np.log(1 - share))

    return optimize.minimize_scalar(
        cost, bounds=(1e-6, 1 - 1e-6), method="bounded", options={"xatol": 1e-7}
    ).x


def taken(x, w, excess):
    """How many of the counts ``x`` (G,) of a cell go, by SciPy, counting them out one by one.

    The k-th count of a gene is ambient with the probability that at least k are.
    """
    ambient = (x * (1 - w)).sum()
    gene = np.repeat(np.arange(len(x)), x)
    k = np.arange(len(gene)) - np.repeat(np.cumsum(x) - x, x) + 1
    sure = stats.binom.sf(k - 1, x[gene], 1 - w[gene])
    order = np.argsort(-sure, kind="stable")
    order = order[sure[order] > NEGLIGIBLE][: round(ambient + excess * (x.sum() - ambient))]
    return np.bincount(gene[order], minlength=len(x))


def assert_counts(matrix, seen=None):
    """A sparse matrix of whole numbers as scanpy likes it, nowhere above what was ``seen``."""
    assert isinstance(matrix, sp.csr_matrix)
    assert matrix.dtype == np.float32
    assert matrix.has_canonical_format
    assert (matrix.data > 0).all()
    assert (matrix.data == np.rint(matrix.data)).all()
    if seen is not None:
        assert (matrix > seen).nnz == 0


def test_is_what_the_fit_has_written(either):
    counts = get.denoised(either)
    assert_counts(counts, either.X)
    assert (counts != either.layers["scar"]).nnz == 0
    # what is kept and what is taken away are the counts, to the last one
    removed = either.X - counts
    assert removed.min() >= 0
    assert (counts + removed != either.X).nnz == 0
    assert 0 < counts.sum() < either.X.sum()


def test_the_share_of_ambient_counts_is_the_most_likely(either):
    native, prior = decoded(either)
    x, ambient = either.X.toarray().astype(float), profile(either)
    found = [most_likely(*row) for row in zip(x[:40], native[:40], ambient[:40], prior[:40], strict=True)]
    np.testing.assert_allclose(either.obs["scar_noise"][:40], found, atol=2e-4)
    assert either.obs["scar_noise"].dtype == np.float32
    assert np.abs(either.obs["scar_noise"] - prior).max() > 0.01, "its own counts say more than the decoder"


@pytest.mark.parametrize("excess", [0.0, 0.005, 0.1])
def test_as_many_go_as_are_expected_the_surest_first(either, excess):
    found = get.denoised(either, excess=excess).toarray()
    native, _ = decoded(either)
    w = probability(either, native, either.obs["scar_noise"].to_numpy().astype(float))
    x = either.X.toarray().astype(int)
    expected = np.array([taken(*cell, excess) for cell in zip(x, w, strict=True)])
    # shares are float32 on the way, which can turn the order of two counts, and the last one of a cell
    assert np.abs(expected.sum(1) - (x - found).sum(1)).max() <= 1
    assert (expected.sum(1) == (x - found).sum(1)).mean() > 0.95
    assert np.abs(x - found - expected).sum() <= 0.01 * expected.sum()
    assert np.abs(x - found - expected).max() <= 1


def test_excess_takes_more_away(either):
    kept = [get.denoised(either, excess=excess).toarray() for excess in (0, 0.01, 0.1, 0.5)]
    for less, more in pairwise(kept):
        assert (more <= less).all()
        assert more.sum() < less.sum()


def test_counts_drawn_are_right_on_average(either):
    n_draws = 100
    draws = np.stack(
        [get.denoised(either, excess=None, random_state=seed).toarray() for seed in range(n_draws)]
    )
    native, _ = decoded(either)
    w = probability(either, native, either.obs["scar_noise"].to_numpy().astype(float))
    x = either.X.toarray()
    error = np.sqrt(x * w * (1 - w) / n_draws)
    # 12,000 means; binomials of few counts are skewed
    assert (np.abs(draws.mean(0) - x * w) <= 6 * error + 0.1).all()
    wide = error > 0.03
    assert ((draws.mean(0) - x * w) / np.where(wide, error, 1))[wide].std() == pytest.approx(1, abs=0.1)
    assert draws.sum((1, 2)).mean() == pytest.approx((x * w).sum(), rel=1e-3)
    assert (draws <= x).all()


def test_generative_counts_are_means_rounded_at_random(either):
    native, noise = decoded(either, explained=False)
    total = np.asarray(either.X.sum(1), np.float64)
    mean = total * (1 - noise[:, None]) * native
    draws = [get.denoised(either, output="generative", random_state=seed) for seed in range(100)]
    assert_counts(draws[0])
    draws = np.stack([matrix.toarray() for matrix in draws])
    assert (np.abs(draws - mean) < 1 + 1e-3).all()
    # 100 coins of one side or the other
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.3)
    assert draws.mean(0).sum() == pytest.approx(mean.sum(), rel=1e-3)
    assert ((draws[0] > 0) & (either.X.toarray() == 0)).any(), "as in scvi-tools, also where nothing was seen"


@pytest.mark.parametrize("n_samples", [1, 3, 4])
def test_the_lower_median_of_posterior_draws(either, n_samples):
    """In each of which the share of ambient counts is settled anew."""
    model = get.model(either, key="scar")
    data = store.load(either, model, key="scar")
    with torch.no_grad():
        posterior = model.module.encode(data.gather(torch.arange(either.n_obs)))
    states = posterior.draw(n_samples, engine.noise(data, 5))[0]
    x, ambient = either.X.toarray().astype(int), profile(either)
    samples = []
    for native, prior in zip(*decoded(either, states), strict=True):
        rows = zip(x[:20], native, ambient, prior, strict=False)
        share = np.array([most_likely(*row) for row in rows])
        w = probability(either[:20], native[:20], share)
        samples.append([cell - taken(cell, own, 0.01) for cell, own in zip(x[:20], w, strict=True)])
    expected = np.sort(samples, axis=0)[(n_samples - 1) // 2]
    found = get.denoised(either, n_samples=n_samples, random_state=5)
    assert_counts(found, either.X)
    difference = np.abs(found[:20].toarray() - expected)
    # the grid is coarse, and many counts stand between two whole numbers
    assert (difference <= 1).all()
    assert (difference > 0).mean() < 0.02
    assert (found != get.denoised(either)).nnz > 0


@pytest.mark.parametrize(("likelihood", "most", "together"), [("b", 0.8, 0.4), ("nb", 0.35, 0.9)])
def test_nearer_to_the_truth_than_what_was_seen(soup, likelihood, most, together):
    adata, raw = soup(300)
    scvitl.tl.scar(adata, raw, gene_likelihood=likelihood, progress=False)
    seen = np.abs(adata.X - adata.layers["native"]).sum()
    for excess in (0.0, 0.005):
        found = get.denoised(adata, excess=excess)
        assert np.abs(found - adata.layers["native"]).sum() < most * seen
    assert np.corrcoef(adata.obs["scar_noise"], adata.obs["ambient_fraction"])[0, 1] > together
    # What a type does not express goes, what is its own stays.
    kept = get.denoised(adata).sum(0).A1 / adata.X.sum(0).A1
    assert (kept > 0.6).all()
    own = (np.arange(60) % 4)[None] == (np.arange(300) % 4)[:, None]
    shares = [
        adata.layers["scar"].toarray()[mask].sum() / adata.X.toarray()[mask].sum() for mask in (own, ~own)
    ]
    assert shares[0] > 0.9 > shares[1]


def test_genes_in_the_order_asked_for(cleaned):
    genes = ["gene_031", "gene_000", "gene_007"]
    found = get.denoised(cleaned, genes=genes)
    assert_counts(found)
    assert np.array_equal(found.toarray(), cleaned[:, genes].layers["scar"].toarray())
    assert get.denoised(cleaned, genes="gene_005").shape == (200, 1)
    with pytest.raises(KeyError, match="genes has 'gene_99'"):
        get.denoised(cleaned, genes=["gene_99"])


def test_some_cells(cleaned):
    some = [150, 3, 77]
    assert np.array_equal(
        get.denoised(cleaned, indices=some).toarray(), cleaned.layers["scar"][some].toarray()
    )
    typed = get.denoised(cleaned, indices="cell_type == 'type_1'")
    assert typed.shape == (50, 60)


def test_other_cells_by_a_model_given(cleaned, soup):
    model = get.model(cleaned, key="scar")
    other, _ = soup(n_cells=80, random_state=0)
    expected = get.denoised(other, model=model)
    assert_counts(expected, other.X)
    turned = other[:, ::-1].copy()
    assert np.array_equal(get.denoised(turned, model=model).toarray(), expected.toarray())
    assert "scar" not in turned.uns
    with pytest.raises(ValueError, match="5 of the 60 genes of the model are not in"):
        get.denoised(other[:, 5:].copy(), model=model)


def test_a_batch_that_has_no_profile(by_batch):
    adata = by_batch
    adata.obs["batch"] = adata.obs["batch"].cat.rename_categories({"batch_1": "batch_2"})
    with pytest.raises(ValueError, match=r"has 'batch_2', which the model was not fitted to"):
        get.denoised(adata)


@pytest.mark.parametrize(
    "options", [{}, {"excess": None}, {"output": "generative"}, {"n_samples": 1}], ids=str
)
def test_equal_seeds_give_equal_counts(cleaned, options):
    first, again = (get.denoised(cleaned, random_state=3, **options) for _ in range(2))
    assert (first != again).nnz == 0
    if options:
        assert (first != get.denoised(cleaned, random_state=4, **options)).nnz > 0


@pytest.mark.parametrize("options", [{}, {"excess": None}, {"output": "generative"}], ids=str)
def test_the_size_of_blocks_does_not_show(either, options):
    whole = get.denoised(either, **options)
    for batch_size in (1, 7, 1000):
        parts = get.denoised(either, batch_size=batch_size, **options)
        # float32 sums in another order can tip a count
        assert np.abs(parts - whole).sum() <= 1e-4 * whole.sum()


def test_what_the_profile_does_not_have_is_native(cleaned):
    model = get.model(cleaned, key="scar")
    model.module.ambient[:, 10] = 0
    kept = get.denoised(cleaned, model=model)[:, 10]
    assert (kept != cleaned.X[:, 10]).nnz == 0


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"output": "native"},
            ValueError,
            "output='native' is not known. Use one of 'posterior', 'generative'",
        ),
        ({"excess": 1.0}, ValueError, "excess=1.0 is out of range; it must be at least 0 and below 1"),
        ({"excess": -0.1}, ValueError, "excess=-0.1 is out of range"),
        ({"excess": "much"}, TypeError, "excess must be a number"),
        ({"n_samples": 0}, ValueError, "n_samples=0 is too small"),
        ({"batch_size": 0}, ValueError, "batch_size=0 is too small"),
        ({"random_state": -1}, ValueError, "random_state=-1 is too small"),
        ({"key": "scarr"}, KeyError, r"no fitted model in adata\.uns\['scarr'\].*Did you mean 'scar'"),
    ],
    ids=str,
)
def test_bad_options(cleaned, options, error, text):
    with pytest.raises(error, match=text):
        get.denoised(cleaned, **options)


def test_models_that_do_not_tell_ambient_counts(fitted):
    text = r"is scVI, which does not tell ambient counts: fit one with scvitl\.tl\.scar"
    with pytest.raises(ValueError, match=r"the model in uns\['scvi'\] " + text):
        get.denoised(fitted, key="scvi")
    with pytest.raises(ValueError, match="the model given " + text):
        get.denoised(fitted, model=get.model(fitted))


def test_counts_that_are_gone(cleaned):
    scvitl.tl.minify(cleaned, key="scar")
    with pytest.raises(ValueError, match=r"get\.denoised looks at counts, which scvitl\.tl\.minify replaced"):
        get.denoised(cleaned)

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import scvitl
from scvitl import get

SMALL = {"n_hidden": 16, "n_latent": 3, "max_epochs": 3, "progress": False}


def test_counts_for_every_cell(fitted):
    x = get.posterior_predictive(fitted)
    assert isinstance(x, sp.csr_matrix)
    assert x.shape == (200, 40)
    assert x.dtype == np.float32
    assert x.has_canonical_format
    assert (x.data > 0).all(), "zeros are not stored"
    assert np.array_equal(x.data, np.rint(x.data))
    fitted.layers["predicted"] = x
    scvitl.get.latent(fitted[:, :].copy())


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson", "normal"])
def test_means_are_those_of_the_likelihood(toy, likelihood):
    scvitl.tl.scvi(toy, gene_likelihood=likelihood, **SMALL)
    options = {"indices": range(5), "n_samples": 3000}
    draws = np.stack([x.toarray() for x in get.posterior_predictive(toy, **options)])
    p = get.likelihood_parameters(toy, random_state=1, **options)
    rates = p["mean"] * (1 - p.get("dropout", 0))
    # five standard errors of the difference, and a little for genes of which hardly any count was drawn
    error = np.sqrt((draws.var(0) + rates.var(0)) / 3000)
    assert (np.abs(draws.mean(0) - rates.mean(0)) < 5 * error + 0.01).all()
    if likelihood == "nb":
        variance = (rates + rates**2 / p["dispersions"]).mean(0) + rates.var(0)
        # heavy tails: the median over 200 cells and genes
        assert np.median(draws.var(0) / variance) == pytest.approx(1, abs=0.03)


def test_several_samples_are_a_list_of_as_many(fitted):
    samples = get.posterior_predictive(fitted, n_samples=3, indices=range(10))
    assert isinstance(samples, list)
    assert [x.shape for x in samples] == [(10, 40)] * 3
    assert all(isinstance(x, sp.csr_matrix) for x in samples)
    assert (samples[0] != samples[1]).nnz > 0


def test_genes_in_the_order_asked_for(fitted):
    genes = ["gene_020", "gene_003"]
    some = get.posterior_predictive(fitted, genes=genes, n_samples=200, indices=range(20))
    every = get.posterior_predictive(fitted, n_samples=200, indices=range(20))
    at = fitted.var_names.get_indexer(genes)
    means = [
        np.mean([x.toarray()[:, columns] for x in xs], 0) for xs, columns in ((some, [0, 1]), (every, at))
    ]
    spread = np.std([x.toarray()[:, at] for x in every], 0)
    # five standard errors of the difference of two means of 200
    assert (np.abs(means[0] - means[1]) < 5 * spread * np.sqrt(2 / 200) + 0.05).all()
    with pytest.raises(KeyError, match="genes has 'gene_99', not among the genes of the model"):
        get.posterior_predictive(fitted, genes=["gene_99"])


def test_batches_to_decode_from(fitted, said):
    """Several give the mean of their counts."""
    both = get.posterior_predictive(fitted, transform_batch="all")
    assert np.array_equal(2 * both.data, np.rint(2 * both.data))
    assert (both.data != np.rint(both.data)).any()
    shift = {}
    for name in ("batch_0", "batch_1"):
        expected = get.normalized_expression(
            fitted, transform_batch=name, library_size="latent", n_samples=20
        )
        dropout = get.likelihood_parameters(fitted)["dropout"].mean()
        xs = get.posterior_predictive(fitted, transform_batch=name, n_samples=20)
        shift[name] = np.mean([x.toarray().mean(0) for x in xs], 0), expected.mean(axis=0) * (1 - dropout)
    ours, theirs = (np.log(shift["batch_0"][k] / shift["batch_1"][k]) for k in (0, 1))
    # genes go up and down between batches as their expected counts do
    assert np.corrcoef(ours, theirs)[0, 1] > 0.7
    with pytest.raises(KeyError, match="transform_batch has 'b', which is no batch"):
        get.posterior_predictive(fitted, transform_batch="b")


def test_drawing_anew_in_the_own_batch_is_nothing_to_warn_of(fitted, said):
    get.posterior_predictive(fitted)
    assert said() == ""


def test_no_samples(fitted):
    with pytest.raises(ValueError, match="n_samples=0 is too small"):
        get.posterior_predictive(fitted, n_samples=0)


def test_counts_of_proteins(fitted_proteins):
    options = {"key": "totalvi", "modality": "protein", "n_samples": 2000, "indices": range(5)}
    samples = get.posterior_predictive(fitted_proteins, **options)
    assert all(isinstance(x, sp.csr_matrix) for x in samples)
    assert samples[0].dtype == np.float32
    draws = np.stack([x.toarray() for x in samples])
    assert draws.shape == (2000, 5, 6)
    assert np.array_equal(draws, np.rint(draws))
    parameters = ["protein_background", "protein_foreground", "protein_mixing"]
    del options["modality"]
    p = get.likelihood_parameters(fitted_proteins, parameters=parameters, random_state=1, **options)
    low, high, mixing = p.values()
    rates = low * mixing + high * (1 - mixing)
    # 2,000 draws of a mixture whose parts are far apart: six standard errors
    error = np.sqrt((draws.var(0) + rates.var(0)) / 2000)
    assert (np.abs(draws.mean(0) - rates.mean(0)) < 6 * error + 0.05).all()


def test_proteins_in_the_order_asked_for(fitted_proteins):
    options = {"key": "totalvi", "modality": "protein", "transform_batch": "batch_0"}
    every = get.posterior_predictive(fitted_proteins, **options)
    assert every.shape == (200, 6)
    some = get.posterior_predictive(fitted_proteins, genes=["CD4", "CD1"], **options)
    assert (some != every[:, [4, 1]]).nnz == 0
    with pytest.raises(KeyError, match="genes has 'CD9', not among the proteins of the model"):
        get.posterior_predictive(fitted_proteins, genes=["CD9"], **options)
    with pytest.raises(KeyError, match="genes has 'CD1', not among the genes of the model"):
        get.posterior_predictive(fitted_proteins, key="totalvi", genes=["CD1"])


def test_no_proteins(fitted):
    with pytest.raises(ValueError, match=r"uns\['scvi'\] is scVI, which has no proteins"):
        get.posterior_predictive(fitted, modality="protein")
    with pytest.raises(ValueError, match="modality='proteins' is not known"):
        get.posterior_predictive(fitted, modality="proteins")

"""Assignment of guides and tags, against its rule taken literally and against cells of which the truth is known."""

from __future__ import annotations

from itertools import combinations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from scipy import special, stats

from scvitl import get, tl
from scvitl.posterior import assigned

STRICT = 100.0  # of which cells without a guide have none


def sets(column):
    """The features of every cell, as sets of names."""
    return [frozenset(name.split(", ")) if isinstance(name, str) else frozenset() for name in column]


def truth(adata):
    return [frozenset(adata.var_names[there]) for there in adata.obsm["guides"]]


def accuracy(adata, rows=slice(None)):
    pairs = zip(sets(adata.obs["scar_feature"])[rows], truth(adata)[rows], strict=True)
    return np.mean([found == expected for found, expected in pairs])


def log_factors(values):
    """Logarithms of Bayes factors as a sparse matrix, in which zeros are not stored."""
    return sp.csr_matrix(np.array(values, float))


def prior(k, moi, n_features):
    """Logarithm of the probability of one set of k features."""
    return stats.poisson.logpmf(k, moi) - np.log(special.comb(n_features, k))


def test_most_cells_get_their_guide(guided):
    tl.assign_features(guided)
    assert accuracy(guided, slice(60, None)) >= 0.98
    tl.assign_features(guided, cutoff=STRICT)
    assert accuracy(guided, slice(60, None)) >= 0.98
    assert accuracy(guided, slice(30)) >= 0.85, "of those that have none"


def test_screens_at_a_high_multiplicity_of_infection(guided):
    tl.assign_features(guided, cutoff=STRICT, moi=1.0)
    assert accuracy(guided) >= 0.95
    assert accuracy(guided, slice(30, 60)) >= 0.95, "of those with two guides"
    number = guided.obs["scar_n_features"]
    assert (number == guided.obsm["guides"].sum(1)).mean() >= 0.95
    assert guided.obs["scar_feature"].cat.categories.str.contains(", ").any()


def test_what_is_written(guided, said):
    before = set(guided.obs)
    assert tl.assign_features(guided, cutoff=STRICT) is None
    assert set(guided.obs) - before == {"scar_feature", "scar_n_features"}
    feature, number = guided.obs["scar_feature"], guided.obs["scar_n_features"]
    assert isinstance(feature.dtype, pd.CategoricalDtype)
    assert not feature.cat.ordered
    assert number.dtype == np.int64
    assert (feature.isna() == (number == 0)).all()
    assert set(feature.cat.categories) == set(feature.dropna()), "no category without cells"
    assert list(feature.cat.categories) == [name for name in guided.var_names if name in set(feature)]
    one = int((number == 1).sum())
    assert f"{one} cells have one feature, 0 several, {300 - one} none" in said()
    assert "'scar_feature'" in said()


def test_one_feature_is_that_with_the_highest_factor(guided):
    tl.assign_features(guided, cutoff=10, adjust="global")
    factors = get.bayes_factors(guided, adjust="global")
    enough = (factors.max(1) >= 10).to_numpy()
    assert 0 < enough.sum() < 300
    expected = factors.idxmax(1).where(enough)
    assert guided.obs["scar_feature"].astype(object).equals(expected.rename("scar_feature").astype(object))


def test_features_that_share_the_highest_factor():
    factors = log_factors([[0, 3, 3, 1], [2, 0, 0, 0], [0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    found = assigned(factors, cutoff=np.exp(0.9)).toarray()
    assert found.tolist() == [[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("moi", [0.05, 1.0, 4.0])
def test_several_features_are_the_most_probable_set(moi):
    """Of all sets of features with enough evidence, looked at one by one."""
    factors = np.random.default_rng(0).gamma(0.7, 4, size=(60, 6))
    factors[::5] = 0
    cutoff = np.exp(0.7)
    found = assigned(log_factors(factors), cutoff=cutoff, moi=moi).toarray()
    for row, cell in zip(found, factors, strict=True):
        candidates = np.flatnonzero(cell >= np.log(cutoff))
        every = [()]
        every += [few for k in range(1, len(candidates) + 1) for few in combinations(candidates, k)]
        best = max(every, key=lambda few: cell[list(few)].sum() + prior(len(few), moi, 6))
        assert np.flatnonzero(row).tolist() == sorted(best)
    assert len(set(found.sum(1))) > 2


def test_the_cutoff_holds_for_sets_too():
    factors = log_factors([[50, 2, 30], [2, 2, 2]])
    found = assigned(factors, cutoff=np.exp(3), moi=2).toarray()
    assert found.tolist() == [[1, 0, 1], [0, 0, 0]]


def test_a_larger_multiplicity_never_gives_fewer(guided):
    number = []
    for moi in (0.01, 0.3, 3.0):
        tl.assign_features(guided, moi=moi)
        number.append(guided.obs["scar_n_features"].to_numpy())
    assert (number[0] <= number[1]).all()
    assert (number[1] <= number[2]).all()
    assert number[0].sum() < number[2].sum()


def test_names_are_joined_in_the_order_of_the_features(guided):
    tl.assign_features(guided, cutoff=STRICT, moi=1.0)
    order = {name: i for i, name in enumerate(guided.var_names)}
    for name in guided.obs["scar_feature"].cat.categories:
        places = [order[part] for part in name.split(", ")]
        assert places == sorted(places)
    number = guided.obs["scar_n_features"]
    assert [len(found) for found in sets(guided.obs["scar_feature"])] == number.tolist()


def test_more_counts_than_any_number_tells_apart(guided):
    """Bayes factors of both end at the largest number there is, and yet the one with more counts is the better."""
    guided.X = guided.X.toarray()
    guided.X[0] = 0
    guided.X[0, [3, 8]] = 40_000, 20_000
    tl.assign_features(guided)
    assert guided.obs["scar_feature"].iloc[0] == "guide_03"
    factors = get.bayes_factors(guided).iloc[0]
    assert factors["guide_03"] == factors["guide_08"]
    tl.assign_features(guided, moi=0.5)
    assert guided.obs["scar_feature"].iloc[0] == "guide_03, guide_08"


def test_nothing_passes(guided, tmp_path):
    guided.X = np.ones(guided.shape, np.float32)
    for moi in (None, 1.0):
        tl.assign_features(guided, cutoff=1e6, moi=moi)
        assert (guided.obs["scar_n_features"] == 0).all()
        assert guided.obs["scar_feature"].isna().all()
    guided.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert again.obs["scar_feature"].isna().all()


def test_survives_a_file(guided, tmp_path):
    tl.assign_features(guided, cutoff=STRICT, moi=1.0)
    guided.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_series_equal(again.obs["scar_feature"], guided.obs["scar_feature"])
    tl.assign_features(again, cutoff=STRICT, moi=1.0, key_added="again")
    assert again.obs["again_feature"].equals(guided.obs["scar_feature"].rename("again_feature"))


def test_copy_and_another_key(guided):
    before = guided.copy()
    copied = tl.assign_features(guided, key_added="guide", copy=True)
    assert {"guide_feature", "guide_n_features"} <= set(copied.obs)
    pd.testing.assert_frame_equal(guided.obs, before.obs)
    tl.assign_features(guided, key_added="guide")
    pd.testing.assert_series_equal(copied.obs["guide_feature"], guided.obs["guide_feature"])
    guided.uns["other"] = guided.uns.pop("scar")
    tl.assign_features(guided, key="other")
    assert guided.obs["other_feature"].tolist() == guided.obs["guide_feature"].tolist()


@pytest.mark.parametrize("feature_type", ["CMO", "tag", "ADT"])
def test_other_types_of_features(screen, feature_type):
    adata, raw = screen(150, 6)
    adata = adata[(adata.X > 0).sum(1).A1 > 1].copy()
    tl.scar(adata, raw, feature_type=feature_type, max_epochs=10, n_hidden=32, progress=False)
    tl.assign_features(adata)
    assert accuracy(adata, slice(30, None)) >= 0.8


def test_genes_are_not_assigned(soup):
    adata, raw = soup(100)
    tl.scar(adata, raw, n_hidden=8, max_epochs=1, progress=False)
    before = adata.copy()
    text = r"the model in adata\.uns\['scar'\] is of mRNA, .* nothing to assign\. Fit guides or tags with .*feature_type='sgRNA'"
    with pytest.raises(ValueError, match=text):
        tl.assign_features(adata)
    pd.testing.assert_frame_equal(adata.obs, before.obs)


def test_results_do_not_replace_what_the_model_reads(screen):
    adata, _ = screen(100)
    adata.obs["g_feature"] = pd.Categorical(np.arange(100) % 2)
    tl.scar(adata, batch_key="g_feature", feature_type="sgRNA", n_hidden=8, max_epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"would replace adata\.obs\['g_feature'\], which the model reads"):
        tl.assign_features(adata, key_added="g")
    assert adata.obs["g_feature"].cat.categories.tolist() == [0, 1]
    tl.assign_features(adata)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"cutoff": 1}, ValueError, "cutoff=1 is out of range; it must be above 1"),
        ({"cutoff": "3"}, TypeError, "cutoff must be a number"),
        ({"moi": 0}, ValueError, "moi=0 is out of range; it must be above 0"),
        ({"moi": True}, TypeError, "moi must be a number"),
        ({"adjust": "local"}, ValueError, "adjust='local' is not known. Use one of 'micro', 'global'"),
        ({"copy": "no"}, TypeError, "copy must be True or False"),
        ({"key_added": "a/b"}, ValueError, "key_added='a/b' cannot name results"),
        ({"key": "guides"}, KeyError, r"no fitted model in adata\.uns\['guides'\]. Models here: 'scar'"),
    ],
    ids=str,
)
def test_bad_options(guided, options, error, text):
    before = guided.obs.copy()
    with pytest.raises(error, match=text):
        tl.assign_features(guided, **options)
    pd.testing.assert_frame_equal(guided.obs, before)


def test_models_and_cells_that_cannot_tell(fitted, guided):
    with pytest.raises(
        ValueError, match=r"the model in uns\['scvi'\] is scVI, which does not tell ambient counts"
    ):
        tl.assign_features(fitted, key="scvi")
    tl.minify(guided, key="scar")
    with pytest.raises(
        ValueError, match=r"tl\.assign_features looks at counts, which scvitl\.tl\.minify replaced"
    ):
        tl.assign_features(guided)


def test_a_backed_file_gets_its_columns(guided, tmp_path):
    tl.assign_features(guided)
    guided.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    tl.assign_features(backed, key_added="again")
    assert backed.obs["again_feature"].tolist() == guided.obs["scar_feature"].tolist()
    with pytest.raises(ValueError, match="copy=True cannot copy what is backed by a file"):
        tl.assign_features(backed, copy=True)
    backed.file.close()


def test_scanpy_colours_by_it(guided):
    tl.assign_features(guided, cutoff=STRICT)
    ax = sc.pl.embedding(guided, "X_scar", color="scar_feature", show=False)
    assert "NA" in [text.get_text() for text in ax.get_legend().get_texts()]
    plt.close("all")

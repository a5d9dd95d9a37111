from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch

import scvitl
from scvitl import get

mudata = pytest.importorskip("mudata")

SMALL = {"batch_key": "batch", "n_hidden": 16, "n_latent": 4, "max_epochs": 2, "progress": False}
TABLES = ("X_totalvi", "totalvi_protein", "totalvi_protein_foreground")
KEY = "protein_expression"
READERS = {
    "latent": lambda a: get.latent(a, key="totalvi"),
    "some cells": lambda a: get.latent(a, key="totalvi", indices="batch == 'batch_1' and age > 50"),
    "elbo": lambda a: get.elbo(a, key="totalvi", return_mean=False),
    "reconstruction_error": lambda a: get.reconstruction_error(a, key="totalvi", return_mean=False),
    "marginal_ll": lambda a: get.marginal_ll(a, key="totalvi", n_mc_samples=2, return_mean=False),
    "latent_library_size": lambda a: get.latent_library_size(a, key="totalvi"),
    "normalized_expression": lambda a: get.normalized_expression(a, key="totalvi", transform_batch="all"),
    "aggregated_posterior": lambda a: get.aggregated_posterior(a, key="totalvi").log_prob(torch.zeros(4)),
    "feature_correlation": lambda a: get.feature_correlation(a, key="totalvi", n_samples=2, transform_batch="all"),
    "factor_association": lambda a: get.factor_association(a, ["age", "site"], key="totalvi"),
    "likelihood_parameters": lambda a: get.likelihood_parameters(a, key="totalvi")["protein_mixing"],
    "posterior_predictive": lambda a: get.posterior_predictive(a, key="totalvi").toarray(),
    "history": lambda a: get.history(a, key="totalvi"),
    "protein_expression": lambda a: get.protein_expression(a, key="totalvi", transform_batch="all"),
    "protein_foreground": lambda a: get.protein_foreground(a, key="totalvi", transform_batch="all"),
    "protein_background": lambda a: get.protein_background(a, key="totalvi", transform_batch="all"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _options():
    with mudata.set_options(pull_on_update=False):
        yield


def as_mudata(adata, names=("rna", "prot")):
    """The same cells as a MuData: ``age`` in the genes' own ``obs``, and the proteins sparse, in another order of cells."""
    genes = ad.AnnData(adata.X, adata.obs[["age"]], adata.var, layers=dict(adata.layers))
    table = adata.obsm[KEY]
    proteins = ad.AnnData(
        sp.csr_matrix(table, dtype=np.float32),
        pd.DataFrame(index=adata.obs_names),
        pd.DataFrame(index=table.columns),
    )
    mdata = mudata.MuData(dict(zip(names, (genes, proteins[::-1].copy()), strict=True)))
    for column in adata.obs.columns.drop("age"):
        mdata.obs[column] = adata.obs[column]
    return mdata


def values(result):
    return result.to_numpy() if isinstance(result, pd.DataFrame) else np.asarray(result)


@pytest.fixture(scope="module")
def _both(simulate):
    adata = simulate()
    adata.obs["site"] = pd.Categorical(["north", "south"] * 60)
    del adata.obsm["on"], adata.obsm["signal"]
    with mudata.set_options(pull_on_update=False):
        mdata = as_mudata(adata)
    for cells in (adata, mdata):
        scvitl.tl.totalvi(cells, **SMALL)
    return adata, mdata


@pytest.fixture
def both(_both):
    """The same cells and model as AnnData and as MuData."""
    return tuple(cells.copy() for cells in _both)


def test_the_fit_is_that_of_an_anndata_and_lands_in_the_mudata(both):
    adata, mdata = both
    for name in TABLES:
        assert np.array_equal(values(mdata.obsm[name]), values(adata.obsm[name]))
    assert mdata.obsm["totalvi_protein"].index.equals(mdata.obs_names)
    assert set(mdata.obsm) == {"rna", "prot", *TABLES}
    assert set(mdata.uns) == {"totalvi"}
    assert set(mdata.uns["totalvi"]) == {"params", "schema", "history", "weights"}
    for part in mdata.mod.values():
        assert not part.uns
        assert not part.obsm
    weights = (cells.uns["totalvi"]["weights"] for cells in both)
    assert all(np.array_equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))


def test_the_model_remembers_the_modalities(both):
    adata, mdata = both
    assert get.model(adata, key="totalvi").schema.proteins.modalities is None
    model = get.model(mdata, key="totalvi")
    assert model.schema.proteins.modalities == ("rna", "prot")
    assert "12 in the modality 'prot', not all measured everywhere: P00" in repr(model)


def test_other_names_of_modalities(both):
    adata, mdata = both
    other = as_mudata(adata, names=("gex", "adt"))
    with pytest.raises(KeyError, match="no modality 'rna' and no 'prot'"):
        scvitl.tl.totalvi(other, **SMALL)
    assert not other.uns
    scvitl.tl.totalvi(other, modalities=["gex", "adt"], **SMALL)
    assert np.array_equal(other.obsm["X_totalvi"], mdata.obsm["X_totalvi"])
    assert np.array_equal(get.latent(other, key="totalvi"), other.obsm["X_totalvi"])
    scvitl.tl.normalized_expression(other, key="totalvi", transform_batch="all")
    assert set(other["gex"].layers) == {"totalvi_normalized"}
    with pytest.raises(KeyError, match=r"no modality 'gex' and no 'adt'. There are 'rna', 'prot'"):
        get.latent(mdata, model=get.model(other, key="totalvi"))


def test_copy_and_key_added(both):
    adata, _ = both
    mdata = as_mudata(adata)
    with mudata.set_options(pull_on_update=None):  # of which mudata itself would warn
        result = scvitl.tl.totalvi(mdata, copy=True, key_added="foo", **SMALL)
    assert set(mdata.obsm) == {"rna", "prot"}
    assert not mdata.uns
    assert np.array_equal(result.obsm["X_foo"], adata.obsm["X_totalvi"])
    assert set(result.uns) == {"foo"}


@pytest.mark.parametrize("pull", [False, True])
def test_a_file_keeps_the_model_working(both, tmp_path, pull):
    _, mdata = both
    mdata.write(tmp_path / "m.h5mu")
    with mudata.set_options(pull_on_update=pull):
        read = mudata.read_h5mu(tmp_path / "m.h5mu")
        read.update()
    for name in TABLES:
        assert np.array_equal(values(read.obsm[name]), values(mdata.obsm[name]))
    assert np.array_equal(get.latent(read, key="totalvi"), mdata.obsm["X_totalvi"])
    backed = mudata.read_h5mu(tmp_path / "m.h5mu", backed="r")
    assert np.array_equal(get.latent(backed, key="totalvi"), mdata.obsm["X_totalvi"])
    with pytest.raises(
        ValueError, match=r"backed by a file: read it first, with mdata = mudata.read_h5mu\(path\)"
    ):
        scvitl.tl.totalvi(backed, copy=True, **SMALL)
    with pytest.raises(ValueError, match=r"a view of a file, .* mdata = mudata.read_h5mu\(path\)"):
        scvitl.tl.totalvi(backed[:50], **SMALL)
    scvitl.tl.totalvi(backed, key_added="again", **SMALL)
    assert np.array_equal(backed.obsm["X_again"], mdata.obsm["X_totalvi"])
    backed.file.close()


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_readers(both, read):
    adata, mdata = both
    before = mdata.copy()
    assert np.array_equal(values(read(mdata)), values(read(adata)), equal_nan=True)
    assert set(mdata.obsm) == set(before.obsm)
    assert mdata.obs.columns.tolist() == before.obs.columns.tolist()


def test_a_part_of_the_cells(both):
    _, mdata = both
    for part in (mdata[[40, 3, 77]], mdata[[40, 3, 77]].copy()):
        latent = get.latent(part, key="totalvi")
        assert np.allclose(latent, mdata.obsm["X_totalvi"][[40, 3, 77]], atol=1e-5)


def test_a_view_gets_results_of_its_own(both, said):
    adata, _ = both
    mdata = as_mudata(adata)
    view = mdata[:60]
    with mudata.set_options(pull_on_update=None):
        scvitl.tl.totalvi(view, **SMALL)
    assert "view" in said()
    assert view.obsm["X_totalvi"].shape == (60, 4)
    assert not mdata.uns
    assert set(mdata.obsm) == {"rna", "prot"}


def test_models_of_either_read_the_other(both):
    adata, mdata = both
    models = [get.model(cells, key="totalvi") for cells in both]
    del adata.uns["totalvi"], mdata.uns["totalvi"]
    assert np.array_equal(get.latent(mdata, model=models[0]), adata.obsm["X_totalvi"])
    assert np.array_equal(get.latent(adata, model=models[1]), adata.obsm["X_totalvi"])


def test_normalized_expression_goes_into_the_genes(both):
    adata, mdata = both
    order = np.roll(np.arange(120), 5)
    mdata.mod["rna"] = mdata["rna"][order].copy()
    mdata.update()
    assert mdata.obs_names.equals(adata.obs_names)
    for cells in both:
        scvitl.tl.normalized_expression(cells, key="totalvi", transform_batch="all")
    assert np.array_equal(
        mdata["rna"].layers["totalvi_normalized"], adata.layers["totalvi_normalized"][order]
    )
    assert np.array_equal(values(mdata.obsm["totalvi_protein"]), values(adata.obsm["totalvi_protein"]))
    assert not mdata["prot"].layers
    copy = scvitl.tl.normalized_expression(
        mdata, key="totalvi", transform_batch="all", key_added="b", copy=True
    )
    assert "b_normalized" in copy["rna"].layers
    assert "b_normalized" not in mdata["rna"].layers


@pytest.mark.parametrize("column", ["cell_type", "of genes"])
def test_rank_genes_groups(both, column):
    """By a column of the MuData, and by one of the genes' own ``obs``."""
    adata, mdata = both
    adata.obs["of genes"] = mdata["rna"].obs["of genes"] = adata.obs["cell_type"].to_numpy()
    for cells in both:
        scvitl.tl.rank_genes_groups(cells, column, key="totalvi", n_samples=50)
    for name in ("rank_genes_groups", "rank_genes_groups_protein"):
        ours, theirs = (get.rank_genes_groups(cells, key=name) for cells in both)
        pd.testing.assert_frame_equal(ours, theirs)
    assert len(sc.get.rank_genes_groups_df(mdata, "type_1")) == 40


def test_rank_genes_groups_of_two_sets(both):
    adata, mdata = both
    for cells in both:
        scvitl.tl.rank_genes_groups(cells, cells1="age > 50", key="totalvi", n_samples=50)
    assert mdata.obs["rank_genes_groups"].tolist() == adata.obs["rank_genes_groups"].tolist()
    pd.testing.assert_frame_equal(*(get.rank_genes_groups(cells) for cells in both))
    with pytest.raises(KeyError, match=r"Did you mean 'cell_type'\? Columns: 'batch', 'cell_type'"):
        scvitl.tl.rank_genes_groups(mdata, "cell_types", key="totalvi")
    with pytest.raises(TypeError, match="model takes what"):
        scvitl.tl.rank_genes_groups(mdata, "cell_type", model="totalvi")


def test_differential_abundance(both):
    adata, mdata = both
    mdata["rna"].obs["sample"] = adata.obs["sample"] = adata.obs["donor"].to_numpy()
    for cells in both:
        scvitl.tl.differential_abundance(cells, "sample", key="totalvi")
    pd.testing.assert_frame_equal(*(cells.obsm["totalvi_abundance"] for cells in both))


def test_map_query(both, simulate):
    new = simulate(n_cells=50)
    new.obs["batch"] = new.obs["batch"].cat.rename_categories({"batch_0": "new"})
    references = dict(zip(("AnnData", "MuData"), both, strict=True))
    results = {}
    for name, reference in references.items():
        for query in (new.copy(), as_mudata(new)):
            scvitl.tl.map_query(query, reference, key="totalvi", max_epochs=2, progress=False)
            results[name, type(query).__name__] = query
    expected = results["AnnData", "AnnData"]
    for kind, query in results.items():
        for name in TABLES:
            assert np.array_equal(values(query.obsm[name]), values(expected.obsm[name])), (kind, name)
        assert np.array_equal(get.latent(query, key="totalvi"), query.obsm["X_totalvi"]), kind
    query = as_mudata(new)
    with mudata.set_options(pull_on_update=None):
        copy = scvitl.tl.map_query(query, both[1], key="totalvi", max_epochs=2, progress=False, copy=True)
    assert "X_totalvi" not in query.obsm
    assert np.array_equal(copy.obsm["X_totalvi"], expected.obsm["X_totalvi"])
    with pytest.raises(TypeError, match="query takes an AnnData, not DataFrame"):
        scvitl.tl.map_query(new.obs, both[1], key="totalvi")


def test_minify_says_what_to_do_instead_and_that_works(both):
    _, mdata = both
    with pytest.raises(
        TypeError,
        match=r"tl.minify takes an AnnData, not a MuData: minify its genes: adata = mdata\['rna'\].copy\(\)",
    ):
        scvitl.tl.minify(mdata, key="totalvi")
    adata = mdata["rna"].copy()
    adata.obsm["protein_expression"] = mdata["prot"].to_df().loc[adata.obs_names]
    adata.uns["totalvi"] = mdata.uns["totalvi"]
    adata.obs["batch"] = mdata.obs["batch"]
    scvitl.tl.minify(adata, key="totalvi")
    assert np.array_equal(get.latent(adata, key="totalvi"), mdata.obsm["X_totalvi"])


@pytest.mark.parametrize("fit", ["scvi", "ldvae", "scanvi"])
def test_models_of_genes_take_the_modality(both, fit):
    _, mdata = both
    labels = {"labels_key": "cell_type"} if fit == "scanvi" else {}
    with pytest.raises(
        TypeError, match=r"takes an AnnData, not a MuData: pass one of its modalities, such as mdata\['rna'\]"
    ):
        getattr(scvitl.tl, fit)(mdata, max_epochs=1, progress=False, **labels)
    assert set(mdata.uns) == {"totalvi"}


def test_a_model_of_genes_in_a_mudata(both):
    _, mdata = both
    scvitl.tl.scvi(mdata["rna"], n_hidden=8, n_latent=2, max_epochs=1, progress=False)
    mdata.uns["scvi"] = mdata["rna"].uns["scvi"]
    with pytest.raises(TypeError, match="the model has no proteins, so it takes an AnnData, not a MuData"):
        get.latent(mdata)
    with pytest.raises(KeyError, match="Models here: 'totalvi', 'scvi'"):
        get.latent(mdata, key="scanvi")


def test_plots(both):
    import matplotlib.pyplot as plt

    adata, mdata = both
    for cells in both:
        genes = cells if cells is adata else cells["rna"]
        genes.var["symbol"] = [f"S{i}" for i in range(genes.n_vars)]
        scvitl.tl.rank_genes_groups(cells, "cell_type", key="totalvi", n_samples=50)
    draw = {
        "protein": lambda a: scvitl.pl.protein(a, ["P01"], key="totalvi", show=False)[0],
        "history": lambda a: scvitl.pl.history(a, key="totalvi", show=False),
        "volcano": lambda a: scvitl.pl.volcano(a, "type_1", gene_symbols="symbol", show=False),
        "correlation": lambda a: scvitl.pl.correlation(
            a, key="totalvi", genes=adata.var_names[:5], n_samples=2, transform_batch="all", gene_symbols="symbol", show=False
        ),
        "predictive": lambda a: scvitl.pl.posterior_predictive(a, key="totalvi", gene_symbols="symbol", show=False)[0],
    }  # fmt: skip
    for name, plot in draw.items():
        texts = []
        for cells in both:
            figure = plot(cells).figure
            texts.append([text.get_text() for text in figure.findobj(plt.Text)])
        assert texts[0] == texts[1], name
        plt.close("all")
    with pytest.raises(KeyError, match=r"gene_symbols='symbols' is not in adata.var. Did you mean 'symbol'"):
        scvitl.pl.volcano(mdata, "type_1", gene_symbols="symbols", show=False)


def bad_input(name, adata):
    """A MuData, options, and the error that they are to meet."""
    mdata, options = as_mudata(adata), {}
    counts = mdata["prot"].X.toarray()
    if name == "log":
        mdata["prot"].X = np.log1p(counts)
    elif name == "nan":
        counts[3, 2] = np.nan
        mdata["prot"].X = counts
    elif name == "empty":
        mdata["prot"].X = None
    elif name == "genes":
        mdata["rna"].X = mdata["rna"].X.log1p()
    elif name == "partial":
        mdata = mudata.MuData({"rna": mdata["rna"], "prot": mdata["prot"][:100].copy()})
    elif name == "silent":
        counts[:, 4] = 0
        mdata["prot"].X = counts
    elif name == "taken":
        mdata.uns["totalvi"] = {"a": 1}
    return mdata, options


@pytest.mark.parametrize(
    ("name", "options", "error", "text"),
    [
        ("log", {}, ValueError, r"mdata\['prot'\].X holds values that are not whole numbers .*neither CLR- nor log-norm"),
        ("nan", {}, ValueError, r"mdata\['prot'\].X holds NaN"),
        ("empty", {}, ValueError, r"mdata\['prot'\].X is empty"),
        ("genes", {}, ValueError, "not whole numbers .* and looks log-normalised"),
        ("partial", {}, ValueError, r"20 of 120 cells are not in 'prot' .*intersect_obs"),
        ("silent", {}, ValueError, r"no cell has a count of 'P04'.* leave it out of mdata\['prot'\].X"),
        ("taken", {}, ValueError, "holds something that is not a model"),
        ("", {"modalities": ("rna", "protein")}, KeyError, r"Is it 'prot'\? Then modalities=\('rna', 'prot'\)"),
        ("", {"modalities": "rna"}, TypeError, "modalities takes two names"),
        ("", {"batch_key": "batches"}, KeyError, "Did you mean 'batch'"),
        ("", {"copy": "yes"}, TypeError, "copy must be True or False"),
        ("", {"learning_rate": 1e30}, FloatingPointError, "not finite"),
    ],
)  # fmt: skip
def test_bad_input_leaves_the_mudata_alone(both, name, options, error, text):
    mdata, more = bad_input(name, both[0])
    before = mdata.copy()
    with pytest.raises(error, match=text):
        scvitl.tl.totalvi(mdata, **{**SMALL, **more, **options})
    pd.testing.assert_frame_equal(mdata.obs, before.obs)
    assert (set(mdata.obsm), set(mdata.uns)) == (set(before.obsm), set(before.uns))
    for modality, part in mdata.mod.items():
        pd.testing.assert_frame_equal(part.obs, before[modality].obs)
        assert [*part.obsm, *part.layers, *part.uns] == []


def test_the_log_says_where_counts_came_from(both, said):
    mdata = as_mudata(both[0])
    scvitl.tl.totalvi(mdata, **SMALL)
    assert "12 proteins from mdata['prot'].X" in said()

from __future__ import annotations

import re
import tracemalloc

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

import scvitl

ambient_profile = scvitl.tl.ambient_profile


@pytest.fixture(scope="module")
def _raw():
    return scvitl.datasets.toy(n_cells=150, n_genes=60, n_empty_droplets=1200, random_state=3)


@pytest.fixture
def raw(_raw):
    return _raw.copy()


@pytest.fixture
def adata(raw):
    return raw[raw.obs["is_cell"]].copy()


@pytest.fixture
def unchanged(adata):
    """The cells are what they were, whatever went wrong."""
    before = adata.copy()
    yield
    for slot in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(adata, slot), getattr(before, slot))
    for slot in ("obsm", "varm", "layers", "uns"):
        assert list(getattr(adata, slot)) == list(getattr(before, slot))
    assert (adata.X != before.X).nnz == 0


def shares(adata, column="ambient"):
    return adata.varm["scar_ambient"][column].to_numpy()


def off(values, truth):
    """Total variation."""
    return abs(values - truth).sum() / 2


def test_results(raw, adata, said):
    ambient_profile(adata, raw)
    profile = adata.varm["scar_ambient"]
    assert profile.index.equals(adata.var_names)
    assert profile.columns.tolist() == ["ambient"]
    assert np.isclose(shares(adata).sum(), 1)
    assert off(shares(adata), adata.var["ambient_profile"]) < 0.02
    assert np.corrcoef(shares(adata), adata.var["ambient_profile"])[0, 1] > 0.998
    found = adata.uns["scar_ambient"]
    assert set(found) == {"droplets", "counts", "prob"}
    droplets = found["droplets"]
    assert droplets["total"].tolist() == np.ravel(raw.X.sum(1)).tolist()
    assert droplets["class"].cat.categories.tolist() == ["cell", "empty", "other"]
    assert np.array_equal(droplets["class"] == "cell", raw.obs["is_cell"])
    empty = (droplets["class"] == "empty").to_numpy()
    assert empty.sum() == 1140
    counts = found["counts"]["ambient"]
    assert np.array_equal(counts, np.ravel(raw.X[empty].sum(0)))
    assert counts.index.equals(adata.var_names)
    assert np.allclose(shares(adata), counts / counts.sum())
    assert 0 < found["prob"][0] < 1
    assert re.search(r"1,140 of 1,350 droplets are empty, with [\d,]+ counts \(prob 0\.\d+\)", said())


def test_raw_is_left_as_it_is(raw, adata):
    before = raw.copy()
    ambient_profile(adata, raw)
    assert raw.obs.equals(before.obs)
    assert raw.var.equals(before.var)
    assert (raw.X != before.X).nnz == 0
    assert not raw.uns


def test_copy_and_name(raw, adata):
    copied = ambient_profile(adata, raw, copy=True, key_added="soup")
    assert not adata.varm.keys() & {"soup_ambient", "scar_ambient"}
    assert not adata.uns
    assert "soup_ambient" in copied.varm
    assert "soup_ambient" in copied.uns
    assert ambient_profile(adata, raw) is None


def test_survives_a_file(raw, adata, tmp_path):
    ambient_profile(adata, raw, batch_key="batch")
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(read.varm["scar_ambient"], adata.varm["scar_ambient"])
    pd.testing.assert_frame_equal(
        read.uns["scar_ambient"]["droplets"], adata.uns["scar_ambient"]["droplets"], check_index_type=False
    )


@pytest.mark.parametrize("form", ["csc", "dense", "int", "view", "layer", "counts", "str", "path"])
def test_forms_of_raw(raw, adata, form, tmp_path):
    ambient_profile(adata, raw)
    expected, layer = shares(adata), None
    if form == "csc":
        raw.X = raw.X.tocsc()
    elif form == "dense":
        raw.X = raw.X.toarray()
    elif form == "int":
        raw.X = raw.X.astype(np.int64)
    elif form == "view":
        raw = ad.concat([raw, raw[:5].copy()], index_unique="-", merge="same")
        raw.obs_names = raw.obs_names.str.removesuffix("-0")
        raw = raw[:-5]
    elif form in {"layer", "counts"}:
        raw.layers[form] = raw.X.copy()
        raw.X = np.log1p(raw.X)
        layer = "layer" if form == "layer" else None
    else:
        raw.write_h5ad(tmp_path / "raw.h5ad")
        raw = str(tmp_path / "raw.h5ad") if form == "str" else tmp_path / "raw.h5ad"
    ambient_profile(adata, raw, layer=layer)
    assert np.array_equal(shares(adata), expected)


def test_backed(raw, adata, tmp_path):
    ambient_profile(adata, raw)
    expected = shares(adata)
    raw.write_h5ad(tmp_path / "raw.h5ad")
    backed = ad.read_h5ad(tmp_path / "raw.h5ad", backed="r")
    ambient_profile(adata, backed)
    assert np.array_equal(shares(adata), expected)
    ambient_profile(adata, backed[backed.obs["batch"] == "batch_0"])
    assert backed.X[:3].sum() == raw.X[:3].sum()
    backed.file.close()


def test_genes_are_matched_by_name(raw, adata, said):
    ambient_profile(adata, raw)
    expected = shares(adata)
    order = np.random.default_rng(0).permutation(raw.n_vars)
    ambient_profile(adata, raw[:, order])
    assert np.array_equal(shares(adata), expected)
    # Others in raw do not count.
    some = adata[:, adata.var_names[::-2]].copy()
    ambient_profile(some, raw)
    assert off(shares(some), expected[::-2] / expected[::-2].sum()) < 0.01
    # Those that raw does not have are not ambient.
    assert "are not in raw" not in said()
    ambient_profile(adata, raw[:, 10:])
    assert (shares(adata)[:10] == 0).all()
    assert off(shares(adata)[10:], expected[10:] / expected[10:].sum()) < 0.01
    assert (
        "10 of the 60 genes of adata are not in raw (such as 'gene_000') and count as never ambient" in said()
    )


def test_memory():
    n, n_genes, per_droplet = 20_000, 20_000, 15
    rng = np.random.default_rng(0)
    indices = rng.integers(n_genes, size=n * per_droplet, dtype=np.int32)
    indptr = np.arange(n + 1, dtype=np.int32) * per_droplet
    counts = sp.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(n, n_genes))
    counts.sum_duplicates()
    names = [f"d{i}" for i in range(n)], [f"g{i}" for i in range(n_genes)]
    raw = ad.AnnData(counts, *(pd.DataFrame(index=index) for index in names))
    adata = raw[:300].copy()
    tracemalloc.start()
    ambient_profile(adata, raw)
    ambient_profile(adata, raw, prob=0.98, cells_may_be_empty=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6
    assert peak < n * n_genes * 4 / 20


def by_column(raw):
    return raw


def by_name(raw):
    return {name: raw[raw.obs["batch"] == name] for name in ("batch_1", "batch_0")}


@pytest.mark.parametrize("form", [by_column, by_name])
def test_a_profile_for_each_batch(raw, adata, form):
    # A batch with ambient counts of other genes.
    second = (raw.obs["batch"] == "batch_1").to_numpy() & ~raw.obs["is_cell"].to_numpy()
    raw.X = sp.csr_matrix(np.where(second[:, None], raw.X.toarray()[:, ::-1], raw.X.toarray()))
    ambient_profile(adata, form(raw), batch_key="batch")
    assert adata.varm["scar_ambient"].columns.tolist() == ["batch_0", "batch_1"]
    truth = adata.var["ambient_profile"].to_numpy()
    assert off(shares(adata, "batch_0"), truth) < 0.03
    assert off(shares(adata, "batch_1"), truth[::-1]) < 0.03
    found = adata.uns["scar_ambient"]
    assert found["counts"].shape == (60, 2)
    assert len(found["prob"]) == 2
    assert found["batch_key"] == "batch"
    droplets = found["droplets"]
    assert droplets["batch"].value_counts().to_dict() == raw.obs["batch"].value_counts().to_dict()
    assert (droplets["class"] == "cell").sum() == adata.n_obs
    assert droplets.loc[droplets["class"] == "empty", "total"].sum() == found["counts"].to_numpy().sum()


def test_names_made_unique_for_batches(raw, adata, said):
    # As samples are usually put together: barcodes are in raw, and in adata with an ending.
    rng = np.random.default_rng(0)
    raw.obs_names = [f"{''.join(code)}-1" for code in rng.choice(list("ACGT"), (raw.n_obs, 16))]
    adata.obs_names = raw.obs_names[raw.obs["is_cell"]] + "-" + adata.obs["batch"].astype(str)
    ambient_profile(adata, by_name(raw), batch_key="batch")
    droplets = adata.uns["scar_ambient"]["droplets"]
    assert (droplets["class"] == "cell").sum() == adata.n_obs
    assert "found in raw by their barcodes" in said()
    assert "WARNING" not in said()


def test_cells_of_other_names(raw, adata, said):
    ambient_profile(adata, raw)
    expected = shares(adata)
    adata.obs_names = "x" + adata.obs_names
    ambient_profile(adata, raw)
    assert off(shares(adata), expected) < 0.01
    assert (adata.uns["scar_ambient"]["droplets"]["class"] != "cell").all()
    assert (
        "no cell of adata is found in raw by name (not 'xcell_0000'; raw has such as 'cell_0000')" in said()
    )
    names = adata.obs_names.to_numpy().copy()
    names[1:] = raw.obs_names[1:150]
    adata.obs_names = names
    ambient_profile(adata, raw)
    assert "only 149 of the 150 cells of adata are found in raw by name (not 'xcell_0000'" in said()
    assert off(shares(adata), expected) < 0.01


def test_raw_of_empty_droplets_only(raw, adata):
    truth = adata.var["ambient_profile"]
    ambient_profile(adata, raw[~raw.obs["is_cell"]])
    assert off(shares(adata), truth) < 0.02


def test_features_of_several_types(raw, adata):
    for part in (raw, adata):
        part.var["feature_types"] = np.repeat(["Gene Expression", "Antibody Capture"], [45, 15])
    truth = adata.var["ambient_profile"].to_numpy()
    ambient_profile(adata, raw)
    assert np.allclose([shares(adata)[:45].sum(), shares(adata)[45:].sum()], 1)
    assert off(shares(adata)[:45], truth[:45] / truth[:45].sum()) < 0.03
    ambient_profile(adata, raw, feature_type="ADT")
    assert np.isnan(shares(adata)[:45]).all()
    assert off(shares(adata)[45:], truth[45:] / truth[45:].sum()) < 0.03
    assert adata.uns["scar_ambient"]["counts"].index.equals(adata.var_names[45:])
    with pytest.raises(ValueError, match="has no sgRNA, but 'Gene Expression', 'Antibody Capture'"):
        ambient_profile(adata, raw, feature_type="sgRNA")


def test_sample_and_seed(raw, adata):
    def drawn(**options):
        ambient_profile(adata, raw, **options)
        return shares(adata), (adata.uns["scar_ambient"]["droplets"]["class"] == "empty").sum()

    state = np.random.get_state()[1].copy()
    first, n_empty = drawn(sample=400)
    assert n_empty == 380
    assert np.array_equal(drawn(sample=400)[0], first)
    assert not np.array_equal(drawn(sample=400, random_state=1)[0], first)
    assert np.array_equal(drawn(sample=10**9)[0], drawn()[0])
    assert np.array_equal(np.random.get_state()[1], state)


def test_droplets_with_few_counts_are_left_out(raw, adata):
    ambient_profile(adata, raw, min_raw_counts=50)
    assert adata.uns["scar_ambient"]["droplets"]["total"].min() >= 50
    assert off(shares(adata), adata.var["ambient_profile"]) < 0.02


def test_some_cells_are_not_called(raw, adata):
    ambient_profile(adata[:100].copy(), raw)
    some = adata[:100].copy()
    ambient_profile(some, raw)
    classes = some.uns["scar_ambient"]["droplets"]["class"].to_numpy()
    assert (classes[100:150] == "other").all()
    assert off(shares(some), adata.var["ambient_profile"]) < 0.02


def test_the_largest_prob_that_works(raw, adata):
    with pytest.raises(
        ValueError, match=r"\d+ empty droplets are found in raw with prob=0\.995, fewer than 50, too"
    ) as error:
        ambient_profile(adata, raw, prob=0.995)
    assert "scar_ambient" not in adata.varm
    most = float(re.search(r"largest prob that works is (0\.\d+)", str(error.value))[1])
    with pytest.raises(ValueError, match="fewer than 50"):
        ambient_profile(adata, raw, prob=most + 2e-6)
    ambient_profile(adata, raw, prob=most)
    assert (adata.uns["scar_ambient"]["droplets"]["class"] == "empty").sum() >= 50
    assert adata.uns["scar_ambient"]["prob"].tolist() == [most]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prob": 1.2}, ValueError, r"prob=1\.2 is out of range; it must be above 0 and below 1"),
        ({"prob": 0}, ValueError, "prob=0 is out of range"),
        ({"prob": "high"}, TypeError, "prob must be a number, not 'high'"),
        ({"iterations": 0}, ValueError, "iterations=0 is too small; it must be at least 1"),
        ({"iterations": 2.5}, TypeError, r"iterations must be a whole number, not 2\.5"),
        ({"min_raw_counts": 0}, ValueError, "min_raw_counts=0 is too small"),
        ({"sample": 49}, ValueError, "sample=49 is too small; it must be at least 50"),
        ({"sample": "all"}, TypeError, "sample must be a whole number, not 'all'"),
        ({"cells_may_be_empty": "no"}, TypeError, "cells_may_be_empty must be True or False, not 'no'"),
        ({"random_state": -1}, ValueError, "random_state=-1 is too small"),
        ({"feature_type": "RNA"}, ValueError, "feature_type='RNA' is not known"),
        ({"batch_key": "bach"}, KeyError, "batch_key='bach' is not in adata.obs. Did you mean 'batch'"),
        ({"layer": "counts"}, KeyError, r"'counts' is not in raw\.layers\..* Layers: 'native'"),
        ({"key_added": "a/b"}, ValueError, "cannot name results"),
        ({"min_raw_counts": 10**5}, ValueError, "raw has only 0 droplets that are not cells"),
    ],
)
def test_wrong_options(raw, adata, unchanged, options, error, message):
    with pytest.raises(error, match=message):
        ambient_profile(adata, raw, **options)


def renamed(raw):
    raw.var["symbol"] = raw.var_names
    raw.var_names = "ENSG" + raw.var_names.str[5:]
    return raw


def repeated(raw):
    raw.var_names = ["gene_001", *raw.var_names[1:]]
    return raw


def times(factor):
    def change(raw):
        raw.X = raw.X * factor
        return raw

    return change


def logs(raw):
    raw.X = np.log1p(raw.X)
    return raw


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            renamed,
            ValueError,
            r"raw has 'ENSG000', .*, …, adata 'gene_000', .*raw\.var\['symbol'\] has names of adata: set raw\.var_names",
        ),
        (repeated, ValueError, r"the var_names of raw are not unique \('gene_001' occurs"),
        (
            lambda raw: raw[raw.obs["is_cell"]],
            ValueError,
            "all 150 droplets of raw are cells of adata: pass the raw",
        ),
        (lambda raw: raw[100:160], ValueError, "raw has 60 droplets, no more than the 150 cells of adata"),
        (lambda raw: raw[:199], ValueError, "raw has only 49 droplets that are not cells of adata, too few"),
        (times(-1), ValueError, r"raw\.X holds negative values .*; raw counts are needed"),
        (times(0.3), ValueError, r"raw\.X holds values that are not whole numbers"),
        (
            logs,
            ValueError,
            r"raw\.X holds values that are not whole .* looks log-normalised; raw counts are needed",
        ),
        (lambda raw: raw.to_df(), TypeError, "raw takes all droplets .*, not DataFrame"),
        (lambda _: 3, TypeError, "not int"),
        (lambda _: None, TypeError, "not NoneType"),
        (lambda _: "nowhere/raw.h5", FileNotFoundError, "raw='nowhere/raw.h5' does not exist"),
        (lambda raw: {"batch_0": raw}, ValueError, "raw has droplets by batch, so name the obs column"),
    ],
)
def test_wrong_raw(raw, adata, unchanged, change, error, message):
    with pytest.raises(error, match=message):
        ambient_profile(adata, change(raw))


def test_raw_is_adata(adata, unchanged):
    with pytest.raises(ValueError, match=r"raw is adata itself: pass the raw \(unfiltered\) matrix"):
        ambient_profile(adata, adata)
    with pytest.raises(ValueError, match="raw is adata itself"):
        ambient_profile(adata, {"batch_0": adata, "batch_1": adata}, batch_key="batch")


def test_wrong_batches(raw, adata, unchanged):
    parts = by_name(raw)
    with pytest.raises(
        KeyError, match=r"raw has no droplets for 'batch_1' of adata\.obs\['batch'\]; it has 'batch_0'"
    ):
        ambient_profile(adata, {"batch_0": raw}, batch_key="batch")
    second = parts["batch_1"]
    few = second[np.r_[0:75, np.flatnonzero(~second.obs["is_cell"])[:20]]]
    with pytest.raises(ValueError, match=r"raw\['batch_1'\] has only 20 droplets that are not cells"):
        ambient_profile(adata, {**parts, "batch_1": few}, batch_key="batch")
    adata.obs["lane"] = adata.obs["batch"]
    try:
        with pytest.raises(
            KeyError, match=r"raw\.obs has no 'lane', so which batch a droplet is of is not known"
        ):
            ambient_profile(adata, raw, batch_key="lane")
    finally:
        del adata.obs["lane"]


@pytest.mark.parametrize("axis", ["obs", "var"])
def test_names_in_adata_repeat(raw, adata, axis):
    names = getattr(adata, f"{axis}_names").to_list()
    setattr(adata, f"{axis}_names", [names[1], *names[1:]])
    with pytest.raises(
        ValueError, match=rf"adata\.{axis}_names are not unique \('{names[1]}' occurs more than once\)"
    ):
        ambient_profile(adata, raw)
    assert "scar_ambient" not in adata.uns


def test_a_mudata(raw, adata):
    mudata = pytest.importorskip("mudata")
    with mudata.set_options(pull_on_update=False):
        both = mudata.MuData({"rna": adata})
    with pytest.raises(
        TypeError, match="an ambient profile takes an AnnData, not a MuData: pass one of its modalities"
    ):
        ambient_profile(both, raw)


@pytest.fixture
def hgmm(real_data):
    adata = ad.read_h5ad(real_data / "ambient_hgmm_semisynthetic_filtered.h5ad")
    return adata, ad.read_h5ad(real_data / "ambient_hgmm_semisynthetic_raw.h5ad", backed="r")


def test_real_mixture(hgmm):
    adata, raw = hgmm
    sc.pp.filter_genes(adata, min_cells=20)
    ambient_profile(adata, raw)
    truth = adata.var["ambient_profile_true"]
    assert np.corrcoef(shares(adata), truth)[0, 1] > 0.998
    assert off(shares(adata), truth / truth.sum()) < 0.09
    # Cells that were not called have twenty times the counts of all empty droplets, and do no harm.
    human = adata[adata.obs["species"] == "human"].copy()
    assert adata.n_obs - human.n_obs > 700
    ambient_profile(human, raw)
    raw.file.close()
    assert np.corrcoef(shares(human), truth)[0, 1] > 0.998


def test_real_droplets_of_few_genes(real_data, said):
    adata = ad.read_h5ad(real_data / "soupx_toy_filtered.h5ad")
    raw = ad.read_h5ad(real_data / "soupx_toy_raw.h5ad")
    ambient_profile(adata, raw)
    assert "WARNING" not in said()
    droplets = adata.uns["scar_ambient"]["droplets"]
    assert (droplets["class"] == "cell").sum() == 62
    assert (droplets["class"] == "empty").sum() > 1100
    pool = np.ravel(raw[~raw.obs["is_cell"]].X.sum(0))
    assert off(shares(adata), pool / pool.sum()) < 0.05
    # Among the droplets are some with a bit of a platelet.
    platelets = raw.var_names.get_loc("PPBP")
    assert shares(adata)[platelets] < 0.2 * pool[platelets] / pool.sum()


def test_real_empty_droplets_of_proteins(real_data, said):
    adata = ad.read_h5ad(real_data / "adt_cells_dsb.h5ad")
    raw = ad.read_h5ad(real_data / "adt_empty_dsb.h5ad")
    ambient_profile(adata, raw, feature_type="ADT")
    assert said().count("no cell of adata is found in raw by name") == 1
    totals = np.ravel(raw.X.sum(1))
    usual = np.ravel(raw.X[totals < np.quantile(totals, 0.95)].sum(0))
    assert off(shares(adata), usual / usual.sum()) < 0.01
    # Not what the cells are, nor what few droplets with cells in them are.
    cells = np.ravel(adata.X.sum(0))
    assert off(shares(adata), cells / cells.sum()) > 0.3
    ambient_profile(adata, raw, feature_type="ADT", batch_key="batch")
    assert adata.varm["scar_ambient"].shape == (87, 6)
    assert np.allclose(adata.varm["scar_ambient"].sum(), 1)


def test_cells_that_are_a_view_or_in_a_file(raw, adata, tmp_path):
    ambient_profile(adata, raw)
    view = raw[raw.obs["is_cell"]]
    ambient_profile(view, raw)
    assert np.array_equal(shares(view), shares(adata))
    assert not raw.uns
    raw[raw.obs["is_cell"]].write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    ambient_profile(backed, raw)
    assert np.array_equal(shares(backed), shares(adata))
    backed.file.close()

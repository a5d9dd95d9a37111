from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scvitl
from scvitl.get import removed


@pytest.fixture(scope="module")
def _scarred():
    raw = scvitl.datasets.toy(n_cells=200, n_genes=60, n_empty_droplets=1000, random_state=1)
    adata = raw[raw.obs["is_cell"].to_numpy()].copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.remove_unused_categories()
    scvitl.tl.scar(adata, raw, batch_key="batch", n_hidden=16, n_latent=4, max_epochs=3, progress=False)
    return adata


@pytest.fixture
def scarred(_scarred):
    return _scarred.copy()


def dense(adata):
    return adata.X.toarray().astype(int), adata.layers["scar"].toarray().astype(int)


def expected(adata):
    """Ambient counts of every cell and gene that the model expects."""
    share = adata.varm["scar_ambient"][adata.obs["batch"]].to_numpy().T
    return (adata.obs["scar_noise"].to_numpy(float) * adata.X.sum(1).A1)[:, None] * share


def test_genes(scarred):
    table = removed(scarred)
    before, after = dense(scarred)
    assert list(table) == ["before", "after", "removed", "noise", "ambient"]
    assert (np.diff(table["before"] - table["after"]) <= 0).all()
    assert table.index.name == "gene"
    assert set(table.index) == set(scarred.var_names)
    table = table.loc[scarred.var_names]
    assert np.array_equal(table["before"], before.sum(0))
    assert np.array_equal(table["after"], after.sum(0))
    assert table["before"].dtype == table["after"].dtype == np.int64
    np.testing.assert_allclose(table["removed"], (before - after).sum(0) / before.sum(0))
    np.testing.assert_allclose(table["noise"], expected(scarred).sum(0) / before.sum(0), rtol=1e-5)
    np.testing.assert_allclose(table["ambient"], scarred.varm["scar_ambient"].mean(axis=1), rtol=1e-5)


def test_noise_of_genes_is_what_is_ambient(scarred):
    """Of cells and a profile that are known, as far as it is not luck."""
    native = scarred.layers["scar"] = scarred.layers["native"]
    scarred.obs["scar_noise"] = scarred.obs["ambient_fraction"]
    profile = scarred.var["ambient_profile"].to_numpy(np.float32)
    scarred.uns["scar"]["weights"]["ambient"] = np.stack([profile, profile])
    table = removed(scarred).loc[scarred.var_names]
    ambient = (scarred.X - native).toarray().sum(0)
    np.testing.assert_allclose(table["removed"], ambient / table["before"])
    off = table["noise"] * table["before"] - ambient
    assert abs(off.sum()) < 1e-2 * ambient.sum()
    assert (off.abs() < 5 * np.sqrt(ambient + 1)).all()


def test_a_marker_that_stays_where_it_belongs(scarred):
    home = (scarred.obs["cell_type"] == "type_1").to_numpy()
    before = scarred.layers["native"].toarray()
    before[:, 7] = np.where(home, 20, 2)
    after = before.copy()
    after[:, 7] = np.where(home, 19, 0)
    scarred.X, scarred.layers["scar"] = sp.csr_matrix(before), sp.csr_matrix(after)
    row = removed(scarred, groupby="cell_type").loc[scarred.var_names[7]]
    assert row["top_group"] == "type_1"
    assert row["removed_in_top"] == pytest.approx(1 / 20)
    assert row["removed_elsewhere"] == 1


def test_genes_with_groups(scarred):
    scarred.obs["group"] = scarred.obs["cell_type"].where(scarred.obs["cell_type"] != "type_3")
    before, after = dense(scarred)
    table = removed(scarred, groupby="group").loc[scarred.var_names]
    names = ["type_0", "type_1", "type_2"]
    masks = [(scarred.obs["group"] == name).to_numpy() for name in names]
    top = np.argmax([before[mask].mean(0) for mask in masks], 0)
    assert list(table["top_group"]) == [names[i] for i in top]
    assert list(table["top_group"].cat.categories) == names
    for gene, group in enumerate(top):
        inside = masks[group]
        outside = np.any(masks, 0) & ~inside
        for column, cells in {"removed_in_top": inside, "removed_elsewhere": outside}.items():
            gone = 1 - after[cells, gene].sum() / before[cells, gene].sum()
            assert table[column].iloc[gene] == pytest.approx(gone)
    pd.testing.assert_frame_equal(table.iloc[:, :5], removed(scarred).loc[scarred.var_names])


def test_one_group_has_no_elsewhere(scarred):
    scarred.obs["all"] = 1
    table = removed(scarred, groupby="all")
    assert (table["top_group"] == "1").all()
    np.testing.assert_array_equal(table["removed_in_top"], table["removed"])
    assert table["removed_elsewhere"].isna().all()


def test_cells(scarred):
    before, after = dense(scarred)
    table = removed(scarred, by="cell", groupby="cell_type")
    assert list(table) == ["before", "after", "removed", "noise", "group"]
    assert table.index.equals(scarred.obs_names)
    assert np.array_equal(table["before"], before.sum(1))
    assert np.array_equal(table["after"], after.sum(1))
    np.testing.assert_allclose(table["removed"], 1 - after.sum(1) / before.sum(1))
    np.testing.assert_array_equal(table["noise"], scarred.obs["scar_noise"].astype(float))
    assert (table["group"].astype(str) == scarred.obs["cell_type"].astype(str)).all()
    some = list(scarred.var_names[[5, 2]])
    few = removed(scarred, by="cell", genes=some)
    assert np.array_equal(few["before"], before[:, [5, 2]].sum(1))
    assert (few["removed"].isna() == (few["before"] == 0)).all()
    assert "group" not in few


def test_groups(scarred):
    before, after = dense(scarred)
    some = list(scarred.var_names[[9, 4]])
    table = removed(scarred, by="group", groupby="cell_type", genes=some)
    types = scarred.obs["cell_type"].cat.categories
    assert list(table["gene"]) == list(np.repeat(some, len(types)))
    assert list(table["group"]) == [*types, *types]
    for _, row in table.iterrows():
        cells = (scarred.obs["cell_type"] == row["group"]).to_numpy()
        gene = scarred.var_names.get_loc(row["gene"])
        was, is_ = before[cells, gene], after[cells, gene]
        assert row["n_cells"] == cells.sum()
        assert (row["mean_before"], row["mean_after"]) == pytest.approx((was.mean(), is_.mean()))
        assert (row["cells_before"], row["cells_after"]) == pytest.approx(
            ((was > 0).mean(), (is_ > 0).mean())
        )
        assert row["removed"] == pytest.approx(1 - is_.sum() / was.sum())
        assert row["noise"] == pytest.approx(expected(scarred)[cells, gene].sum() / was.sum(), rel=1e-5)


def test_all_tables_tell_of_the_same_counts(scarred):
    genes, cells = removed(scarred), removed(scarred, by="cell")
    groups = removed(scarred, by="group", groupby="batch")
    for column in ("before", "after"):
        total = genes[column].sum()
        assert cells[column].sum() == total
        assert (groups[f"mean_{column}"] * groups["n_cells"]).sum() == pytest.approx(total)
    assert genes["before"].sum() == scarred.X.sum()


def test_genes_asked_for_keep_their_order(scarred):
    some = list(scarred.var_names[[30, 2, 11]])
    table = removed(scarred, genes=some)
    assert list(table.index) == some
    pd.testing.assert_frame_equal(table, removed(scarred).loc[some])
    assert list(removed(scarred, genes=some[0]).index) == some[:1]


def test_a_gene_without_counts(scarred):
    for counts in (scarred.X, scarred.layers["scar"]):
        counts[:, 3] = 0
        counts.eliminate_zeros()
    row = removed(scarred, groupby="cell_type").loc[scarred.var_names[3]]
    assert (row["before"], row["after"]) == (0, 0)
    assert row[["removed", "noise", "top_group", "removed_in_top", "removed_elsewhere"]].isna().all()
    groups = removed(scarred, by="group", groupby="cell_type", genes=scarred.var_names[3])
    assert (groups["mean_before"] == 0).all()
    assert groups["removed"].isna().all()


def test_a_cell_that_lost_everything(scarred):
    scarred.layers["scar"] = sp.diags(np.where(np.arange(200) == 5, 0.0, 1.0)) @ scarred.layers["scar"]
    assert removed(scarred, by="cell")["removed"].iloc[5] == 1


def test_counts_come_from_where_the_model_read_them(scarred):
    expected = removed(scarred)
    scarred.layers["counts"] = scarred.X.copy()
    scarred.X = np.log1p(scarred.X)
    pd.testing.assert_frame_equal(removed(scarred), expected)
    del scarred.layers["counts"]
    with pytest.raises(ValueError, match="raw counts are needed"):
        removed(scarred)


def test_genes_and_cells_in_another_order(scarred):
    expected = removed(scarred, genes=list(scarred.var_names), groupby="cell_type")
    other = scarred[::-1, ::-1].copy()
    found = removed(other, genes=list(scarred.var_names), groupby="cell_type")
    pd.testing.assert_frame_equal(found, expected)


def test_other_features_and_another_key(scarred):
    scarred.var["feature_types"] = ["Gene Expression"] * 40 + ["Antibody Capture"] * 20
    options = {"n_hidden": 8, "n_latent": 2, "max_epochs": 1, "progress": False, "key_added": "genes"}
    profile = scarred.var["ambient_profile"].to_numpy()
    scvitl.tl.scar(scarred, ambient=profile / profile.sum(), output="generative", **options)
    table = removed(scarred, key="genes")
    assert set(table.index) == set(scarred.var_names[:40])
    np.testing.assert_allclose(table["after"], scarred[:, table.index].layers["genes"].sum(0).A1)
    cells = removed(scarred, key="genes", by="cell")
    assert np.array_equal(cells["before"], scarred.X[:, :40].sum(1).A1)


def test_counts_that_were_added(scarred):
    scarred.layers["scar"] = (2 * scarred.X).tocsr()
    assert (removed(scarred)["removed"] == -1).all()


def test_of_a_file(scarred, tmp_path):
    scarred.write_h5ad(tmp_path / "a.h5ad")
    table = removed(ad.read_h5ad(tmp_path / "a.h5ad"), groupby="cell_type")
    pd.testing.assert_frame_equal(table, removed(scarred, groupby="cell_type"))


def test_nothing_changes_and_nothing_is_densified(scarred, monkeypatch):
    before, toarray = scarred.copy(), sp.csr_matrix.toarray

    def small(self, *args, **options):
        assert self.shape != scarred.shape
        return toarray(self, *args, **options)

    monkeypatch.setattr(sp.csr_matrix, "toarray", small)
    for by in ("gene", "cell", "group"):
        removed(scarred, by=by, groupby="cell_type")
    monkeypatch.undo()
    for slot in ("obsm", "varm", "layers", "uns"):
        assert set(getattr(scarred, slot)) == set(getattr(before, slot))
    pd.testing.assert_frame_equal(scarred.obs, before.obs)
    assert (scarred.X != before.X).nnz == 0
    assert (scarred.layers["scar"] != before.layers["scar"]).nnz == 0


def test_bad_input(scarred, fitted):
    scarred.obs["none"] = pd.Categorical([None] * 200, ["a"])
    for options, error, text in (
        ({"by": "batch"}, ValueError, "by='batch' is not known. Use one of 'gene', 'cell', 'group'"),
        ({"by": "group"}, ValueError, "by='group' needs groups: name a column of obs with groupby"),
        ({"groupby": "cel_type"}, KeyError, "Did you mean 'cell_type'"),
        ({"groupby": "library"}, ValueError, r"obs\['library'\] holds numbers: name a column of groups"),
        ({"groupby": "none"}, ValueError, r"no cell has a group in adata\.obs\['none'\]"),
        ({"genes": ["gene_1", "LYZ"]}, KeyError, "not among the genes of the model"),
        ({"genes": []}, ValueError, "genes is empty"),
        ({"key": "scvi"}, KeyError, r"no fitted model in adata\.uns\['scvi'\].*Models here: 'scar'"),
    ):
        with pytest.raises(error, match=text):
            removed(scarred, **options)
    with pytest.raises(
        ValueError, match=r"the model in uns\['scvi'\] is scVI, which does not tell ambient counts"
    ):
        removed(fitted, key="scvi")
    with pytest.raises(ValueError, match="3 of the 60 genes of the model are not in"):
        removed(scarred[:, 3:].copy())


def test_what_the_model_wrote_is_gone_or_changed(scarred):
    counts = scarred.layers.pop("scar")
    with pytest.raises(KeyError, match=r"adata\.layers\['scar'\], which scvitl\.tl\.scar wrote, is gone"):
        removed(scarred)
    scarred.layers["scar"] = np.log1p(counts)
    with pytest.raises(ValueError, match=r"adata\.layers\['scar'\] holds values that are not whole numbers"):
        removed(scarred)
    scarred.layers["scar"] = counts
    del scarred.obs["scar_noise"]
    with pytest.raises(KeyError, match=r"adata\.obs\['scar_noise'\], which scvitl\.tl\.scar wrote, is gone"):
        removed(scarred)

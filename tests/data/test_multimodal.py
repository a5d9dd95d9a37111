from __future__ import annotations

import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scvitl.data import multimodal
from scvitl.data.multimodal import as_read, copied, is_mudata, joined, make_actual, place, reading, variables
from scvitl.data.proteins import Proteins

mudata = pytest.importorskip("mudata")

KEY = "protein_expression"
MODALITIES = ("rna", "prot")
CELLS = [f"cell_{i}" for i in range(8)]
PROTEINS = Proteins(KEY, ("CD3", "CD4"), None, ((True, True),), ((True, True),), modalities=MODALITIES)


@pytest.fixture(autouse=True)
def _options():
    with mudata.set_options(pull_on_update=False):
        yield


def parts(order=slice(None)):
    """An AnnData of genes and one of proteins, the latter with the cells in this order."""
    rng = np.random.default_rng(0)
    genes = ad.AnnData(
        sp.csr_matrix(rng.poisson(2.0, (8, 5)), dtype=np.float32),
        pd.DataFrame({"batch": pd.Categorical(list("abababab")), "depth": np.arange(8.0)}, CELLS),
        pd.DataFrame({"symbol": list("VWXYZ")}, [f"gene_{i}" for i in range(5)]),
        layers={"spliced": sp.csr_matrix(rng.poisson(1.0, (8, 5)), dtype=np.float32)},
    )
    proteins = ad.AnnData(
        rng.poisson(9.0, (8, 2)).astype(np.float32),
        pd.DataFrame(index=CELLS),
        pd.DataFrame(index=["CD3", "CD4"]),
    )
    return genes, proteins[order].copy()


def both(order=slice(None), names=MODALITIES):
    return mudata.MuData(dict(zip(names, parts(order), strict=True)))


def test_a_mudata_is_known_without_importing_mudata():
    code = "import anndata, scvitl, sys; from scvitl.data.multimodal import is_mudata; is_mudata(anndata.AnnData()); assert 'mudata' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert is_mudata(both())
    assert is_mudata(both()[:3])
    assert is_mudata(type("Mine", (mudata.MuData,), {})({"rna": parts()[0]}))
    for other in (parts()[0], None, mudata, pd.DataFrame()):
        assert not is_mudata(other)


def test_an_anndata_stays_as_it_is():
    adata = parts()[0]
    assert joined(adata, MODALITIES, KEY) is adata
    assert as_read(adata, PROTEINS) is adata
    assert copied(adata) is not adata
    assert place(adata, "layers", PROTEINS) == (adata, None)


def test_memory_is_shared():
    mdata = both()
    mdata.obsm["X_pca"] = np.ones((8, 2))
    cells = joined(mdata, MODALITIES, KEY)
    assert cells.X is mdata["rna"].X
    assert np.shares_memory(cells.layers["spliced"].data, mdata["rna"].layers["spliced"].data)
    assert np.shares_memory(cells.obsm[KEY].to_numpy(), mdata["prot"].X)
    assert np.shares_memory(cells.obsm["X_pca"], mdata.obsm["X_pca"])
    assert set(cells.obsm) == {"X_pca", KEY}
    assert cells.obsm[KEY].columns.tolist() == ["CD3", "CD4"]
    assert cells.var["symbol"].tolist() == list("VWXYZ")


def test_cells_come_in_the_order_of_the_whole():
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    straight, mixed = joined(both(), MODALITIES, KEY), joined(both(order), MODALITIES, KEY)
    assert mixed.obs_names.tolist() == CELLS
    pd.testing.assert_frame_equal(mixed.obsm[KEY], straight.obsm[KEY])
    genes, proteins = parts(order)
    turned = mudata.MuData({"prot": proteins, "rna": genes})
    assert turned.obs_names.tolist() != CELLS
    cells = joined(turned, MODALITIES, KEY)
    assert cells.obs_names.equals(turned.obs_names)
    for matrix, whole in ((cells.X, straight.X), (cells.layers["spliced"], straight.layers["spliced"])):
        assert (matrix != whole[straight.obs_names.get_indexer(cells.obs_names)]).nnz == 0
    pd.testing.assert_frame_equal(cells.obsm[KEY], straight.obsm[KEY].loc[cells.obs_names])
    assert cells.obs["depth"].tolist() == [float(name[-1]) for name in cells.obs_names]


def test_columns_of_the_whole_win():
    mdata = both()
    mdata.obs["donor"] = "one"
    mdata.obs["depth"] = -1.0
    cells = joined(mdata, MODALITIES, KEY)
    assert cells.obs.columns.tolist() == ["donor", "depth", "batch"]
    assert (cells.obs["depth"] == -1).all()
    assert cells.obs["batch"].tolist() == list("abababab")


def test_pulled_columns_are_there_by_both_names():
    with mudata.set_options(pull_on_update=True):
        mdata = both()
    assert "rna:batch" in mdata.obs
    cells = joined(mdata, MODALITIES, KEY)
    assert cells.obs["rna:batch"].astype(str).tolist() == cells.obs["batch"].astype(str).tolist()


@pytest.mark.parametrize("convert", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, np.asarray])
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_formats_of_the_proteins(convert, order):
    genes, proteins = parts(order)
    expected = proteins.to_df().loc[CELLS]
    proteins.X = convert(proteins.X)
    mdata = mudata.MuData({"rna": genes, "prot": proteins})
    pd.testing.assert_frame_equal(
        joined(mdata, MODALITIES, KEY).obsm[KEY], expected, check_names=False, check_flags=False
    )


def test_counts_in_a_layer_are_taken_where_x_holds_none():
    mdata = both()
    counts = mdata["prot"].X.copy()
    mdata["prot"].layers["counts"] = counts + 1
    assert np.array_equal(joined(mdata, MODALITIES, KEY).obsm[KEY], counts)
    for x in (np.log1p(counts), None):
        mdata["prot"].X = x
        table = joined(mdata, MODALITIES, KEY).obsm[KEY]
        assert np.array_equal(table, counts + 1)
        assert table.attrs["where"] == "mdata['prot'].layers['counts']"


def test_views_and_files(tmp_path):
    mdata = both(slice(None, None, -1))
    whole = joined(mdata, MODALITIES, KEY)
    some = joined(mdata[[6, 1, 3]], MODALITIES, KEY)
    pd.testing.assert_frame_equal(some.obsm[KEY], whole.obsm[KEY].iloc[[6, 1, 3]])
    assert (whole.X[[6, 1, 3]] != some.X).nnz == 0
    assert some.obs["depth"].tolist() == [6, 1, 3]
    mdata.write(tmp_path / "m.h5mu")
    backed = mudata.read_h5mu(tmp_path / "m.h5mu", backed="r")
    assert (joined(backed, MODALITIES, KEY).X != whole.X).nnz == 0
    pd.testing.assert_frame_equal(joined(backed, MODALITIES, KEY).obsm[KEY], whole.obsm[KEY])
    assert reading(backed) == "mdata = mudata.read_h5mu(path)"
    assert reading(whole) == "adata = adata.to_memory()"
    backed.file.close()


def test_where_results_go():
    genes, proteins = parts(slice(None, None, -1))
    mdata = mudata.MuData({"prot": proteins, "rna": genes})
    for slot in ("obs", "obsm", "uns"):
        assert place(mdata, slot, PROTEINS) == (mdata, None)
    assert place(mdata, "varm", PROTEINS) == (genes, None)
    found, order = place(mdata, "layers", None)
    assert found is genes
    assert mdata.obs_names[order].equals(genes.obs_names)
    named = Proteins(KEY, (), None, (), (), modalities=("prot", "rna"))
    assert place(mdata, "layers", named) == (proteins, None)


def test_a_view_becomes_an_object_of_its_own():
    mdata = both()
    view = mdata[:3]
    with mudata.set_options(pull_on_update=None):  # of which mudata warns
        make_actual(view)
        assert copied(mdata).obs_names.equals(mdata.obs_names)
    assert not view.is_view
    assert not view["rna"].is_view
    assert view.obs_names.tolist() == CELLS[:3]
    view.obs["new"] = 1
    view["rna"].layers["new"] = view["rna"].X
    assert "new" not in mdata.obs
    assert "new" not in mdata["rna"].layers
    make_actual(mdata["rna"][:3])


def test_tables_of_variables():
    mdata = both()
    assert [len(var) for var in variables(mdata)] == [5, 2]
    assert variables(mdata["rna"])[0] is mdata["rna"].var


@pytest.mark.parametrize(
    ("names", "wanted", "text"),
    [
        (("rna", "adt"), MODALITIES, r"no modality 'prot'. Is it 'adt'\? Then modalities=\('rna', 'adt'\). There are 'rna', 'adt'"),
        (("gex", "prot"), MODALITIES, r"no modality 'rna'. Is it 'gex'\? Then modalities=\('gex', 'prot'\)"),
        (("gex", "adt"), MODALITIES, r"no modality 'rna' and no 'prot'. There are 'gex', 'adt'. scvitl.tl.totalvi takes the names"),
        (MODALITIES, ("RNA", "prot"), "Is it 'rna'"),
    ],
)  # fmt: skip
def test_modalities_that_are_not_there(names, wanted, text):
    with pytest.raises(KeyError, match=text):
        joined(both(names=names), wanted, KEY)


@pytest.mark.parametrize("wrong", ["rna", ("rna",), ("rna", "rna"), ("a", "b", "c")])
def test_modalities_that_are_no_pair(wrong):
    with pytest.raises(
        TypeError, match=r"modalities takes two names, of genes and of proteins, such as \('rna', 'prot'\)"
    ):
        joined(both(), wrong, KEY)


def test_cells_that_lack_a_modality():
    genes, proteins = parts()
    mdata = mudata.MuData({"rna": genes[:6].copy(), "prot": proteins[1:].copy()})
    with pytest.raises(ValueError, match="2 of 8 cells are not in 'rna'") as caught:
        joined(mdata, MODALITIES, KEY)
    text = str(caught.value)
    assert "(such as 'cell_6') and 1 of 8 cells are not in 'prot' (such as 'cell_0')" in text
    assert "muon.pp.intersect_obs(mdata)" in text
    # the other remedy does what it says
    assert "mdata = mdata[mdata['rna'].obs_names.intersection(mdata['prot'].obs_names)].copy()" in text
    mdata = mdata[mdata["rna"].obs_names.intersection(mdata["prot"].obs_names)].copy()
    assert joined(mdata, MODALITIES, KEY).obs_names.tolist() == CELLS[1:6]


def test_a_mudata_that_is_behind_its_modalities():
    mdata = both()
    mdata.mod["prot"] = mdata["prot"][:5].copy()
    with pytest.raises(ValueError, match="3 of 8 cells are not in 'prot'"):
        joined(mdata, MODALITIES, KEY)
    genes, proteins = parts()
    mdata = mudata.MuData({"rna": genes[:5].copy(), "prot": proteins[:5].copy()})
    mdata.mod["rna"] = genes
    with pytest.raises(
        ValueError, match=r"mdata\['rna'\] has 3 cells that mdata.obs_names lacks: run mdata.update\(\) first"
    ):
        joined(mdata, MODALITIES, KEY)


def test_proteins_without_a_matrix():
    mdata = both()
    mdata["prot"].X = None
    with pytest.raises(ValueError, match=r"mdata\['prot'\].X is empty, and there is no layer 'counts'"):
        joined(mdata, MODALITIES, KEY)


@pytest.mark.filterwarnings(
    "ignore:Duplicated obs_names", "ignore:obs_names are not unique", "ignore:Observation names"
)
def test_names_that_repeat():
    genes, proteins = parts()
    genes.obs_names = proteins.obs_names = ["same", *CELLS[:6], "same"]
    mdata = mudata.MuData({"rna": genes, "prot": proteins})
    with pytest.raises(ValueError, match="are not unique"):
        joined(mdata, MODALITIES, KEY)


def test_models_of_genes_alone():
    with pytest.raises(
        TypeError, match=r"the model has no proteins, so it takes an AnnData, not a MuData: .*mdata\['rna'\]"
    ):
        as_read(both(), None)
    unnamed = Proteins(KEY, (), None, (), ())
    assert as_read(both(), unnamed).shape == (8, 5)
    assert multimodal.MODALITIES == MODALITIES

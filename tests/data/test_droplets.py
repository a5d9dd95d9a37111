from __future__ import annotations

import tracemalloc

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scvitl.data.droplets import BLOCK, ROWS, droplets

GENES = pd.Index(["a", "b", "c"])
DENSE = np.array([[5, 0, 2], [0, 0, 1], [1, 1, 0], [0, 0, 0], [0, 3, 1]])
NAMES = ["cell", "one", "two", "none", "four"]


def make(x=DENSE, names=NAMES, genes=GENES, **layers):
    x = sp.csr_matrix(x, dtype=np.float32) if isinstance(x, np.ndarray) and x is DENSE else x
    return ad.AnnData(
        x, pd.DataFrame(index=pd.Index(names)), pd.DataFrame(index=pd.Index(genes)), layers=layers
    )


def read(raw, genes=GENES, cells=("cell",), rows=slice(None), layer=None, min_counts=2):
    return droplets(raw, rows, pd.Index(genes), pd.Index(cells), layer=layer, min_counts=min_counts)


def test_droplets_with_enough_counts():
    found = read(make())
    assert np.array_equal(found.counts.toarray(), DENSE[[0, 2, 4]])
    assert found.counts.dtype == np.float32
    assert found.is_cell.tolist() == [True, False, False]
    assert found.n_shared == 3
    assert found.lost.empty
    assert read(make(), min_counts=1).counts.shape == (4, 3)
    assert np.array_equal(read(make(), rows=np.array([0, 4])).counts.toarray(), DENSE[[0, 4]])


def test_counts_are_those_of_the_genes_of_the_cells():
    assert np.array_equal(read(make(), ["c", "a"]).counts.toarray(), [[2, 5], [1, 0]][:1])
    assert np.array_equal(
        read(make(), ["c", "a"], min_counts=1).counts.toarray(), DENSE[[0, 1, 2, 4]][:, [2, 0]]
    )


def test_genes_that_were_not_measured(said):
    found = read(make(), ["x", "c", "y", "b"])
    assert np.array_equal(found.counts.toarray(), [[0, 2, 0, 0], [0, 1, 0, 3]])
    assert found.n_shared == 2
    assert "2 of the 4 genes of adata are not in raw (such as 'x') and count as never ambient" in said()


@pytest.mark.parametrize(
    "form",
    [sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array, np.asarray, lambda x: x.astype(np.int64)],
    ids=["csr", "csc", "csr array", "csc array", "dense", "integers"],
)
def test_forms_of_the_matrix(form):
    x = form(DENSE.astype(np.float32))
    before = x.copy()
    raw = make(x)
    for part in (raw, raw[::-1][:, ::-1]):
        assert np.array_equal(np.sort(read(part).counts.toarray(), 0), np.sort(DENSE[[0, 2, 4]], 0))
    assert raw.X is x
    assert (before != x).sum() == 0


def test_entries_that_are_stored_twice():
    counts = sp.csr_matrix((np.ones(9), [0, 0, 2, 1, 1, 1, 2, 0, 0], [0, 3, 6, 9, 9, 9]), shape=(5, 3))
    found = read(make(counts)).counts
    assert np.array_equal(found.toarray(), [[2, 0, 1], [0, 3, 0], [2, 0, 1]])
    assert found.data.max() == 3
    assert counts.nnz == 9


@pytest.mark.parametrize("dense", [False, True])
def test_many_droplets_are_read_in_parts(dense):
    rng = np.random.default_rng(0)
    n_genes = 3 if not dense else BLOCK // 100
    n = 2 * ROWS + 7 if not dense else 130
    counts = sp.random(n, n_genes, density=min(1, 900 / (n * n_genes)), format="csr", rng=rng)
    counts.data[:] = rng.integers(1, 9, len(counts.data))
    names, genes = [f"d{i}" for i in range(n)], [f"g{i}" for i in range(n_genes)]
    raw = make(counts.toarray() if dense else counts, names, genes)
    totals = np.ravel(counts.sum(1))
    cells = [names[i] for i in np.flatnonzero(totals >= 5)[[0, -1]]]
    found = read(raw, genes, cells, min_counts=5)
    assert (found.counts != counts[totals >= 5].astype(np.float32)).nnz == 0
    assert found.is_cell.nonzero()[0].tolist() == [0, found.counts.shape[0] - 1]
    rows = np.flatnonzero(np.arange(n) % 2)
    if len(rows) > len(cells):
        found = read(raw, genes, cells, rows=rows, min_counts=5)
        assert (found.counts != counts[rows[totals[rows] >= 5]].astype(np.float32)).nnz == 0


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_backed(tmp_path, form):
    x = DENSE.astype(np.float32)
    make(x if form == "dense" else sp.csr_matrix(x).asformat(form)).write_h5ad(tmp_path / "raw.h5ad")
    backed = ad.read_h5ad(tmp_path / "raw.h5ad", backed="r")
    assert np.array_equal(read(backed, ["c", "a", "b"]).counts.toarray(), DENSE[[0, 2, 4]][:, [2, 0, 1]])
    assert np.array_equal(read(backed, rows=np.array([0, 2, 3])).counts.toarray(), DENSE[[0, 2]])
    assert np.array_equal(read(backed[:4]).counts.toarray(), DENSE[[0, 2]])
    assert backed.file.is_open
    backed.file.close()


def test_memory():
    n, n_genes, per_droplet = 20_000, 20_000, 20
    rng = np.random.default_rng(0)
    indices = rng.integers(n_genes, size=n * per_droplet, dtype=np.int32)
    indptr = np.arange(n + 1, dtype=np.int32) * per_droplet
    counts = sp.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(n, n_genes))
    raw = make(counts, [f"d{i}" for i in range(n)], [f"g{i}" for i in range(n_genes)])
    tracemalloc.start()
    found = read(raw, raw.var_names, raw.obs_names[:100])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.counts.sum() == counts.sum()
    assert peak < 40e6
    assert peak < n * n_genes * 4 / 40


def test_layers():
    raw = make(np.log1p(DENSE), counts=sp.csr_matrix(DENSE), spliced=DENSE[:, ::-1].copy())
    assert np.array_equal(read(raw).counts.toarray(), DENSE[[0, 2, 4]])
    assert np.array_equal(read(raw, layer="spliced").counts.toarray(), DENSE[[0, 2, 4], ::-1])
    raw = make()
    raw.layers["counts"] = raw.X * 2
    assert np.array_equal(read(raw).counts.toarray(), DENSE[[0, 2, 4]])
    raw.X = None
    assert np.array_equal(read(raw).counts.toarray(), 2 * DENSE[[0, 1, 2, 4]])
    with pytest.raises(
        KeyError, match=r"'count' is not in raw\.layers\. Did you mean 'counts'\? Layers: 'counts'"
    ):
        read(raw, layer="count")
    del raw.layers["counts"]
    with pytest.raises(ValueError, match=r"raw\.X is empty: raw counts are needed\. Layers: none"):
        read(raw)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            np.log1p(DENSE),
            r"raw\.X holds values that are not whole .* looks log-normalised; raw counts are needed",
        ),
        (-DENSE, r"raw\.X holds negative values \(smallest -5\)"),
        (np.where(DENSE == 3, np.nan, DENSE), r"raw\.X holds NaN or infinite"),
        (sp.csr_matrix(DENSE * 1.5), r"raw\.X holds values that are not whole numbers \(such as 7\.5\)"),
    ],
)
def test_not_counts(x, message):
    with pytest.raises(ValueError, match=message):
        read(make(x))


def test_no_gene_in_common():
    raw = make(genes=["ENSG1", "ENSG2", "ENSG3"])
    with pytest.raises(
        ValueError, match="raw has 'ENSG1', 'ENSG2', 'ENSG3', …, adata 'a', 'b', 'c', …"
    ) as error:
        read(raw)
    assert str(error.value).endswith("….")
    raw.var["length"] = [1, 2, 3]
    raw.var["gene_symbols"] = pd.Categorical(["a", "b", "z"])
    hint = r"raw\.var\['gene_symbols'\] has names of adata: set raw\.var_names = raw\.var\['gene_symbols'\]"
    with pytest.raises(ValueError, match=hint):
        read(raw)


def test_names_of_genes_repeat():
    raw = make()
    raw.var_names = ["a", "b", "a"]
    message = (
        r"var_names of raw are not unique \('a' occurs more than once\)\. Run raw\.var_names_make_unique"
    )
    with pytest.raises(ValueError, match=message):
        read(raw)


def test_names_of_droplets_may_repeat():
    raw = make(counts=sp.csr_matrix(DENSE))
    raw.obs_names = ["cell", "one", "cell", "two", "one"]
    assert read(raw).is_cell.tolist() == [True, True, False]


def test_every_droplet_is_a_cell():
    with pytest.raises(
        ValueError, match=r"all 5 droplets of raw are cells of adata: pass the raw \(unfiltered\)"
    ):
        read(make(), cells=[*NAMES, "more"])


def test_fewer_droplets_than_cells():
    with pytest.raises(
        ValueError, match=r"raw has 5 droplets, no more than the 6 cells of adata: .*matrix\.$"
    ):
        read(make(), cells=["cell", *"abcde"])
    with pytest.raises(
        ValueError, match=r"If all of them are empty.*ambient=pd\.Series\(np\.ravel\(raw\.X\.sum"
    ):
        read(make(), cells=list("abcde"))


def test_cells_by_barcode(said):
    names = ["AAACCTGA-1", "AAACCTGC-1", "AAACCTGG-1", "control", "another"]
    found = read(make(names=names), cells=["first_AAACCTGA-1-b0", "first_AAACCTGC-1-b0"], min_counts=1)
    assert found.is_cell.tolist() == [True, True, False, False]
    assert found.lost.empty
    assert "cells are found in raw by their barcodes, such as 'first_AAACCTGA-1-b0' by 'AAACCTGA'" in said()


def test_barcodes_are_not_trusted_where_they_are_of_other_samples():
    names = [f"{code}-1" for code in ("AAACCTGA", "AAACCTGC", "AAACCTGG", "AAACCTGT", "AAACCTTA")]
    cells = ["AAACCTGA-2", "CCCCCCCC-2", "CCCCCCCG-2"]
    found = read(make(names=names), cells=cells)
    assert not found.is_cell.any()
    assert found.lost.tolist() == cells
    twice = [*names[:4], "AAACCTGA-0"]
    assert not read(make(names=twice), cells=["AAACCTGA-2"]).is_cell.any()


def test_filtered_by_the_look_of_it(said):
    read(make(), cells=["cell", "one", "two"])
    assert (
        "raw has 5 droplets for 3 cells, where an unfiltered matrix has many times as many: is it filt"
        in said()
    )

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scvitl.data import find_counts, locate

DENSE = np.array([[1, 0, 2], [0, 3, 0], [4, 0, 300]])

FORMATS = {
    "csr": sp.csr_matrix,
    "csr_array": sp.csr_array,
    "csc": sp.csc_matrix,
    "csc_array": sp.csc_array,
    "dense": np.array,
    "matrix": np.asmatrix,
}


def make(x=DENSE, **layers):
    adata = ad.AnnData(sp.csr_matrix(x) if isinstance(x, np.ndarray) else x, layers=layers)
    adata.obs_names, adata.var_names = list("abc"), list("xyz")
    return adata


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("form", FORMATS)
# anndata turns np.matrix into an array and says so
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.filterwarnings("ignore:Layer 'counts' should not be a np.matrix")
def test_formats(form, dtype):
    values = np.minimum(DENSE, 200).astype(dtype)
    adata = make()
    adata.layers["counts"] = FORMATS[form](values)
    counts = find_counts(adata, "counts")
    assert isinstance(counts, sp.csr_matrix)
    assert counts.dtype == np.float32
    assert np.array_equal(counts.toarray(), values)


def test_coo_and_unsorted_duplicates():
    coo = sp.coo_matrix((np.ones(4), ([0, 0, 1, 2], [1, 1, 0, 2])), shape=(3, 3))
    counts = find_counts(type("Any", (), {"X": coo, "layers": {}, "raw": None, "obs_names": list("abc")})())
    assert np.array_equal(counts.toarray(), coo.toarray())
    twice = sp.csr_matrix((np.ones(4), np.array([1, 1, 0, 2]), np.array([0, 2, 3, 4])), shape=(3, 3))
    assert not twice.has_canonical_format
    data = twice.data.copy()
    assert find_counts(make(twice))[0, 1] == 2
    assert np.array_equal(twice.data, data), "the caller's matrix was changed"


def test_float32_csr_is_not_copied():
    adata = make(sp.csr_matrix(DENSE.astype(np.float32)))
    assert np.shares_memory(find_counts(adata).data, adata.X.data)


def test_view_and_backed(tmp_path):
    adata = make()
    assert np.array_equal(find_counts(adata[[2, 0], [2, 0]]).toarray(), [[300, 4], [2, 1]])
    assert np.array_equal(find_counts(adata[[2, 0]]).toarray(), DENSE[[2, 0]])
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert np.array_equal(find_counts(backed).toarray(), DENSE)
    backed.file.close()
    dense = ad.AnnData(DENSE.astype(float))
    dense.write_h5ad(tmp_path / "b.h5ad")
    backed = ad.read_h5ad(tmp_path / "b.h5ad", backed="r")
    assert np.array_equal(find_counts(backed).toarray(), DENSE)
    backed.file.close()


def test_x_before_the_counts_layer():
    adata = make(counts=sp.csr_matrix(DENSE + 1))
    assert np.array_equal(find_counts(adata).toarray(), DENSE)


def test_counts_layer_where_x_is_normalised():
    adata = make(np.log1p(DENSE), counts=sp.csr_matrix(DENSE))
    assert locate(adata, None) == "counts"
    assert np.array_equal(find_counts(adata).toarray(), DENSE)
    adata.layers["counts"] = np.log1p(DENSE)
    assert locate(adata, None) is None


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            np.log1p(DENSE),
            r"adata\.X holds values that are not whole numbers \(such as 0\.6931472\) and looks log-norm",
        ),
        (DENSE * 1000.5, r"not whole numbers \(such as 1000\.5\); raw"),
        (-DENSE, r"negative values \(smallest -300\)"),
        (np.where(DENSE == 3, np.nan, DENSE), "NaN or infinite"),
        (np.where(DENSE == 3, np.inf, DENSE), "NaN or infinite"),
    ],
    ids=["log", "floats", "negative", "nan", "inf"],
)
def test_not_counts(x, message):
    with pytest.raises(ValueError, match=message) as error:
        find_counts(make(x))
    assert "adata.layers['counts'] = adata.X.copy()" in str(error.value)


def test_the_error_names_what_holds_counts():
    adata = make(np.log1p(DENSE), spliced=sp.csr_matrix(DENSE), scaled=np.log1p(DENSE))
    with pytest.raises(ValueError, match=r"fit with layer='spliced'"):
        find_counts(adata)
    adata = make(scaled=np.log1p(DENSE))
    with pytest.raises(
        ValueError, match=r"layers\['scaled'\] holds .* adata\.X holds counts: leave layer out"
    ):
        find_counts(adata, "scaled")
    adata = make()
    adata.raw = adata.copy()
    adata.X = np.log1p(adata.X)
    with pytest.raises(ValueError, match=r"adata\.raw holds counts"):
        find_counts(adata)


def test_missing_layer():
    with pytest.raises(
        KeyError, match=r"'count' is not in adata\.layers\. Did you mean 'counts'\? Layers: 'counts'"
    ):
        find_counts(make(counts=sp.csr_matrix(DENSE)), "count")


def test_no_x():
    adata = make()
    adata.X = None
    with pytest.raises(ValueError, match=r"adata\.X is empty; pass layer="):
        find_counts(adata)


def test_cells_without_counts():
    x = DENSE.copy()
    x[1] = 0
    with pytest.raises(ValueError, match=r"1 cell has no counts .* \('b'\).*Drop") as error:
        find_counts(make(x))
    assert "adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()" in str(error.value)


def test_values_need_not_be_whole_for_a_normal():
    assert find_counts(make(np.log1p(DENSE)), whole=False)[0, 0] == pytest.approx(np.log(2))

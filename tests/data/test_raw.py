from __future__ import annotations

import gzip
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from scvitl.data import Category
from scvitl.data.raw import by_batch, opened

BATCH = Category("batch", ("a", "b"))


def make(n=6) -> ad.AnnData:
    counts = np.random.default_rng(0).poisson(1, (n, 4)).astype(np.float32)
    obs = pd.DataFrame({"batch": np.resize(["b", "a", "c"], n)}, [f"d{i}" for i in range(n)])
    var = pd.DataFrame({"gene_ids": list("wxyz")}, ["A", "B", "C", "B-1"])
    return ad.AnnData(sp.csr_matrix(counts), obs, var)


def names(raw):
    """Names as they are in the files of 10x Genomics, where they need not be unique."""
    return [name.removesuffix("-1") for name in raw.var_names]


def h5ad(raw, folder):
    raw.write_h5ad(folder / "raw.h5ad")
    return folder / "raw.h5ad"


def h5(raw, folder):
    return h5ad(raw, folder).rename(folder / "raw.h5")


def tenx(raw, folder):
    """As Cell Ranger 3 writes it."""
    columns = {
        "id": raw.var["gene_ids"],
        "name": names(raw),
        "feature_type": ["Gene Expression"] * raw.n_vars,
    }
    with h5py.File(folder / "raw_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = raw.obs_names.to_numpy("S")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(raw.X, name).astype(np.int32)
        group["shape"] = np.array(raw.shape[::-1], np.int32)
        features = group.create_group("features")
        for name, values in columns.items():
            features[name] = np.array(values, "S")
        features["genome"] = np.array(["GRCh38"] * raw.n_vars, "S")
        features["_all_tag_keys"] = np.array(["genome"], "S")
    return folder / "raw_feature_bc_matrix.h5"


def mtx(raw, folder):
    folder = folder / "raw_feature_bc_matrix"
    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        scipy.io.mmwrite(file, sp.coo_matrix(raw.X.T.astype(int)))
    features = zip(raw.var["gene_ids"], names(raw), ["Gene Expression"] * raw.n_vars, strict=True)
    texts = {"features": ["\t".join(line) for line in features], "barcodes": raw.obs_names}
    for name, lines in texts.items():
        with gzip.open(folder / f"{name}.tsv.gz", "wt") as file:
            file.writelines(f"{line}\n" for line in lines)
    return folder


@pytest.mark.parametrize("write", [h5ad, h5, tenx, mtx])
@pytest.mark.parametrize("kind", [str, Path])
def test_files(tmp_path, write, kind):
    raw = make()
    with opened(kind(write(raw, tmp_path))) as found:
        assert np.array_equal(
            found.to_memory().X.toarray() if found.isbacked else found.X.toarray(), raw.X.toarray()
        )
        assert found.obs_names.equals(raw.obs_names)
        assert found.var_names.equals(raw.var_names)
        assert found.isbacked == (write in {h5ad, h5})


def test_an_anndata_as_it_is(tmp_path):
    raw = make()
    with opened(raw) as found:
        assert found is raw
    backed = ad.read_h5ad(h5ad(raw, tmp_path), backed="r")
    with opened(backed) as found:
        assert found is backed
    assert backed.file.is_open
    backed.file.close()


def test_files_are_closed(tmp_path):
    path = h5ad(make(), tmp_path)
    with opened(path) as found:
        pass
    assert not found.file.is_open
    with pytest.raises(RuntimeError, match="mishap"), opened(path) as found:
        raise RuntimeError(found.filename, "mishap")
    assert not found.file.is_open
    parts = by_batch({"a": path, "b": path}, BATCH)
    _, first, _ = next(parts)
    _, second, _ = next(parts)
    assert [first.file.is_open, second.file.is_open] == [False, True]
    parts.close()
    assert not second.file.is_open


def test_one_matrix():
    raw = make()
    assert list(by_batch(raw, None)) == [("raw", raw, slice(None))]


@pytest.mark.parametrize("column", ["text", "categories"])
def test_batches_in_a_column(column):
    raw = make()
    if column == "categories":
        raw.obs["batch"] = pd.Categorical(raw.obs["batch"].replace({"c": None}), ["b", "a", "unused"])
    (one, first, at), (two, second, there) = by_batch(raw, BATCH)
    assert first is second is raw
    assert [one, two] == ["'a' of raw", "'b' of raw"]
    assert at.tolist() == [1, 4]
    assert there.tolist() == [0, 3]


def test_batches_that_are_numbers():
    raw = make()
    raw.obs["batch"] = [1.0, 2, 1, 2, np.nan, 1]
    (_, _, at), (_, _, there) = by_batch(raw, Category("batch", ("1", "2")))
    assert [at.tolist(), there.tolist()] == [[0, 2, 5], [1, 3]]


def test_batches_by_name(tmp_path):
    one, two = make(), make()
    (first, a, rows), (second, b, _) = by_batch({"b": two, "a": one, "more": "nowhere"}, BATCH)
    assert [first, second] == ["raw['a']", "raw['b']"]
    assert a is one
    assert b is two
    assert rows == slice(None)
    assert len(list(by_batch({1: one, 2: h5ad(two, tmp_path)}, Category("batch", ("1", "2"))))) == 2


@pytest.mark.parametrize(
    ("raw", "batch", "error", "message"),
    [
        (
            pd.DataFrame(),
            None,
            TypeError,
            r"raw takes all droplets .*as AnnData or as path.*, not DataFrame\.",
        ),
        (3, None, TypeError, "not int"),
        (None, BATCH, TypeError, "not NoneType"),
        (
            "nowhere.h5",
            None,
            FileNotFoundError,
            r"raw='nowhere\.h5' does not exist: pass the raw \(unfiltered\) matrix",
        ),
        (
            {"a": make()},
            None,
            ValueError,
            "raw has droplets by batch, so name the obs column of the batches with batch_k",
        ),
        (
            {"a": make(), "d": make()},
            BATCH,
            KeyError,
            r"raw has no droplets for 'b' of adata\.obs\['batch'\]; it has 'a', 'd'",
        ),
        ({}, BATCH, KeyError, r"raw has no droplets for 'a', 'b' of .*; it has none"),
        ({"a": make(), "b": 3}, BATCH, TypeError, r"raw\['b'\] takes all droplets .*not int"),
        (
            {"a": make(), "b": Path("nowhere")},
            BATCH,
            FileNotFoundError,
            r"raw\['b'\]='nowhere' does not exist",
        ),
        (
            make(),
            Category("lane", ("a", "b")),
            KeyError,
            r"raw\.obs has no 'lane', so which .*by batch, raw=\{'a': …\}",
        ),
        (
            make(),
            Category("batch", ("a", "z")),
            KeyError,
            r"raw\.obs\['batch'\] has no droplets of 'z'; it has 'b', 'a', 'c'",
        ),
    ],
)
def test_wrong(raw, batch, error, message):
    with pytest.raises(error, match=message):
        next(by_batch(raw, batch))


def test_a_modality_of_a_mudata():
    mudata = pytest.importorskip("mudata")
    with mudata.set_options(pull_on_update=False):
        raw = mudata.MuData({"rna": make()})
    with pytest.raises(TypeError, match=r"not MuData: pass a modality of it, such as raw\['rna'\]"):
        next(by_batch(raw, None))


@pytest.mark.parametrize("name", ["raw.csv", "folder", "matrix.mtx.gz"])
def test_other_files(tmp_path, name):
    (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).write_text("")
    message = r"is no \.h5 or \.h5ad file and no folder with matrix\.mtx: read it first, and pass the AnnData"
    with pytest.raises(ValueError, match=message):
        next(by_batch(tmp_path / name, None))


def test_a_file_that_is_broken(tmp_path):
    path = h5ad(make(), tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"raw=.*raw\.h5ad' cannot be read \(.*\): is it all there\?"):
        next(by_batch(path, None))

"""Hostile files: whatever is in them, nothing runs, and little memory is taken."""

from __future__ import annotations

import copyreg
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from scvitl.io import read_scvi_tools
from scvitl.io._decode import unpickle

HERE = Path("a.pkl")


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def text(value):
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


def named(module, name, argument):
    """A pickle that calls a name, which may have dots, with a text."""
    function = text(module) + text(name) + pickle.STACK_GLOBAL
    return pickle.PROTO + b"\x04" + function + text(argument) + pickle.TUPLE1 + pickle.REDUCE + pickle.STOP


def hostile(marker):
    """Pickles that would make the file ``marker`` or import something, and the name that gives them away."""
    command, code = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    return {
        "system": (pickle.dumps({"a": [Call(os.system, command)]}, 2), f"{os.system.__module__}.system"),
        "eval": (pickle.dumps(Call(eval, code)), "builtins.eval"),
        "old eval": (pickle.dumps(Call(eval, code), 2), "__builtin__.eval"),
        "getattr": (pickle.dumps(Call(getattr, Call(__import__, "os"), "system")), "builtins.getattr"),
        "dotted": (named("numpy._core.multiarray", "os.system", command), "numpy._core.multiarray.os.system"),
        "old dotted": (
            named("numpy.core.multiarray", "os.system", command),
            "numpy.core.multiarray.os.system",
        ),
        "pandas": (named("pandas.io.common", "os.system", command), "pandas.io.common.os.system"),
        "import": (named("builtins", "__import__", "antigravity"), "builtins.__import__"),
        "torch": (named("torch", "load", "a.pt"), "torch.load"),
        "inst": (f"(S'{command}'\nios\nsystem\n.".encode(), "os.system"),
        "obj": (b"(cos\nsystem\nS'" + command.encode() + b"'\no.", "os.system"),
    }


NAMES = list(hostile("x"))


def zipped(folder, data):
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", data)
    return folder


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", ["new", "old"])
def test_nothing_runs(fitted, saved, tmp_path, name, layout):
    data, culprit = hostile(tmp_path / "marker")[name]
    if layout == "new":
        folder = zipped(tmp_path, data)
    else:
        folder = saved.save_old(tmp_path / "m")
        (folder / "attr.pkl").write_bytes(data)
    with pytest.raises(ValueError, match="nothing was executed") as error:
        read_scvi_tools(folder, fitted)
    assert repr(culprit) in str(error.value)
    assert not (tmp_path / "marker").exists()


def test_the_pickles_are_sharp(tmp_path):
    """Else the tests above would show nothing."""
    for name in ("system", "eval", "inst"):
        marker = tmp_path / name
        pickle.loads(hostile(marker)[name][0])
        assert marker.exists()


def test_hidden_in_a_good_model(fitted, saved, tmp_path):
    saved["attr_dict"]["history_"] = {"elbo_train": Call(os.system, f"touch {tmp_path / 'marker'}")}
    with pytest.raises(ValueError, match="nothing was executed"):
        read_scvi_tools(saved.save(tmp_path / "m"), fitted)
    assert not (tmp_path / "marker").exists()


def test_functions_of_pandas_are_not_called(tmp_path):
    marker = tmp_path / "marker"
    node = unpickle(named("pandas.core.computation.eval", "eval", f"@open('{marker}', 'w')"), HERE)
    assert node.name == "pandas.core.computation.eval.eval"
    assert not marker.exists()


def test_a_pickle_in_a_pickle_is_not_read(fitted, saved, tmp_path):
    """As tensors among the attributes of old files have it."""
    inside = pickle.dumps(Call(os.system, f"touch {tmp_path / 'marker'}"))
    arguments = saved["attr_dict"]["init_params_"]["kwargs"]["kwargs"]
    arguments["n_latent"] = Call(torch.storage._load_from_bytes, inside)
    folder = saved.save_old(tmp_path / "m")
    read_scvi_tools(folder, fitted)
    storage = Call(torch.storage._load_from_bytes, inside)
    arguments["n_latent"] = Call(torch._utils._rebuild_tensor_v2, storage, 0, (1,), (1,), False, {})
    read_scvi_tools(saved.save_old(tmp_path / "m"), fitted)
    assert not (tmp_path / "marker").exists()


def test_activations_are_not_made(tmp_path):
    name = "torch.nn.modules.activation"
    assert unpickle(named(name, "Threshold", "x"), HERE).name == f"{name}.Threshold"
    with pytest.raises(ValueError, match="nothing was executed"):
        unpickle(named(name, "torch.load", str(tmp_path)), HERE)


def test_what_a_pickle_does_to_a_name_ends_with_it():
    # Sets an attribute of the class itself, by giving a state to it.
    name = text("numpy") + text("ndarray") + pickle.STACK_GLOBAL
    state = pickle.NONE + pickle.EMPTY_DICT + text("append") + text("x") + pickle.SETITEM + pickle.TUPLE2
    with pytest.raises(ValueError, match="damaged"):
        unpickle(name + state + pickle.BUILD + pickle.STOP, HERE)
    array = np.arange(3)
    assert np.array_equal(unpickle(pickle.dumps(array), HERE), array)


def test_registered_extensions_are_not_looked_up():
    copyreg.add_extension("posix", "system", 240)
    try:
        with pytest.raises(ValueError, match="damaged"):
            unpickle(pickle.EXT1 + b"\xf0" + pickle.STOP, HERE)
    finally:
        copyreg.remove_extension("posix", "system", 240)


HUGE = struct.pack("<Q", 2**40)


@pytest.mark.parametrize(
    "data",
    [
        pickle.BYTEARRAY8 + HUGE + pickle.STOP,
        pickle.PROTO + b"\x04" + pickle.BINBYTES8 + HUGE + pickle.STOP,
        pickle.PROTO + b"\x04" + pickle.FRAME + HUGE + pickle.NONE,
        b"",
        b"not a pickle",
        b"(" * 5000,
        b"]" * 100_000 + b"a" * 99_999 + b".",
        pickle.dumps(Call(bytes, 10**12), 2),
        pickle.dumps("a" * 100)[:50],
        pickle.dumps(np.ones(3))[:-20],
    ],
)
def test_damaged_pickles(data):
    with pytest.raises(ValueError, match=r"a\.pkl.* is damaged"):
        unpickle(data, HERE)


def test_a_place_in_the_memo_takes_no_memory():
    assert unpickle(pickle.NONE + pickle.LONG_BINPUT + struct.pack("<I", 2**31) + pickle.STOP, HERE) is None


def test_references_to_references():
    value = []
    for _ in range(60):
        value = [value, value]
    assert len(unpickle(pickle.dumps(value), HERE)) == 2
    value.append(value)
    assert len(unpickle(pickle.dumps(value), HERE)) == 3


@pytest.mark.parametrize("codec", ["rot13", "utf-8", "zip"])
def test_other_codecs(codec):
    import _codecs

    with pytest.raises(ValueError, match="bytes are written in another way than latin1"):
        unpickle(pickle.dumps(Call(_codecs.encode, "a", codec)), HERE)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">i2").reshape(2, 3),
        np.asfortranarray(np.eye(3)),
        np.array(["a", "bcd"]),
        np.array(["a", None, 3], dtype=object),
        np.zeros((0, 2), np.float32),
        np.float32(1.5),
        np.array([True, False]),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays(array, protocol):
    read = unpickle(pickle.dumps(array, protocol), HERE)
    assert np.array_equal(read, array)


def test_arrays_of_other_kinds_are_left_alone():
    dates = np.array(["2020-01-01"], dtype="datetime64[D]")
    assert not isinstance(unpickle(pickle.dumps(dates), HERE), np.ndarray)


def test_tensors(saved, tmp_path):
    from scvitl.io._saved import torch_file

    big = torch.randn(6, 4)
    tensors = {
        "part": big[1:4, ::2],
        "turned": big.T,
        "one": big[2, 2],
        "none": torch.zeros(0, 3),
        "long": torch.arange(3),
        "half": big.half(),
        "truth": big > 0,
    }
    torch.save(tensors, tmp_path / "a.pt")
    read = torch_file(tmp_path / "a.pt")
    assert all(np.array_equal(read[name], tensor.numpy()) for name, tensor in tensors.items())


def test_tensors_of_a_gpu(tmp_path):
    """They are read on any machine."""
    from scvitl.io._saved import torch_file

    torch.save({"a": torch.arange(3.0)}, tmp_path / "a.pt")
    members = contents(tmp_path / "a.pt")
    assert text("cpu") in members["a/data.pkl"]
    members["a/data.pkl"] = members["a/data.pkl"].replace(text("cpu"), text("cuda:0"))
    assert torch_file(pack(tmp_path / "b.pt", members))["a"].tolist() == [0, 1, 2]


def contents(file):
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(file, members):
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file


def tensor(folder, offset, size, stride):
    """A file with a tensor of ten values that claims to be something else."""
    torch.save({"a": torch.arange(10.0)}, folder / "a.pt")
    members = contents(folder / "a.pt")
    claims = [pickle.dumps(value, 2)[2:-1] for value in (offset, size, stride)]
    # After the storage come offset, size and stride, then a truth value.
    before, after = members["a/data.pkl"].split(pickle.BINPERSID + pickle.BININT1 + b"\x00")
    after = after[after.index(pickle.NEWFALSE) :]
    members["a/data.pkl"] = before + pickle.BINPERSID + b"".join(claims) + after
    return pack(folder / "b.pt", members)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (11,), (1,)),
        (1, (10,), (1,)),
        (0, (2, 5), (9, 1)),
        (-1, (2,), (1,)),
        (5, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (10**6, 10**6), (0, 0)),
        (0, (2, 2), (1,)),
        ("a", (2,), (1,)),
    ],
)
def test_tensors_that_reach_beyond_their_data(tmp_path, offset, size, stride):
    from scvitl.io._saved import torch_file

    assert np.array_equal(torch_file(tensor(tmp_path, 2, (3,), (2,)))["a"], [2, 4, 6])
    with pytest.raises(ValueError, match="is damaged"):
        torch_file(tensor(tmp_path, offset, size, stride))


def test_archives_that_torch_does_not_write(fitted, saved, tmp_path):
    (tmp_path / "model.pt").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match=r"not a file that torch\.save writes since PyTorch 1\.6"):
        read_scvi_tools(tmp_path, fitted)
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\0" * 10**6)
    with pytest.raises(ValueError, match="a zip archive, but none of torch"):
        read_scvi_tools(tmp_path, fitted)
    with pytest.raises(ValueError, match="it holds list where a dict belongs"):
        read_scvi_tools(zipped(tmp_path, pickle.dumps([1])), fitted)
    with pytest.raises(ValueError, match="there are no weights"):
        read_scvi_tools(zipped(tmp_path, pickle.dumps({"model_state_dict": {}})), fitted)
    data = (saved.save(tmp_path / "m") / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(data[:5000] + b"x" + data[5001:])
    with pytest.raises(ValueError, match="is damaged"):
        read_scvi_tools(tmp_path, fitted)


def test_members_that_share_their_bytes(tmp_path):
    """Twice the size in the directory, once in the file."""
    from scvitl.io._saved import torch_file

    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", b"\0" * 10_000)
        twin = zipfile.ZipInfo("a/data/1")
        for name in ("header_offset", "file_size", "compress_size", "CRC"):
            setattr(twin, name, getattr(archive.getinfo("a/data/0"), name))
        archive.filelist.append(twin)
        archive.NameToInfo[twin.filename] = twin
    with pytest.raises(ValueError, match="a zip archive, but none of torch"):
        torch_file(tmp_path / "a.pt")

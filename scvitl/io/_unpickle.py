"""Read a pickle without running it.

A pickle is a program: it may name any function and call it. Here every name that it uses becomes a `Node`, a class
that only remembers what it was called with, and names that no saved model needs are refused. What the program would
have built is then read off the nodes, by `_decode`.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STORAGES = {
    "torch.DoubleStorage": "f8",
    "torch.FloatStorage": "f4",
    "torch.HalfStorage": "f2",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.BoolStorage": "?",
    "torch.ByteStorage": "u1",
}
# Functions that a model may be given as an option, and our names of them.
ACTIVATIONS = {
    "torch._C._nn.softplus": "softplus",
    "torch.nn.functional.relu": "relu",
    "torch.nn.functional.sigmoid": "sigmoid",
}
DICTS = {
    "builtins.dict",
    "collections.OrderedDict",
    "collections.defaultdict",
    "scvi.utils._attrdict.attrdict",
}
ADMITTED = {
    *STORAGES,
    *ACTIVATIONS,
    *DICTS,
    "builtins.bytes",
    "builtins.list",
    "builtins.slice",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.matrix",
    "numpy.matrixlib.defmatrix.matrix",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.storage._load_from_bytes",
}
# Frames with the losses of training, whose parts have changed their names too often to list them, and activations of
# networks, of which we have one.
FAMILIES = ("pandas.", "pyarrow.", "torch.nn.modules.activation.")
RELU = "torch.nn.modules.activation.ReLU"
OLD_NAMES = {"__builtin__": "builtins", "numpy.core.multiarray": "numpy._core.multiarray"}
STORAGE = "storage"

# Operations that set memory aside as the pickle asks them to, or look names up elsewhere; no saved model has them.
REFUSED = {
    code[0]
    for code in (
        pickle.BYTEARRAY8,
        pickle.NEXT_BUFFER,
        pickle.READONLY_BUFFER,
        pickle.EXT1,
        pickle.EXT2,
        pickle.EXT4,
    )
}
OPERATIONS = {code: load for code, load in pickle._Unpickler.dispatch.items() if code not in REFUSED}


class RefusedError(ValueError):
    """A file is hostile, damaged, or something else."""


class Node:
    """What a pickle would have made by calling ``name`` with ``args``, then setting its state and adding items."""

    name: str

    def __new__(cls, *args, **kwargs) -> Self:
        node = object.__new__(cls)
        node.args, node.state, node.items = args, None, []
        return node

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.items.append((key, value))

    def append(self, value: object) -> None:
        """Note an item of a list."""
        self.items.append(value)


def kind(name: str) -> type[Node]:
    """A new class for every use of a name: whatever a pickle does to it ends with the pickle."""
    return type("Node", (Node,), {"name": name})


class Unpickler(pickle._Unpickler):
    """From a pickle to nodes.

    It is the unpickler that is written in Python: the one in C sets memory aside as a hostile file asks it to.
    """

    dispatch = OPERATIONS

    def __init__(self, data: bytes, file: Path) -> None:
        super().__init__(io.BytesIO(data))
        self.file = file

    def find_class(self, module: str, name: str) -> type[Node]:
        full = f"{OLD_NAMES.get(module, module)}.{name}"
        if full not in ADMITTED and (not full.startswith(FAMILIES) or "." in name):
            msg = (
                f"{str(self.file)!r} holds {f'{module}.{name}'!r}, which is nothing that scvitl knows in a model of "
                "scvi-tools; nothing was executed. The file may be hostile: open it with nothing that unpickles, such as "
                "torch.load, unless you know where it comes from."
            )
            raise RefusedError(msg)
        return kind(full)

    def persistent_load(self, pid: Any) -> Node:
        return kind(STORAGE)(pid)


@contextmanager
def intact(file: Path) -> Iterator[None]:
    """Turn the many errors of reading a damaged file into one that names it."""
    try:
        yield
    except RefusedError:
        raise
    except (
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
        struct.error,
        zipfile.BadZipFile,
    ) as error:
        msg = f"{str(file)!r} is damaged, or not a model that scvi-tools saved ({type(error).__name__}: {error})."
        raise RefusedError(msg) from error

"""From the nodes of a pickle to plain Python and NumPy objects."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from ._unpickle import DICTS, STORAGE, STORAGES, Node, Unpickler, intact

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Times that tensors may take the values of a storage; a small file could fill the memory otherwise.
SHARED = 2
DTYPE = re.compile(r"[biufSUO]\d{0,9}")


def unpickle(
    data: bytes, file: Path, *, storage: Callable[[str], bytes] | None = None, byteorder: str = "little"
) -> Any:
    """What the pickle ``data`` describes; nothing in it is run.

    ``file`` is named in errors. ``storage`` gives the bytes of a tensor by its key.
    """
    with intact(file):
        return Decoder(storage, byteorder)(Unpickler(data, file).load())


class Decoder:
    """Decodes the nodes of one pickle; those of a kind that is not in `KINDS` stay nodes, decoded inside."""

    def __init__(self, storage: Callable[[str], bytes] | None, byteorder: str) -> None:
        self.storage, self.byteorder = storage, byteorder
        self.done: dict[int, tuple[Any, Any]] = {}
        self.used: dict[str, int] = {}  # values of a storage that tensors have taken

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, (list, tuple, dict, Node)):
            return value
        # Looked up first, or references to references would take exponential time. Until it is decoded, a value stands
        # for itself, since a pickle can make a list that contains itself; and it is kept, since ids are used again.
        if id(value) not in self.done:
            self.done[id(value)] = value, value
            self.done[id(value)] = value, self.decode(value)
        return self.done[id(value)][1]

    def decode(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self(key): self(item) for key, item in value.items()}
        if not isinstance(value, Node):
            return type(value)(map(self, value))
        value.args, value.state, value.items = self(value.args), self(value.state), self(value.items)
        return KINDS[value.name](self, value) if value.name in KINDS else value


def array_in(value: Any, fits: Callable[[np.ndarray], bool]) -> np.ndarray | None:
    """The first array that ``fits`` among the parts of a value, such as those of a pickled frame."""
    seen: dict[int, Any] = {}

    def search(part: Any) -> np.ndarray | None:
        # What was looked at once is kept, since ids are used again.
        if id(part) in seen:
            return None
        seen[id(part)] = part
        if isinstance(part, np.ndarray):
            return part if fits(part) else None
        if isinstance(part, Node):
            part = part.args, part.state
        if isinstance(part, dict):
            part = list(part.values())
        if not isinstance(part, (list, tuple)):
            return None
        return next((found for item in part if (found := search(item)) is not None), None)

    return search(value)


def _bytes(decoder: Decoder, node: Node) -> bytes:
    if node.args:
        msg = "bytes are made of something"
        raise ValueError(msg)
    return b""


def _encode(decoder: Decoder, node: Node) -> bytes:
    text, encoding = node.args
    if encoding != "latin1":
        # Not what it says instead: the text of something nested can be endless.
        msg = "bytes are written in another way than latin1"
        raise ValueError(msg)
    return text.encode("latin1")


def _dtype(decoder: Decoder, node: Node) -> np.dtype | Node:
    code = node.args[0]
    if not DTYPE.fullmatch(code):
        return node
    return np.dtype(object) if code.startswith("O") else np.dtype(code).newbyteorder(node.state[1])


def _scalar(decoder: Decoder, node: Node) -> Any:
    dtype, data = node.args
    return np.frombuffer(data, dtype)[0].item() if isinstance(dtype, np.dtype) else node


def _array(decoder: Decoder, node: Node) -> np.ndarray | Node:
    _, shape, dtype, by_column, data = node.state
    if not isinstance(dtype, np.dtype):
        return node
    if dtype.hasobject:
        values = np.empty(len(data), object)
        for i, value in enumerate(data):
            values[i] = value
    else:
        values = np.frombuffer(data, dtype)
    return values.reshape(shape, order="F" if by_column else "C")


def _tensor(decoder: Decoder, node: Node) -> np.ndarray | Node:
    storage, offset, size, stride, *_ = node.args
    if storage.name != STORAGE:
        # An argument in a file of attributes, with a pickle of its own inside; what matters is among the weights, too.
        return node
    _, kind, key, *_ = storage.args[0]
    values = np.frombuffer(
        decoder.storage(key), np.dtype(STORAGES[kind.name]).newbyteorder(decoder.byteorder)
    )
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    fits = min(offset, *size, *stride, 0) >= 0 and math.prod(size) <= len(values)
    if not fits or (last >= len(values) and 0 not in size):
        msg = f"a tensor does not fit its {len(values)} values"
        raise ValueError(msg)
    decoder.used[key] = decoder.used.get(key, 0) + math.prod(size)
    if decoder.used[key] > SHARED * len(values):
        msg = f"too many tensors share {len(values)} values"
        raise ValueError(msg)
    if 0 in size:
        return np.zeros(size, values.dtype)
    steps = [step * values.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)


KINDS: dict[str, Callable[[Decoder, Node], Any]] = {
    **dict.fromkeys(DICTS, lambda decoder, node: dict(node.items)),
    "builtins.list": lambda decoder, node: node.items,
    "builtins.bytes": _bytes,
    "_codecs.encode": _encode,
    "numpy.dtype": _dtype,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy._core.multiarray.scalar": _scalar,
    "torch._utils._rebuild_parameter": lambda decoder, node: node.args[0],
    "torch._utils._rebuild_tensor_v2": _tensor,
}

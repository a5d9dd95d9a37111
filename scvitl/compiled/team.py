"""Compiled loops on the threads that torch has.

Threads of torch wait for work by spinning, so that a second set of threads beside them, numba's own or Python's, would
share its cores with them and run several times slower. Loops are therefore handed to torch's OpenMP runtime.
Where that is not to be had (outside Linux), one thread does it all.

A `kernel` takes a record, whose arrays `floats`, `integers` and the like give it, the number of its part of the work, and
the number of parts. `run` runs one on tensors.
"""

from __future__ import annotations

import ctypes
from functools import cache, cached_property
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# A record: kernel, parts handed out so far, parts, then address, rows and columns of every array.
KERNEL, HANDED_OUT, PARTS, HEAD, ENTRY = 0, 1, 2, 3, 3
LONGEST = 1 << 16  # numbers in a record, at most
DTYPES = {"f": torch.float32, "s": torch.int16, "i": torch.int32, "l": torch.int64}
# Sums may be taken in any order, which lets the processor add many numbers at once.
COMPILED: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract", "nsz", "reassoc"}, "cache": True}
compiled = numba.njit(nogil=True, **COMPILED)
RECORD = types.CPointer(types.int64)


class Callback:
    """A function that C can call, compiled when it is first needed and kept on disk.

    The arrays that it reads are of these ``kinds``, letters of `DTYPES`, of which the last goes for all that follow. One
    that runs ``alone`` does all of its work in one part.
    """

    def __init__(
        self, function: Callable[..., None], *arguments: Any, kinds: str = "", alone: bool = False
    ) -> None:
        self.function, self.signature = function, types.void(*arguments)
        self.kinds, self.alone = [DTYPES[kind] for kind in kinds], alone

    @cached_property
    def compiled(self) -> Any:
        """What numba makes of it."""
        return numba.cfunc(self.signature, **COMPILED)(self.function)


def kernel(kinds: str, *, alone: bool = False) -> Callable[[Callable[[Any, int, int], None]], Callback]:
    """Make a kernel of a function of a record with arrays of these kinds, a part, and the number of parts."""
    return lambda function: Callback(function, RECORD, types.int64, types.int64, kinds=kinds, alone=alone)


@intrinsic
def _pointer(typingctx, address):
    def code(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), code


@intrinsic
def _next(typingctx, record):
    """A part of the work that nobody else has, whoever else asks at the same time."""

    def code(context, builder, signature, arguments):
        integer = context.get_value_type(types.int64)
        place = builder.gep(arguments[0], [integer(HANDED_OUT)])
        return builder.atomic_rmw("add", place, integer(1), "monotonic")

    return types.int64(RECORD), code


@intrinsic
def _call(typingctx, record, part, parts):
    """The kernel that a record names."""

    def code(context, builder, signature, arguments):
        from llvmlite import ir

        integer = context.get_value_type(types.int64)
        kind = ir.FunctionType(ir.VoidType(), [integer.as_pointer(), integer, integer])
        address = builder.load(builder.gep(arguments[0], [integer(KERNEL)]))
        builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)
        return context.get_dummy_value()

    return types.none(RECORD, types.int64, types.int64), code


def _member(address):
    """What every thread of a team does: parts of the work, as long as there are any."""
    parts = numba.carray(address, (HEAD,))[PARTS]
    part = _next(address)
    while part < parts:  # there may be fewer threads than were asked for
        _call(address, part, parts)
        part = _next(address)


MEMBER = Callback(_member, RECORD)


@compiled
def _array(record, i, dtype):
    numbers = numba.carray(record, (LONGEST,))
    at = HEAD + ENTRY * i
    return numba.carray(_pointer(numbers[at]), (numbers[at + 1], numbers[at + 2]), dtype)


@compiled
def floats(record, i):
    """The array number ``i`` of a record, always of two dimensions."""
    return _array(record, i, np.float32)


@compiled
def shorts(record, i):
    """The same for an array of integers of 16 bits."""
    return _array(record, i, np.int16)


@compiled
def integers(record, i):
    """The same for an array of integers of 32 bits, of one dimension."""
    return _array(record, i, np.int32)[0]


@compiled
def longs(record, i):
    """The same for an array of integers of 64 bits, of one dimension."""
    return _array(record, i, np.int64)[0]


class Call:
    """A kernel on contiguous tensors of the kinds that it reads, which must live as long as it is called."""

    def __init__(self, kernel: Callback, *arrays: Tensor) -> None:
        if len(arrays) < len(kernel.kinds):
            msg = f"expected {len(kernel.kinds)} arrays or more, found {len(arrays)}"
            raise TypeError(msg)
        self.alone, kinds = kernel.alone, chain(kernel.kinds, repeat(kernel.kinds[-1]))
        entries = [number for pair in zip(arrays, kinds, strict=False) for number in _entry(*pair)]
        self.record = np.array([kernel.compiled.address, 0, 0, *entries], np.int64)

    def replace(self, i: int, array: Tensor) -> None:
        """Take another tensor of the same kind for the one number ``i``."""
        self.record[HEAD + ENTRY * i] = array.data_ptr()

    def __call__(self) -> None:
        """Run in as many parts as `n_parts` says, unless it runs alone."""
        parts = 1 if self.alone else n_parts()
        self.record[HANDED_OUT], self.record[PARTS] = 0, parts
        if parts == 1:
            MEMBER.compiled.ctypes(self.record.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)))
        else:
            _openmp()(MEMBER.compiled.address, self.record.ctypes.data, parts, 0)


def run(kernel: Callback, *arrays: Tensor) -> None:
    """Run a kernel once."""
    Call(kernel, *arrays)()


def n_parts() -> int:
    """In how many parts work is done."""
    return 1 if _openmp() is None else torch.get_num_threads()


def _entry(array: Tensor, dtype: torch.dtype) -> tuple[int, int, int]:
    shape = array.shape
    if array.dtype != dtype or not array.is_contiguous() or not array.is_cpu or len(shape) not in {1, 2}:
        found = f"{tuple(shape)} of {array.dtype} on {array.device}"
        msg = f"expected a contiguous vector or matrix of {dtype} on the CPU, found one of shape {found}"
        raise TypeError(msg)
    return array.data_ptr(), shape[0] if len(shape) == 2 else 1, shape[-1]


@cache
def _openmp() -> Callable[[int, int, int, int], None] | None:
    """What starts a parallel region in the runtime that torch is linked with: (function, data, threads, flags)."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        start = ctypes.CDLL(str(library)).GOMP_parallel  # found in what the library is linked with
    except (OSError, AttributeError):
        return None
    start.argtypes, start.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return start


# stamp a7a9bea6615e666d

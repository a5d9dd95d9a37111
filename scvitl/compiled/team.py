"""Compiled loops on the threads that torch has.

Threads of torch wait for work by spinning, so that a second set of threads beside them, numba's own or Python's, would
share its cores with them and run several times slower. The loop is therefore handed to torch's OpenMP runtime.
Where that is not to be had (outside Linux), one thread does it all.

A kernel takes a record, whose arrays `floats` and `integers` give it, the number of its part of the work, and the number of parts.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numba
import numpy as np
import torch
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# A record: parts handed out so far, parts, then address, rows and columns of every array.
HEAD, ENTRY = 2, 3
LONGEST = 1 << 16  # numbers in a record, at most
DTYPES = torch.float32, torch.int32
compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})


@intrinsic
def _pointer(typingctx, address):
    def code(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), code


@intrinsic
def _next(typingctx, address):
    """The integer at an address, which grows by one, whoever else asks at the same time."""

    def code(context, builder, signature, arguments):
        integer = context.get_value_type(types.int64)
        place = builder.inttoptr(arguments[0], integer.as_pointer())
        return builder.atomic_rmw("add", place, integer(1), "monotonic")

    return types.int64(types.int64), code


@compiled
def floats(record, i):
    """The array number ``i`` of a record, always of two dimensions."""
    at = HEAD + ENTRY * i
    return numba.carray(_pointer(record[at]), (record[at + 1], record[at + 2]), np.float32)


@compiled
def integers(record, i):
    """The same for an array of integers, of one dimension."""
    at = HEAD + ENTRY * i
    return numba.carray(_pointer(record[at]), (record[at + 1] * record[at + 2],), np.int32)


def team(kernel: Callable[[np.ndarray, int, int], None]) -> Callable[..., None]:
    """Make of a kernel a function of tensors, which shares its work between the threads of torch."""
    loop = compiled(kernel)

    @numba.cfunc(types.void(types.CPointer(types.int64)), cache=True)
    def member(address):  # pragma: no cover (compiled)
        record = numba.carray(address, (LONGEST,), np.int64)
        part = _next(record.ctypes.data)
        while part < record[1]:  # there may be fewer threads than were asked for
            loop(record, part, record[1])
            part = _next(record.ctypes.data)

    def run(*arrays: Tensor) -> None:
        """Run on contiguous tensors of float32 or int32, with as many parts as `n_parts` says."""
        entries = [number for array in arrays for number in _entry(array)]
        parts = n_parts()
        record = np.array([0, parts, *entries], np.int64)
        if parts == 1:
            loop(record, 0, 1)
        else:
            _openmp()(member.address, record.ctypes.data, parts, 0)

    return run


def n_parts() -> int:
    """In how many parts work is done."""
    return 1 if _openmp() is None else torch.get_num_threads()


def _entry(array: Tensor) -> tuple[int, int, int]:
    if array.dtype not in DTYPES or not array.is_contiguous() or array.device.type != "cpu":
        msg = f"expected a contiguous tensor of float32 or int32 on the CPU, found {array.dtype} on {array.device}"
        raise TypeError(msg)
    return array.data_ptr(), *((1, len(array)) if array.ndim == 1 else array.shape)


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

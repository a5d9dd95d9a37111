"""Counts kept by cell: some of the cells, products with a matrix, and gradients of these."""

from __future__ import annotations

from .team import floats, integers, kernel, longs

AT_ONCE = 4  # counts, so that sums are read and written less often


@kernel("ifilif")
def gather(record, part, parts):
    """Columns and values of some rows, one after the other; rows are shared out.

    Arrays: columns and values, where every row begins in them, and the last ends; where it begins in the columns and values
    of all rows, and these.
    """
    columns, values, start = integers(record, 0), floats(record, 1)[0], integers(record, 2)
    begin, from_columns, from_values = longs(record, 3), integers(record, 4), floats(record, 5)[0]
    for b in range(part * begin.size // parts, (part + 1) * begin.size // parts):
        at = begin[b] - start[b]
        for k in range(start[b], start[b + 1]):
            columns[k] = from_columns[at + k]
            values[k] = from_values[at + k]


@kernel("fffiif")
def product(record, part, parts):
    """Out (B, H) = bias (H) + counts (B, G) @ weight (G, H); cells are shared out.

    Arrays: out, weight, values of the counts, row pointers and columns of these, bias.
    """
    out, weight, values = floats(record, 0), floats(record, 1), floats(record, 2)[0]
    start, columns, bias = integers(record, 3), integers(record, 4), floats(record, 5)[0]
    n_cells, n_units = out.shape
    for b in range(part * n_cells // parts, (part + 1) * n_cells // parts):
        row, k, stop = out[b], start[b], start[b + 1]
        row[:] = bias
        while k + AT_ONCE <= stop:
            w0, w1, w2, w3 = (
                weight[columns[k]],
                weight[columns[k + 1]],
                weight[columns[k + 2]],
                weight[columns[k + 3]],
            )
            v0, v1, v2, v3 = values[k], values[k + 1], values[k + 2], values[k + 3]
            for j in range(n_units):
                row[j] += v0 * w0[j] + v1 * w1[j] + v2 * w2[j] + v3 * w3[j]
            k += AT_ONCE
        while k < stop:
            w0, v0 = weight[columns[k]], values[k]
            for j in range(n_units):
                row[j] += v0 * w0[j]
            k += 1


@kernel("fffii")
def gradient(record, part, parts):
    """By the weight (G, H): counts.T @ grad (B, H); genes are shared out.

    Arrays: gradient by the weight, grad, values of the counts, row pointers and columns of these.
    """
    by_weight, grad, values = floats(record, 0), floats(record, 1), floats(record, 2)[0]
    start, columns = integers(record, 3), integers(record, 4)
    n_genes, n_units = by_weight.shape
    first, last = part * n_genes // parts, (part + 1) * n_genes // parts
    by_weight[first:last] = 0
    for b in range(len(grad)):
        row = grad[b]
        for k in range(start[b], start[b + 1]):
            gene = columns[k]
            if first <= gene < last:
                w, v = by_weight[gene], values[k]
                for j in range(n_units):
                    w[j] += v * row[j]


# stamp a7a9bea6615e666d

"""The inner loops that no library offers, compiled by numba: nearest neighbours, the sparse product, cluster maps.

They are plain loops over arrays, and everything that means something stands in the modules that call them; the slow
versions they are tested against are in ``tests/reference.py``. The first call on a machine compiles for some seconds,
later processes load the result from disk. Two threads never write to the same row, so results do not depend on how many
there are.
"""

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

COMPARED_TOGETHER = 16
"""Similarities compared in one go, a bit for each: some vector instructions, where a branch for every similarity,
mispredicted wherever one is near, takes several times as long.

Thresholds rise between groups, so that their size decides in which order candidates stand, and with it which of some
equal ones at the end of a list stay: another size trains another psi wherever photographs hold the same patch twice.
"""

COLUMNS_PER_TASK = 64
"""Columns of a block whose patches one task serves."""

ROWS_PER_TASK = 256
"""Rows of a sparse sum that one task adds up, on scratch memory of its own."""

PARTS = 8
"""Parts of equally many rows that a sparse matrix is transposed in, whatever the number of threads."""


@intrinsic
def _lowest_set_bit(typing_context, bits):
    """Position of the lowest set bit of a uint32 that is not 0: one instruction, which numba has no name for."""

    def generate(context, builder, signature, arguments):
        position = builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))
        return builder.zext(position, ir.IntType(64))

    return types.int64(types.uint32), generate


@intrinsic
def _bits_where_greater(typing_context, left, right):
    """A bit for each of the first ``COMPARED_TOGETHER`` float32 of two contiguous arrays: whether ``left > right``.

    Some vector instructions, which the compiler does not make of a loop.
    """
    if any(array.layout != "C" or array.dtype != types.float32 for array in (left, right)):
        return None  # which numba reports as no match for these types

    def generate(context, builder, signature, arguments):
        numbers = ir.VectorType(ir.FloatType(), COMPARED_TOGETHER)
        vectors = []
        for array_type, array in zip(signature.args, arguments, strict=True):
            start = context.make_array(array_type)(context, builder, array).data
            vectors.append(builder.load(builder.bitcast(start, numbers.as_pointer()), align=4))
        greater = builder.fcmp_ordered(">", *vectors)
        return builder.zext(builder.bitcast(greater, ir.IntType(COMPARED_TOGETHER)), ir.IntType(32))

    return types.uint32(left, right), generate


@njit(cache=True)
def keep_largest(values, indices, length, kept):
    """Move the ``kept`` largest of ``values[:length]`` to the front, with their ``indices`` (Hoare's quickselect)."""
    left, right = 0, length - 1
    while left < right:
        pivot = values[(left + right) >> 1]
        i, j = left, right
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                indices[i], indices[j] = indices[j], indices[i]
                i += 1
                j -= 1
        if kept - 1 <= j:
            right = j
        elif kept - 1 >= i:
            left = i
        else:
            return


@njit(cache=True)
def _near(similarities, thresholds):
    """A bit for each of at most ``COMPARED_TOGETHER`` similarities: whether it exceeds its threshold."""
    if len(similarities) == COMPARED_TOGETHER:
        return _bits_where_greater(similarities, thresholds)
    near = np.uint32(0)
    for c in range(len(similarities)):
        near |= np.uint32(similarities[c] > thresholds[c]) << np.uint32(c)
    return near


@njit(parallel=True, cache=True)
def offer_block(block, row, column, values, indices, lengths, thresholds, neighbors):
    """Offer a block of the symmetric similarity matrix to the candidate lists of the patches of its rows.

    A list about to overflow is cut back to its ``neighbors`` largest, which raises the threshold.

    Args:
        block: Similarities of patches ``row ..`` with patches ``column ..``, float32 ``(R, C)``.
        row: Number of the first patch of the rows.
        column: Number of the first patch of the columns.
        values: Similarities of every patch to its candidates, float32 ``(N, capacity)``; changed in place, as the three
            below.
        indices: Numbers of the candidates of every patch, int32 ``(N, capacity)``.
        lengths: Number of candidates of every patch so far, int64 ``(N,)``.
        thresholds: Similarity that a new candidate of every patch must exceed, float32 ``(N,)``.
        neighbors: Number of candidates wanted in the end, below ``capacity``.
    """
    for r in prange(block.shape[0]):
        u = row + r
        line, found, candidates, length = block[r], values[u], indices[u], lengths[u]
        threshold = np.full(COMPARED_TOGETHER, thresholds[u], dtype=np.float32)
        for start in range(0, len(line), COMPARED_TOGETHER):
            near = _near(line[start : start + COMPARED_TOGETHER], threshold)
            while near != 0:
                c = start + _lowest_set_bit(near)
                near &= near - np.uint32(1)
                if length == len(found):
                    keep_largest(found, candidates, length, neighbors)
                    length = neighbors
                    threshold[:] = found[:neighbors].min()
                found[length] = line[c]
                candidates[length] = column + c
                length += column + c != u
        lengths[u], thresholds[u] = length, threshold[0]


@njit(parallel=True, cache=True)
def offer_block_transposed(block, row, column, values, indices, lengths, thresholds, neighbors):
    """:func:`offer_block` to the patches of its columns; the block must not touch the diagonal."""
    R, C = block.shape
    for task in prange((C + COLUMNS_PER_TASK - 1) // COLUMNS_PER_TASK):
        first, last = task * COLUMNS_PER_TASK, min((task + 1) * COLUMNS_PER_TASK, C)
        for r in range(R):
            for start in range(first, last, COMPARED_TOGETHER):
                stop = min(start + COMPARED_TOGETHER, last)
                near = _near(block[r, start:stop], thresholds[column + start : column + stop])
                while near != 0:
                    c = start + _lowest_set_bit(near)
                    near &= near - np.uint32(1)
                    v = column + c
                    length = lengths[v]
                    if length == values.shape[1]:
                        keep_largest(values[v], indices[v], length, neighbors)
                        length = neighbors
                        thresholds[v] = values[v, :neighbors].min()
                    values[v, length] = block[r, c]
                    indices[v, length] = row + r
                    lengths[v] = length + 1


@njit(parallel=True, cache=True)
def keep_largest_of_rows(values, indices, lengths, kept):
    """:func:`keep_largest` of every row."""
    for u in prange(len(lengths)):
        keep_largest(values[u], indices[u], lengths[u], kept)


@njit(parallel=True, cache=True)
def nearest_points(points, neighbors):
    """The nearest other points of the same set by Euclidean distance; of equally near ones, the first.

    Args:
        points: Points of every set, float32 ``(sets, N, D)``.
        neighbors: Number of neighbours to find, below N.

    Returns:
        Their positions in the list of all points, int32 ``(sets, N, neighbors)``, nearest first.
    """
    M, N, D = points.shape
    nearest = np.empty((M, N, neighbors), dtype=np.int32)
    for m in prange(M):
        coordinates = points[m].T.copy()
        for u in range(N):
            distances = np.zeros(N, dtype=np.float32)
            for d in range(D):
                for v in range(N):
                    distances[v] += (coordinates[d, v] - coordinates[d, u]) ** 2
            distances[u] = np.inf
            kept = np.full(neighbors, np.inf, dtype=np.float32)
            for v in range(N):
                if distances[v] < kept[-1]:
                    place = neighbors - 1
                    while place > 0 and kept[place - 1] > distances[v]:
                        kept[place] = kept[place - 1]
                        nearest[m, u, place] = nearest[m, u, place - 1]
                        place -= 1
                    kept[place] = distances[v]
                    nearest[m, u, place] = m * N + v
    return nearest


@njit(parallel=True, cache=True)
def scale_rows_and_columns(indptr, indices, data, scale):
    """Multiply entry (u, v) of a CSR matrix by ``scale[u] * scale[v]``, in place."""
    for u in prange(len(indptr) - 1):
        for entry in range(indptr[u], indptr[u + 1]):
            data[entry] *= scale[u] * scale[indices[entry]]


@njit(parallel=True, cache=True)
def transposed(starts, columns, entries):
    """The transpose of a square CSR matrix; within its rows entries are sorted (a counting sort).

    Args:
        starts: Start of every row, ``(N + 1,)``.
        columns: Columns of the entries, ``(nnz,)``.
        entries: Entries, float32 ``(nnz,)``.

    Returns:
        Starts and columns, int32, and entries, float32, of the transpose.
    """
    N = len(starts) - 1
    rows = (N + PARTS - 1) // PARTS
    places = np.zeros((PARTS, N), dtype=np.int32)  # of the next entry that a part has of a column
    for part in prange(PARTS):
        for entry in range(starts[min(part * rows, N)], starts[min((part + 1) * rows, N)]):
            places[part, columns[entry]] += 1
    row_starts = np.zeros(N + 1, dtype=np.int32)
    place = 0
    for v in range(N):
        for part in range(PARTS):
            place, places[part, v] = place + places[part, v], place
        row_starts[v + 1] = place
    row_columns = np.empty(len(columns), dtype=np.int32)
    row_entries = np.empty(len(entries), dtype=np.float32)
    for part in prange(PARTS):
        for u in range(min(part * rows, N), min((part + 1) * rows, N)):
            for entry in range(starts[u], starts[u + 1]):
                place = places[part, columns[entry]]
                row_columns[place], row_entries[place] = u, entries[entry]
                places[part, columns[entry]] = place + 1
    return row_starts, row_columns, row_entries


@njit(parallel=True, cache=True)
def sparse_sum(starts, columns, entries, other_starts, other_columns, other_entries):
    """The sum of two square CSR matrices, whose rows need not be sorted; those of the sum are.

    A bit for every column marks where a row has entries and hands them back in order: nothing is sorted or merged.

    Args:
        starts: Start of every row of the first matrix, ``(N + 1,)``.
        columns: Columns of the entries of the first matrix, ``(nnz,)``, none twice within a row.
        entries: Entries of the first matrix, float32 ``(nnz,)``.
        other_starts: Start of every row of the second matrix, ``(N + 1,)``.
        other_columns: Columns of the entries of the second matrix, ``(nnz,)``, none twice within a row.
        other_entries: Entries of the second matrix, float32 ``(nnz,)``.

    Returns:
        Starts and columns, int32, and entries, float32, of the sum.
    """
    N = len(starts) - 1
    tasks = (N + ROWS_PER_TASK - 1) // ROWS_PER_TASK
    sum_starts = np.zeros(N + 1, dtype=np.int32)
    for task in prange(tasks):
        last_row = np.full(N, -1, dtype=np.int32)  # that had an entry in a column
        for u in range(task * ROWS_PER_TASK, min((task + 1) * ROWS_PER_TASK, N)):
            for entry in range(starts[u], starts[u + 1]):
                last_row[columns[entry]] = u
            shared = 0
            for entry in range(other_starts[u], other_starts[u + 1]):
                shared += last_row[other_columns[entry]] == u
            sum_starts[u + 1] = starts[u + 1] - starts[u] + other_starts[u + 1] - other_starts[u] - shared
    sum_starts[:] = np.cumsum(sum_starts)
    sum_columns = np.empty(sum_starts[-1], dtype=np.int32)
    sum_entries = np.empty(sum_starts[-1], dtype=np.float32)
    for task in prange(tasks):
        marks = np.zeros((N + 31) // 32, dtype=np.uint32)
        row = np.zeros(N, dtype=np.float32)
        for u in range(task * ROWS_PER_TASK, min((task + 1) * ROWS_PER_TASK, N)):
            for entry in range(starts[u], starts[u + 1]):
                v = columns[entry]
                marks[v >> 5] |= np.uint32(1) << np.uint32(v & 31)
                row[v] = entries[entry]
            for entry in range(other_starts[u], other_starts[u + 1]):
                v = other_columns[entry]
                marks[v >> 5] |= np.uint32(1) << np.uint32(v & 31)
                row[v] += other_entries[entry]
            place = sum_starts[u]
            for word in range(len(marks)):
                while marks[word] != 0:
                    v = 32 * word + _lowest_set_bit(marks[word])
                    marks[word] &= marks[word] - np.uint32(1)
                    sum_columns[place], sum_entries[place] = v, row[v]
                    row[v] = 0
                    place += 1
    return sum_starts, sum_columns, sum_entries


@njit(parallel=True, cache=True)
def sparse_product(indptr, indices, data, dense):
    """A CSR matrix times a dense one.

    Args:
        indptr: Start of every row of the sparse matrix, ``(N + 1,)``.
        indices: Columns of the entries of the sparse matrix, ``(nnz,)``.
        data: Entries of the sparse matrix, float32 ``(nnz,)``.
        dense: Dense matrix, float32 ``(M, K)``, C-contiguous.

    Returns:
        The product, float32 ``(N, K)``.
    """
    N, K = len(indptr) - 1, dense.shape[1]
    product = np.zeros((N, K), dtype=np.float32)
    for u in prange(N):
        entry, stop, row = indptr[u], indptr[u + 1], product[u]
        while entry + 4 <= stop:
            # Four at a time, in order: the row is fetched and stored once for them, and the sum rounds as one by one.
            a, b, c, d = data[entry], data[entry + 1], data[entry + 2], data[entry + 3]
            A, B, C, D = indices[entry], indices[entry + 1], indices[entry + 2], indices[entry + 3]
            for j in range(K):
                row[j] = row[j] + a * dense[A, j] + b * dense[B, j] + c * dense[C, j] + d * dense[D, j]
            entry += 4
        while entry < stop:
            for j in range(K):
                row[j] += data[entry] * dense[indices[entry], j]
            entry += 1
    return product


@njit(parallel=True, cache=True)
def largest_of_upsampled(logits, rows, row_weights, columns, column_weights, clusters):
    """Argmax over the clusters of bilinearly up-sampled logits, without up-sampling them all.

    Between four neighbouring patches every logit stays within its four values. So a cluster whose largest is below the
    smallest of another one wins nowhere there; of K clusters, a few are left to be interpolated.

    Args:
        logits: Logits of the patches, float32 ``(h, w, K)``.
        rows: Patch row above each pixel row, ascending, int64 ``(H,)``.
        row_weights: Weight of the patch row below each pixel row, float32 ``(H,)``.
        columns: Patch column left of each pixel column, ascending, int64 ``(W,)``.
        column_weights: Weight of the patch column right of each pixel column, float32 ``(W,)``.
        clusters: Cluster of every pixel, uint16 ``(H, W)``; filled in place.
    """
    one = np.float32(1)  # numba takes an integer less a float32 for a float64
    h, w, K = logits.shape
    row_starts = np.searchsorted(rows, np.arange(h + 1))
    column_starts = np.searchsorted(columns, np.arange(w + 1))
    for i in prange(h):
        below = min(i + 1, h - 1)
        top, bottom = row_starts[i], row_starts[i + 1]
        best = np.empty((bottom - top, len(columns)), dtype=np.float32)
        best[:] = -np.inf
        for j in range(w):
            right = min(j + 1, w - 1)
            a, b, c, d = logits[i, j], logits[i, right], logits[below, j], logits[below, right]
            sure = np.float32(-np.inf)
            for k in range(K):
                sure = max(sure, min(min(a[k], b[k]), min(c[k], d[k])))
            for k in range(K):
                if max(max(a[k], b[k]), max(c[k], d[k])) < sure:
                    continue
                for y in range(top, bottom):
                    down = row_weights[y]
                    left_value = (one - down) * a[k] + down * c[k]
                    right_value = (one - down) * b[k] + down * d[k]
                    for x in range(column_starts[j], column_starts[j + 1]):
                        across = column_weights[x]
                        value = (one - across) * left_value + across * right_value
                        if value > best[y - top, x]:
                            best[y - top, x] = value
                            clusters[y, x] = k

"""Forms of TensorFlow operators that the converters of both formats support.

They are used while a model of any generation is traced; see `bilstm_exporter.ir.operator_forms`.
Each docstring gives the reason.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.frontends.operators.spectra import SPECTRUM_FORMS
from bilstm_exporter.ir.cumulative import cumulative
from bilstm_exporter.ir.operator_forms import (
    Form,
    as_they_are,
    combined,
    in_other_dtypes,
    write_operator,
)


def _strided_slice(  # noqa: PLR0913, PLR0917 - the attributes of StridedSlice
    input: Any,  # noqa: A002
    begin: Any,
    end: Any,
    strides: Any,
    begin_mask: int = 0,
    end_mask: int = 0,
    ellipsis_mask: int = 0,
    new_axis_mask: int = 0,
    shrink_axis_mask: int = 0,
) -> Any:
    """Write a new axis as ExpandDims; TFLite's StridedSlice cannot add one."""
    new_axis_mask &= ~ellipsis_mask  # as in TensorFlow, where an ellipsis comes first
    count = begin.shape[0]
    if not new_axis_mask or input.shape.rank is None or count is None:
        return None
    kept = [i for i in range(count) if not new_axis_mask >> i & 1]

    def renumbered(mask: int) -> int:
        return sum((mask >> i & 1) << n for n, i in enumerate(kept))

    steps = tf.get_static_value(strides)
    whole = (begin_mask & end_mask & ~shrink_axis_mask) | ellipsis_mask
    result = input
    if any(
        not ellipsis_mask >> i & 1 and not (whole >> i & 1 and steps is not None and steps[i] == 1)
        for i in kept
    ):
        result = tf.strided_slice(
            input,
            *(_entries(values, kept) for values in (begin, end, strides)),
            begin_mask=renumbered(begin_mask),
            end_mask=renumbered(end_mask),
            ellipsis_mask=renumbered(ellipsis_mask),
            shrink_axis_mask=renumbered(shrink_axis_mask),
        )
    axis = 0
    for i in range(count):
        if i not in kept:
            result = tf.expand_dims(result, axis)
        if ellipsis_mask >> i & 1:
            axis += input.shape.rank - (len(kept) - 1)
        elif i not in kept or not shrink_axis_mask >> i & 1:
            axis += 1
    return result


def _entries(values: Any, kept: Sequence[int]) -> Any:
    static = tf.get_static_value(values)
    if static is None:
        return tf.gather(values, tf.constant(kept, tf.int32))
    return tf.constant(static[list(kept)], values.dtype)


def _einsum(inputs: Sequence[Any], equation: str | bytes) -> Any:
    """Write the axes of an ellipsis as letters, which tf2onnx requires."""
    text = tf.compat.as_str(equation).replace(" ", "")
    if "..." not in text or any(tensor.shape.rank is None for tensor in inputs):
        return None
    left, _, right = text.partition("->")
    terms = left.split(",")
    free = [letter for letter in string.ascii_letters if letter not in text]
    sizes = [
        tensor.shape.rank - len(term.replace("...", "")) if "..." in term else 0
        for term, tensor in zip(terms, inputs, strict=True)
    ]
    # Axes of an ellipsis are aligned at the right. Shorter ones get leading axes of size 1, and
    # an axis of size 1 is broadcast, which a letter does not do.
    if len({n for n, term in zip(sizes, terms, strict=True) if "..." in term}) > 1:
        return None
    letters = "".join(free[: max(sizes)])
    axes = [
        [tensor.shape[term.index("...") + i] for i in range(len(letters))]
        for term, tensor in zip(terms, inputs, strict=True)
        if "..." in term
    ]
    if any((1 in column) and set(column) != {1} for column in zip(*axes, strict=True)):
        return None
    return tf.raw_ops.Einsum(inputs=inputs, equation=f"{left}->{right}".replace("...", letters))


def _select(condition: Any, t: Any, e: Any) -> Any:
    """Select between bools by logic; onnxruntime has no Where of bool."""
    first, second = t, e
    if first.dtype != tf.bool:
        return None
    return tf.logical_or(
        tf.logical_and(condition, first), tf.logical_and(tf.logical_not(condition), second)
    )


def _add_n(inputs: Sequence[Any]) -> Any:
    """Add integers one by one; ONNX's Sum takes floats only."""
    if inputs[0].dtype.is_floating:
        return None
    total = inputs[0]
    for tensor in inputs[1:]:
        total = tf.add(total, tensor)
    return total


def _truncate_mod(x: Any, y: Any) -> Any:
    """Give the remainder of the absolute values the sign of x; no format has C's remainder."""
    if x.dtype.is_unsigned:
        return tf.math.floormod(x, y)
    return tf.sign(x) * tf.math.floormod(tf.abs(x), tf.abs(y))


def _xlogy(x: Any, y: Any) -> Any:
    """Write x * log(y), and 0 for x = 0; ONNX has no such operator."""
    return _zero_where(x, x * tf.math.log(y))


def _xlog1py(x: Any, y: Any) -> Any:
    """Write x * log(1 + y), and 0 for x = 0."""
    return _zero_where(x, x * tf.math.log1p(y))


def _xdivy(x: Any, y: Any) -> Any:
    """Write x / y, and 0 for x = 0."""
    return _zero_where(x, x / y)


def _mul_no_nan(x: Any, y: Any) -> Any:
    """Write x * y, and 0 for y = 0."""
    return _zero_where(y, x * y)


def _zero_where(factor: Any, product: Any) -> Any:
    zero = tf.zeros([], product.dtype)
    return tf.where(tf.equal(factor, zero), zero, product)


def _l2_loss(t: Any) -> Any:
    """Write sum(x ** 2) / 2."""
    return tf.reduce_sum(tf.square(t)) / 2


def _euclidean_norm(input: Any, reduction_indices: Any, keep_dims: bool = False) -> Any:  # noqa: A002, FBT001, FBT002
    """Write sqrt(sum(x ** 2))."""
    return tf.sqrt(tf.reduce_sum(tf.square(input), reduction_indices, keepdims=keep_dims))


def _cross(a: Any, b: Any) -> Any:
    """Write the products of rotated vectors."""

    def rotated(tensor: Any, places: list[int]) -> Any:
        return tf.gather(tensor, places, axis=-1)

    return rotated(a, [1, 2, 0]) * rotated(b, [2, 0, 1]) - rotated(a, [2, 0, 1]) * rotated(
        b, [1, 2, 0]
    )


def _segment_mean(data: Any, segment_ids: Any) -> Any:
    """Divide sums by counts."""
    count = tf.math.segment_sum(tf.ones_like(segment_ids, data.dtype), segment_ids)
    shape = tf.concat([tf.shape(count), tf.ones([len(data.shape) - 1], tf.int32)], 0)
    return tf.math.segment_sum(data, segment_ids) / tf.reshape(tf.maximum(count, 1), shape)


# Of a segment without rows, tf2onnx makes an infinity, and TensorFlow the last finite number.
_WITHOUT_ROWS: dict[str, Callable[[Any], Any]] = {
    "UnsortedSegmentMax": lambda found: tf.maximum(found, found.dtype.min),
    "UnsortedSegmentMin": lambda found: tf.minimum(found, found.dtype.max),
}


def _unsorted_segments(operator: str) -> Form:
    def form(data: Any, segment_ids: Any, num_segments: Any) -> Any:
        """Merge the axes of the ids, of which tf2onnx takes one, and add a row to an extra segment.

        tf2onnx's operators do not run without a row.
        """
        rank = segment_ids.shape.rank
        if rank is None:
            return None
        ids, rows, tail = segment_ids, data, data.shape[rank:]
        if rank != 1:
            rows = tf.reshape(data, tf.concat([[-1], tf.shape(data)[rank:]], 0))
            rows.set_shape([None, *tail])
            ids = tf.reshape(segment_ids, [-1])
        elif data.shape[0] is not None:
            return None
        rows = tf.concat([rows, tf.zeros([1, *_sizes(data)[rank:]], data.dtype)], 0)
        ids = tf.concat([ids, tf.cast([num_segments], ids.dtype)], 0)
        with as_they_are(operator):
            found = write_operator(
                operator, data=rows, segment_ids=ids, num_segments=num_segments + 1
            )
        found = found[:num_segments]
        if data.dtype.is_floating and operator in _WITHOUT_ROWS:
            found = _WITHOUT_ROWS[operator](found)
        found.set_shape([tf.get_static_value(num_segments), *tail])
        return found

    return form


def _segments(operator: Callable[[Any, Any, Any], Any]) -> Form:
    def form(data: Any, segment_ids: Any) -> Any:
        """Write the operator that is told the number; TFLite has a sum without gaps only."""
        number = (
            tf.reduce_max(tf.concat([segment_ids, tf.constant([-1], segment_ids.dtype)], 0)) + 1
        )
        found = operator(data, segment_ids, number)
        if operator is tf.math.unsorted_segment_sum:
            return found
        count = tf.math.unsorted_segment_sum(tf.ones_like(segment_ids), segment_ids, number)
        shape = tf.concat([tf.shape(count), tf.ones([len(data.shape) - 1], tf.int32)], 0)
        # A segment without rows is zero here, and the least number there.
        return tf.where(tf.reshape(count, shape) > 0, found, tf.zeros([], data.dtype))

    return form


def _ragged_to_tensor(
    shape: Any,
    values: Any,
    default_value: Any,
    row_partition_tensors: Sequence[Any],
    row_partition_types: Sequence[str | bytes],
) -> Any:
    """Gather the rows, with the default value after them; TFLite has no ragged tensors."""
    kinds = [tf.compat.as_str(kind) for kind in row_partition_types]
    if shape.shape.rank == 0:  # -1 for a shape that is not given
        shape = tf.fill([2], shape)
    wanted = tf.get_static_value(shape)
    if kinds != ["ROW_SPLITS"] or None in (values.shape.rank, shape.shape.rank):
        return None
    if wanted is not None and any(
        size not in (-1, known) for size, known in zip(wanted[2:], values.shape[1:], strict=False)
    ):
        return None
    splits = tf.cast(row_partition_tensors[0], tf.int32)
    starts, ends = splits[:-1], splits[1:]
    shape = tf.cast(shape, tf.int32)
    longest = tf.reduce_max(tf.concat([ends - starts, [0]], 0))
    if wanted is None or wanted[0] != -1:
        rows = tf.where(shape[0] < 0, tf.size(starts), shape[0])
        starts, ends = (tf.pad(part, [[0, rows]])[:rows] for part in (starts, ends))
    width = (
        longest
        if wanted is not None and wanted[1] == -1
        else (tf.where(shape[1] < 0, longest, shape[1]))
    )
    places = tf.expand_dims(starts, 1) + tf.range(width)
    count = tf.shape(values)[0]
    places = tf.where(places < tf.expand_dims(ends, 1), places, count)
    default = tf.broadcast_to(default_value, _sizes(values)[1:])
    return tf.gather(tf.concat([values, tf.expand_dims(default, 0)], 0), places)


def _broadcast_args(s0: Any, s1: Any) -> Any:
    """Select sizes other than 1; ONNX has no operator for the common shape."""
    if s0.shape[0] is None or s1.shape[0] is None:
        return None
    rank = max(s0.shape[0], s1.shape[0])
    one, other = (
        tf.concat([tf.ones([rank - shape.shape[0]], shape.dtype), shape], 0) for shape in (s0, s1)
    )
    return tf.where(tf.equal(one, 1), other, one)


# The matrix operators with one diagonal. tf2onnx writes them with loops that do not run for free
# axes, and TFLite has only some of them.


def _diagonal(k: Any) -> int | None:
    value = tf.get_static_value(k)
    if value is None or np.unique(value).size != 1:
        return None  # a band
    return int(np.ravel(value)[0])


def _sizes(tensor: Any) -> list[Any]:
    sizes = tf.shape(tensor)
    return [size if size is not None else sizes[i] for i, size in enumerate(tensor.shape)]


def _on_diagonal(rows: Any, columns: Any, k: int) -> Any:
    return tf.equal(tf.expand_dims(tf.range(rows) + k, 1), tf.expand_dims(tf.range(columns), 0))


def _matrix_diag(  # noqa: PLR0913, PLR0917 - the inputs of MatrixDiagV3
    diagonal: Any,
    k: Any,
    num_rows: Any,
    num_cols: Any,
    padding_value: Any,
    align: str | bytes = "RIGHT_LEFT",
) -> Any:
    """Select the vector on the diagonal, and the padding elsewhere."""
    offset = _diagonal(k)
    sizes = [tf.get_static_value(size) for size in (num_rows, num_cols)]
    if offset is None or np.size(tf.get_static_value(k)) != 1:
        return None
    if tf.compat.as_str(align) != "RIGHT_LEFT" or any(size is None or size != -1 for size in sizes):
        return None
    before = [[0, 0]] * (len(diagonal.shape) - 1)
    vector = tf.pad(diagonal, [*before, [max(-offset, 0), max(offset, 0)]])
    size = _sizes(vector)[-1]
    return tf.where(
        _on_diagonal(size, size, offset),
        tf.expand_dims(vector, -1),
        tf.cast(padding_value, vector.dtype),
    )


def _matrix_set_diag(input: Any, diagonal: Any, k: Any, align: str | bytes = "RIGHT_LEFT") -> Any:  # noqa: A002
    """Select the vector on the diagonal, and the matrix elsewhere."""
    matrix, vector = input, diagonal
    if (
        _diagonal(k) != 0
        or tf.compat.as_str(align) != "RIGHT_LEFT"
        or len(vector.shape) != len(matrix.shape) - 1
    ):
        return None
    rows, columns = _sizes(matrix)[-2:]
    # The vector has as many elements as the shorter side of the matrix.
    missing = tf.maximum(rows - columns, 0)
    before = [[0, 0]] * (len(vector.shape) - 1)
    vector = tf.pad(vector, [*before, [0, missing]])
    return tf.where(_on_diagonal(rows, columns, 0), tf.expand_dims(vector, -1), matrix)


def _matrix_diag_part(
    input: Any,  # noqa: A002
    k: Any,
    padding_value: Any,
    align: str | bytes = "RIGHT_LEFT",
) -> Any:
    """Sum the rows of the matrix with zeros beside the diagonal."""
    del padding_value, align  # for several diagonals of different lengths
    matrix, offset = input, _diagonal(k)
    if offset is None or np.size(tf.get_static_value(k)) != 1:
        return None
    if matrix.dtype == tf.bool or matrix.shape.rank is None:
        return None
    part = matrix[..., max(-offset, 0) :, max(offset, 0) :]
    rows, columns = _sizes(part)[-2:]
    length = tf.minimum(rows, columns)
    part = part[..., :length, :length]
    zero = tf.zeros([], matrix.dtype)
    return tf.reduce_sum(tf.where(_on_diagonal(length, length, 0), part, zero), -1)


def _integer_matmul(x: Any, y: Any, transpose_x: bool, transpose_y: bool) -> Any:  # noqa: FBT001
    """Sum the products of integers; the formats multiply matrices of floats."""
    if x.dtype not in (tf.int32, tf.int64) or None in (x.shape.rank, y.shape.rank):
        return None
    # Both with the summed axis last: [..., n, 1, k] * [..., 1, m, k].
    rows = tf.linalg.matrix_transpose(x) if transpose_x else x
    columns = y if transpose_y else tf.linalg.matrix_transpose(y)
    return tf.reduce_sum(tf.expand_dims(rows, -2) * tf.expand_dims(columns, -3), -1)


def _matmul(
    a: Any,
    b: Any,
    transpose_a: bool = False,  # noqa: FBT001, FBT002
    transpose_b: bool = False,  # noqa: FBT001, FBT002
    **_: Any,
) -> Any:
    return _integer_matmul(a, b, transpose_a, transpose_b)


def _batch_matmul(
    x: Any,
    y: Any,
    adj_x: bool = False,  # noqa: FBT001, FBT002
    adj_y: bool = False,  # noqa: FBT001, FBT002
    **_: Any,
) -> Any:
    return _integer_matmul(x, y, adj_x, adj_y)


def _transpose(x: Any, perm: Any) -> Any:
    """Count axes from the front; tf2onnx passes negative ones on."""
    axes = tf.get_static_value(perm)
    if axes is None or not np.any(axes < 0):
        return None
    return tf.transpose(x, axes % len(axes))


def _cumprod(x: Any, axis: Any, **arguments: Any) -> Any:
    """Count the axis from the front; tf2onnx passes a negative one on."""
    place = tf.get_static_value(axis)
    if place is None or place >= 0 or x.shape.rank is None:
        return None
    return tf.raw_ops.Cumprod(x=x, axis=int(place) % x.shape.rank, **arguments)


def _cumulative_logsumexp(
    x: Any,
    axis: Any,
    exclusive: bool = False,  # noqa: FBT001, FBT002
    reverse: bool = False,  # noqa: FBT001, FBT002
) -> Any:
    """Combine exponents in pairs; no format has the operator."""

    def combine(one: Any, other: Any) -> Any:
        largest = tf.clip_by_value(tf.maximum(one, other), x.dtype.min, x.dtype.max)
        return largest + tf.math.log(tf.exp(one - largest) + tf.exp(other - largest))

    return cumulative(x, axis, exclusive, reverse, combine=combine, neutral=x.dtype.min)


def _in_top_k(predictions: Any, targets: Any, k: Any) -> Any:
    """Count the larger numbers of each row; no format has the operator."""
    classes = tf.cast(tf.shape(predictions)[1], targets.dtype)
    known = tf.logical_and(targets >= 0, targets < classes)
    # Of an unknown class the first is read, if there is one.
    places = tf.expand_dims(tf.where(known, targets, tf.zeros_like(targets)), 1)
    own = tf.gather(predictions, places, batch_dims=1)
    larger = tf.reduce_sum(tf.cast(predictions > own, tf.int32), 1)
    finite = tf.reduce_all(tf.math.is_finite(predictions), 1)
    return tf.logical_and(tf.logical_and(known, finite), larger < tf.cast(k, tf.int32))


def _extract_patches(
    images: Any, ksizes: Any, strides: Any, rates: Any, padding: str | bytes
) -> Any:
    """Convolve with a kernel that copies each element of a patch; no format has the operator."""
    channels = images.shape[-1]
    if channels is None:
        return None
    rows, columns = (int(size) for size in ksizes[1:3])
    size = rows * columns * channels
    kernel = np.eye(size, dtype=np.float32).reshape(rows, columns, channels, size)
    floats = images if images.dtype.is_floating else tf.cast(images, tf.float32)
    found = tf.nn.conv2d(
        floats,
        tf.constant(kernel, floats.dtype),
        [int(step) for step in strides[1:3]],
        tf.compat.as_str(padding),
        dilations=[int(rate) for rate in rates[1:3]],
    )
    return tf.cast(found, images.dtype)


def _ctc_greedy_decoder(
    inputs: Any,
    sequence_length: Any,
    merge_repeated: bool = False,  # noqa: FBT001, FBT002
    blank_index: int = -1,
) -> Any:
    """Keep the steps of each row whose best class is no blank, nor that of the step before."""
    steps, batch, classes = _sizes(inputs)
    best = tf.argmax(tf.transpose(inputs, [1, 0, 2]), -1)  # [batch, time]
    valid = tf.range(steps) < tf.expand_dims(sequence_length, 1)
    kept = tf.logical_and(valid, best != tf.cast(blank_index % classes, best.dtype))
    if merge_repeated:
        before = tf.concat([tf.fill([batch, 1], tf.constant(-1, best.dtype)), best[:, :-1]], 1)
        kept = tf.logical_and(kept, best != before)
    places = tf.cumsum(tf.cast(kept, tf.int32), 1) - 1
    found = tf.where(kept)  # [labels, 2]: row and step
    columns = tf.cast(tf.gather_nd(places, found), tf.int64)
    length = tf.reduce_max(tf.concat([tf.reshape(places, [-1]), [-1]], 0)) + 1
    largest = tf.where(valid, tf.transpose(tf.reduce_max(inputs, -1)), tf.zeros([], inputs.dtype))
    return [
        tf.stack([found[:, 0], columns], 1),
        tf.gather_nd(best, found),
        tf.cast(tf.stack([batch, length]), tf.int64),
        -tf.reduce_sum(largest, 1, keepdims=True),
    ]


def _lower_bound(sorted_inputs: Any, values: Any, out_type: Any = tf.int32) -> Any:
    """Count the elements below each value; no format has a binary search."""
    before = tf.expand_dims(sorted_inputs, 1) < tf.expand_dims(values, 2)
    return tf.reduce_sum(tf.cast(before, out_type), 2)


def _upper_bound(sorted_inputs: Any, values: Any, out_type: Any = tf.int32) -> Any:
    """Count the elements up to each value."""
    before = tf.expand_dims(sorted_inputs, 1) <= tf.expand_dims(values, 2)
    return tf.reduce_sum(tf.cast(before, out_type), 2)


def _shape_n(input: Sequence[Any], out_type: Any = tf.int32) -> Any:  # noqa: A002
    """Write one Shape per tensor."""
    return [tf.shape(tensor, out_type=out_type) for tensor in input]


# The dtypes in which an operator runs where onnxruntime lacks its own.
_BOOL = {tf.bool: tf.int32}

_REAL_FORMS: dict[str, Form] = {
    "AddN": _add_n,
    "ArgMax": in_other_dtypes("ArgMax", _BOOL),
    "ArgMin": in_other_dtypes("ArgMin", _BOOL),
    "BatchMatMul": _batch_matmul,
    "BatchMatMulV2": _batch_matmul,
    "BatchMatMulV3": _batch_matmul,
    "BroadcastArgs": _broadcast_args,
    "CTCGreedyDecoder": _ctc_greedy_decoder,
    "Cross": _cross,
    "Cumprod": _cumprod,
    "CumulativeLogsumexp": _cumulative_logsumexp,
    "Einsum": _einsum,
    "EuclideanNorm": _euclidean_norm,
    "ExtractImagePatches": _extract_patches,
    "InTopKV2": _in_top_k,
    "L2Loss": _l2_loss,
    "LowerBound": _lower_bound,
    "MatMul": _matmul,
    "MatrixDiagPartV3": _matrix_diag_part,
    "MatrixDiagV3": _matrix_diag,
    "MatrixSetDiagV3": _matrix_set_diag,
    "Mod": _truncate_mod,
    "MulNoNan": _mul_no_nan,
    "PadV2": in_other_dtypes("PadV2", {**_BOOL, tf.uint8: tf.int32, tf.int8: tf.int32}),
    "RaggedTensorToTensor": _ragged_to_tensor,
    "SegmentMax": _segments(tf.math.unsorted_segment_max),
    "SegmentMean": _segment_mean,
    "SegmentMin": _segments(tf.math.unsorted_segment_min),
    "SegmentSum": _segments(tf.math.unsorted_segment_sum),
    "SelectV2": _select,
    "ShapeN": _shape_n,
    "StridedSlice": _strided_slice,
    "Transpose": _transpose,
    "TruncateMod": _truncate_mod,
    "UnsortedSegmentMax": _unsorted_segments("UnsortedSegmentMax"),
    "UnsortedSegmentMin": _unsorted_segments("UnsortedSegmentMin"),
    "UnsortedSegmentProd": _unsorted_segments("UnsortedSegmentProd"),
    "UnsortedSegmentSum": _unsorted_segments("UnsortedSegmentSum"),
    "UpperBound": _upper_bound,
    "Xdivy": _xdivy,
    "Xlog1py": _xlog1py,
    "Xlogy": _xlogy,
}

COMMON_FORMS: dict[str, Form] = {
    **_REAL_FORMS,
    **{
        operator: combined(form, *([_REAL_FORMS[operator]] if operator in _REAL_FORMS else []))
        for operator, form in SPECTRUM_FORMS.items()
    },
}
"""The forms by the type of operator."""

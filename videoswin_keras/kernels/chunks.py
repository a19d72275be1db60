"""Work in chunks, so that intermediate values stay in a processor's cache.

On a CPU, memory limits a block as soon as the attention weights and the hidden layer of whole clips are written there.
So they are computed for a few windows, or a few tokens, at a time. On a GPU the chunks are large: there they only
limit how much is held at once.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np
from keras import ops

from videoswin_keras.kernels import device
from videoswin_keras.kernels.dispatch import fast
from videoswin_keras.kernels.plain import output_and_term

CHUNK_BYTES = dict(fast.CHUNK_BYTES)

_is_whole = ContextVar("_is_whole", default=False)


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Computes everything in one chunk within."""
    token = _is_whole.set(True)
    try:
        yield
    finally:
        _is_whole.reset(token)


def is_known(*sizes: Any) -> bool:
    """Whether every size is a Python integer, not a tensor of a graph."""
    return all(isinstance(size, int) for size in sizes)


def chunk_length(x: Any, count: Any, bytes_each: Any) -> int | None:
    """Returns how many items make a chunk, a divisor of `count`; None where all of them are one.

    Args:
        x: Tensor that is computed on, (batch, …). A batch that is not known counts as one.
        count: Items of each one of the batch; a number that is not known makes one chunk.
        bytes_each: Bytes of intermediate values that an item needs.
    """
    if _is_whole.get() or not is_known(count, bytes_each) or not fast.can_loop(x):
        return None
    batch = ops.shape(x)[0]
    each = bytes_each * (batch if is_known(batch) else 1)
    most = CHUNK_BYTES["cpu" if device.is_on_cpu(x) else "gpu"] // max(each, 1)
    return None if most >= count else _largest_divisor(count, max(most, 1))


@functools.lru_cache(maxsize=256)
def _largest_divisor(count: int, most: int) -> int:
    return max(length for length in range(1, most + 1) if count % length == 0)


def over_tokens(function: Callable[[Any], Any], x: Any, bytes_each: Any) -> Any:
    """Takes a few tokens at a time. See `plain.over_tokens`."""
    shape = ops.shape(x)
    (rows,) = fast.rows_of_batch([x])
    batch, *sides, channels = ops.shape(rows)
    count = math.prod(sides)
    length = chunk_length(rows, count, bytes_each)
    if length is None:
        return function(x)
    tokens = ops.reshape(rows, (batch, count, channels))
    if fast.LOOPS_IN_PYTHON:
        outputs = _in_python(lambda chunk, _: function(chunk), [tokens], None, length, by_mask=False)
    else:
        outputs = _in_loop(lambda chunk, _: function(chunk), [tokens], None, length, (batch, count))
    return ops.reshape(outputs, shape)


def over_windows(function: Callable, tensors: list, shift_mask: Any, bytes_each: Any, by_mask: bool = True) -> Any:
    """Takes a few windows at a time. See `plain.over_windows`.

    `by_mask` says whether, in Python, only windows of one mask are taken together: fused attention is fast then.
    """
    rows = fast.rows_of_batch(tensors)
    length = chunk_length(rows[0], ops.shape(rows[0])[1], bytes_each)
    by_mask = by_mask and shift_mask is not None and shift_mask.is_known and not _is_whole.get()
    if fast.LOOPS_IN_PYTHON and (length or by_mask):
        return _in_python(function, tensors, shift_mask, length, by_mask)
    if length is None:
        return function(*tensors, None if shift_mask is None else shift_mask.masks())
    return _in_loop(function, rows, shift_mask, length, ops.shape(tensors[0])[:2])


def _in_python(function: Callable, tensors: list, shift_mask: Any, length: int | None, by_mask: bool) -> Any:
    """Takes at most `length` windows together, and only those of one mask if so wished."""
    changes = (np.flatnonzero(np.diff(shift_mask.patterns)) + 1).tolist() if by_mask else []
    outputs: list = []
    total = None
    for begin, end in itertools.pairwise([0, *changes, ops.shape(tensors[0])[1]]):
        step = length or end - begin
        for first in range(begin, end, step):
            last = min(first + step, end)
            masks = None if shift_mask is None else _masks(shift_mask, first, last, by_mask)
            output, term = output_and_term(function(*(x[:, first:last] for x in tensors), masks))
            outputs.append(output)
            total = term if total is None else total + term
    output = ops.concatenate(outputs, axis=1)
    return output if total is None else (output, total)


def _masks(shift_mask: Any, first: int, last: int, are_same: bool) -> Any:
    """Returns the masks of some windows: one if they are the same, None if that hides nothing."""
    if not are_same:
        return shift_mask.masks(shift_mask.patterns[first:last])
    pattern = shift_mask.patterns[first : first + 1]
    return shift_mask.masks(pattern) if shift_mask.regions[pattern].any() else None


def _in_loop(function: Callable, tensors: list, shift_mask: Any, length: int, leading: tuple) -> Any:
    """Takes `length` windows at a time; outputs are (*leading, …)."""
    chunks = [_cut(x, length) for x in tensors]
    if shift_mask is not None:
        patterns = np.tile(shift_mask.patterns, ops.shape(tensors[0])[1] // len(shift_mask.patterns))
        chunks.append(ops.reshape(ops.convert_to_tensor(patterns), (len(patterns) // length, length)))

    def of_chunk(*chunk: Any) -> Any:
        return function(*chunk, None) if shift_mask is None else function(*chunk[:-1], shift_mask.masks(chunk[-1]))

    output, total = fast.loop(of_chunk, chunks)
    output = _joined(output, leading)
    return output if total is None else (output, total)


def _cut(x: Any, length: int) -> Any:
    """(batch, count, …) → (chunks, batch, length, …)."""
    batch, count, *rest = ops.shape(x)
    return ops.swapaxes(ops.reshape(x, (batch, count // length, length, *rest)), 0, 1)


def _joined(chunks: Any, leading: tuple) -> Any:
    """Undoes `_cut`: (chunks, batch, length, …) → (*leading, …), the batch and the count."""
    return ops.reshape(ops.swapaxes(chunks, 0, 1), (*leading, *ops.shape(chunks)[3:]))

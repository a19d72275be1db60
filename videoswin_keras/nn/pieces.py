"""Work cut into pieces, so that what is computed on the way stays in a processor's cache.

On a CPU, what a block computes is bound by memory as soon as the attention weights and the hidden layer of whole clips
are written there. So they are computed for a few windows, or a few tokens, at a time. On a GPU the pieces
are large: there they only bound what is held at once.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras.nn import windows

# Of intermediate values. PyTorch's own fused functions keep most of theirs in the cache, however large the piece.
PIECE_BYTES = {"cpu": (64 if keras.backend.backend() == "torch" else 16) * 2**20, "gpu": 256 * 2**20}

_is_whole = ContextVar("_is_whole", default=False)


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Computes everything in one piece within."""
    token = _is_whole.set(True)
    try:
        yield
    finally:
        _is_whole.reset(token)


def piece_length(x: Any, count: Any, bytes_each: Any) -> int | None:
    """Returns how many items make a piece, a divisor of `count`; None where all of them are one.

    Args:
        x: Tensor that is computed on, (batch, …). A batch that is not known counts as one.
        count: Items of each one of the batch; a number that is not known makes one piece.
        bytes_each: Bytes of intermediate values that an item needs.
    """
    if _is_whole.get() or not windows.is_static(count, bytes_each) or would_compile_each_time(x):
        return None
    batch = ops.shape(x)[0]
    each = bytes_each * (batch if windows.is_static(batch) else 1)
    most = PIECE_BYTES["cpu" if is_on_cpu(x) else "gpu"] // max(each, 1)
    return None if most >= count else _largest_divisor(count, max(most, 1))


@functools.lru_cache(maxsize=256)
def _largest_divisor(count: int, most: int) -> int:
    return max(length for length in range(1, most + 1) if count % length == 0)


def is_on_cpu(x: Any) -> bool:
    """Whether `x` is on a CPU; on TensorFlow and JAX, whether the machine has nothing else."""
    if keras.backend.backend() == "torch":
        return x.device.type == "cpu"
    return all(device.lower().startswith("cpu") for device in keras.distribution.list_devices())


def multiplies_in_float32(x: Any, dtype: Any) -> bool:
    """Whether products of `dtype` with a float32 result are faster, of matrices that are not transposed.

    They are of bfloat16 on JAX on a CPU.
    """
    is_bfloat16 = keras.backend.standardize_dtype(dtype) == "bfloat16"
    return keras.backend.backend() == "jax" and is_bfloat16 and is_on_cpu(x)


def after(x: Any) -> contextlib.AbstractContextManager:
    """Within, everything waits for `x` in a graph of TensorFlow: also what could be computed, and held, long before."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    from videoswin_keras.nn import tensorflow_functions

    return tensorflow_functions.after(x)


def would_compile_each_time(x: Any) -> bool:
    """Whether this is JAX with values, not in `jit`: there a loop or a condition is compiled anew in every call."""
    if keras.backend.backend() != "jax":
        return False
    from videoswin_keras.nn import jax_functions

    return jax_functions.has_values(x)


def over_tokens(function: Callable[[Any], Any], x: Any, bytes_each: Any) -> Any:
    """Returns `function(x)`, computed in pieces.

    Args:
        function: From (batch, tokens, channels) to the same shape, each token alone; a piece may be of several clips,
            as if of one.
        x: (batch, …, channels), with at least one axis between.
        bytes_each: Bytes of intermediate values that a token needs.
    """
    shape = ops.shape(x)
    (rows,) = _in_a_row([x])
    batch, *sides, channels = ops.shape(rows)
    count = math.prod(sides)
    length = piece_length(rows, count, bytes_each)
    if length is None:
        return function(x)
    tokens = ops.reshape(rows, (batch, count, channels))
    if keras.backend.backend() == "torch":
        outputs = _one_by_one(lambda piece, _: function(piece), [tokens], None, length, by_mask=False)
    else:
        outputs = _in_a_loop(lambda piece, _: function(piece), [tokens], None, length, (batch, count))
    return ops.reshape(outputs, shape)


def over_windows(
    function: Callable, arrays: list, seam: windows.Seam | None, bytes_each: Any, by_mask: bool = True
) -> Any:
    """Returns `function(*arrays, masks)`, computed in pieces.

    Args:
        function: Takes pieces of the arrays, and masks (windows or 1, tokens, tokens), None where there are none.
            Returns what has the shape of the first, or fewer channels, each window alone; or a tuple of that and of a
            tensor that is summed over the pieces. A piece may be of several clips, as if of one: what differs between
            clips must be among the arrays.
        arrays: Each (batch, windows, tokens, channels), the first with the most channels. Heads will do for windows.
        seam: The masks of the windows, or None.
        bytes_each: Bytes of intermediate values that a window needs.
        by_mask: Whether on PyTorch only windows of one mask are taken together, where its fused attention is fast.
    """
    rows = _in_a_row(arrays)
    length = piece_length(rows[0], ops.shape(rows[0])[1], bytes_each)
    by_mask = by_mask and seam is not None and isinstance(seam.kinds, np.ndarray) and not _is_whole.get()
    if keras.backend.backend() == "torch" and (length or by_mask):
        return _one_by_one(function, arrays, seam, length, by_mask)
    if length is None:
        return function(*arrays, None if seam is None else seam.masks(seam.kinds))
    return _in_a_loop(function, rows, seam, length, ops.shape(arrays[0])[:2])


def _one_by_one(function: Callable, arrays: list, seam: windows.Seam | None, length: int | None, by_mask: bool) -> Any:
    """Takes at most `length` windows together, and only those of one mask if so wished."""
    changes = (np.flatnonzero(np.diff(seam.kinds)) + 1).tolist() if seam and by_mask else []
    outputs: list = []
    total = None
    for begin, end in itertools.pairwise([0, *changes, ops.shape(arrays[0])[1]]):
        step = length or end - begin
        for first in range(begin, end, step):
            last = min(first + step, end)
            masks = None if seam is None else _masks(seam, first, last, by_mask)
            output, term = _parts(function(*(x[:, first:last] for x in arrays), masks))
            outputs.append(output)
            total = term if total is None else total + term
    output = ops.concatenate(outputs, axis=1)
    return output if total is None else (output, total)


def _masks(seam: windows.Seam, first: int, last: int, are_same: bool) -> Any:
    """Returns the masks of some windows: one if they are the same, none if that masks nothing."""
    if not are_same:
        return seam.masks(seam.kinds[first:last])
    return seam.masks(seam.kinds[first : first + 1]) if seam.regions[seam.kinds[first]].any() else None


def _in_a_loop(function: Callable, arrays: list, seam: windows.Seam | None, length: int, leading: tuple) -> Any:
    """Takes `length` windows at a time; outputs are (*leading, …)."""
    pieces = [_cut(x, length) for x in arrays]
    if seam is not None:
        kinds = np.tile(seam.kinds, ops.shape(arrays[0])[1] // len(seam.kinds))
        pieces.append(ops.reshape(ops.convert_to_tensor(kinds), (len(kinds) // length, length)))

    def of_piece(*piece: Any) -> Any:
        return function(*piece, None) if seam is None else function(*piece[:-1], seam.masks(piece[-1]))

    if keras.backend.backend() == "jax":
        from videoswin_keras.nn import jax_functions

        output, total = jax_functions.loop(lambda *piece: _parts(of_piece(*piece)), pieces)
    else:
        output, total = _parts(ops.map(lambda piece: of_piece(*piece), tuple(pieces)))
        total = None if total is None else ops.sum(total, axis=0)
    output = _joined(output, leading)
    return output if total is None else (output, total)


def _parts(outputs: Any) -> tuple[Any, Any]:
    """Returns what is joined, and what is summed or None."""
    return (outputs[0], outputs[1]) if isinstance(outputs, tuple | list) else (outputs, None)


def _in_a_row(arrays: list) -> list:
    """Each (batch, count, …) → (1, batch · count, …) on JAX on a CPU: pieces of one clip after the other are faster.

    Not on several devices: a batch that is spread over them would be gathered. Not outside `jit`: it would be a copy.
    """
    first = arrays[0]
    batch, count = ops.shape(first)[:2]
    if keras.backend.backend() != "jax" or not windows.is_static(batch, count) or would_compile_each_time(first):
        return arrays
    if not is_on_cpu(first) or len(keras.distribution.list_devices()) > 1:
        return arrays
    return [ops.reshape(x, (1, batch * count, *ops.shape(x)[2:])) for x in arrays]


def _cut(x: Any, length: int) -> Any:
    """(batch, count, …) → (pieces, batch, length, …)."""
    batch, count, *rest = ops.shape(x)
    return ops.swapaxes(ops.reshape(x, (batch, count // length, length, *rest)), 0, 1)


def _joined(pieces: Any, leading: tuple) -> Any:
    """Undoes `_cut`: (pieces, batch, length, …) → (*leading, …), the batch and the count."""
    return ops.reshape(ops.swapaxes(pieces, 0, 1), (*leading, *ops.shape(pieces)[3:]))

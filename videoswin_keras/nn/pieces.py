"""Work cut into pieces, so that what is computed on the way stays in a processor's cache.

On a CPU, what a block computes is bound by memory as soon as the attention weights and the hidden layer of whole clips
are written there. So they are computed for a few windows, or a few tokens, of each clip at a time. On a GPU the pieces
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
        x: Tensor that is computed on, (batch, count, …). A batch that is not known counts as one clip.
        count: Items of a clip; a number that is not known makes one piece.
        bytes_each: Bytes of intermediate values that an item needs.
    """
    if _is_whole.get() or not windows.is_static(count, bytes_each) or _would_compile_each_time(x):
        return None
    batch = ops.shape(x)[0]
    each = bytes_each * (batch if windows.is_static(batch) else 1)
    most = PIECE_BYTES["cpu" if _is_on_cpu(x) else "gpu"] // max(each, 1)
    return None if most >= count else _largest_divisor(count, max(most, 1))


@functools.lru_cache(maxsize=256)
def _largest_divisor(count: int, most: int) -> int:
    return max(length for length in range(1, most + 1) if count % length == 0)


def _is_on_cpu(x: Any) -> bool:
    """Whether `x` is on a CPU; on TensorFlow and JAX, whether the machine has nothing else."""
    if keras.backend.backend() == "torch":
        return x.device.type == "cpu"
    return all(device.lower().startswith("cpu") for device in keras.distribution.list_devices())


def _would_compile_each_time(x: Any) -> bool:
    """Whether this is JAX with values, not in `jit`: there a loop is compiled anew in every call."""
    return keras.backend.backend() == "jax" and all(base.__name__ != "Tracer" for base in type(x).__mro__)


def over_tokens(function: Callable[[Any], Any], x: Any, bytes_each: int) -> Any:
    """Returns `function(x)`, computed in pieces.

    Args:
        function: From (…, channels) to the same shape, each token alone.
        x: (batch, frames, height, width, channels).
        bytes_each: Bytes of intermediate values that a token needs.
    """
    shape = ops.shape(x)
    count = math.prod(shape[1:4])
    length = piece_length(x, count, bytes_each)
    if length is None:
        return function(x)
    pieces = _cut(ops.reshape(x, (shape[0], count, shape[4])), length)
    return ops.reshape(_joined(_map(function, pieces)), shape)


def over_windows(function: Callable[[Any, Any], Any], x: Any, seam: windows.Seam | None, bytes_each: Any) -> Any:
    """Returns `function(x, masks)`, computed in pieces.

    Args:
        function: From (batch, windows, tokens, channels), and masks (windows or 1, tokens, tokens) or None where there
            are none, to the shape of the first; each window alone.
        x: (batch, windows, tokens, channels).
        seam: The masks of the windows, or None.
        bytes_each: Bytes of intermediate values that a window needs.
    """
    length = piece_length(x, ops.shape(x)[1], bytes_each)
    if keras.backend.backend() == "torch" and seam and isinstance(seam.kinds, np.ndarray) and not _is_whole.get():
        return _by_mask(function, x, seam, length)
    if length is None:
        return function(x, None if seam is None else ops.take(seam.masks, seam.kinds, axis=0))
    pieces = _cut(x, length)
    if seam is None:
        return _joined(_map(lambda piece: function(piece, None), pieces))
    masks, kinds = ops.convert_to_tensor(seam.masks), ops.reshape(seam.kinds, (len(seam.kinds) // length, length))
    return _joined(ops.map(lambda piece: function(piece[0], ops.take(masks, piece[1], axis=0)), (pieces, kinds)))


def _cut(x: Any, length: int) -> Any:
    """(batch, count, …) → (pieces, batch, length, …)."""
    batch, count, *rest = ops.shape(x)
    return ops.swapaxes(ops.reshape(x, (batch, count // length, length, *rest)), 0, 1)


def _joined(pieces: Any) -> Any:
    """Undoes `_cut`."""
    count, batch, length, *rest = ops.shape(pieces)
    return ops.reshape(ops.swapaxes(pieces, 0, 1), (batch, count * length, *rest))


def _map(function: Callable[[Any], Any], pieces: Any) -> Any:
    if keras.backend.backend() == "torch":  # `ops.map` does the same there, with more ado
        return ops.stack([function(piece) for piece in pieces])
    return ops.map(function, pieces)


def _by_mask(function: Callable[[Any, Any], Any], x: Any, seam: windows.Seam, length: int | None) -> Any:
    """Takes windows of one mask together: PyTorch's fused attention is fast where all have the same bias."""
    outputs, begin = [], 0
    for kind, same in itertools.groupby(seam.kinds):
        end = begin + len(list(same))
        mask = seam.masks[kind : kind + 1] if seam.masks[kind].any() else None
        for first in range(begin, end, length or end):
            outputs.append(function(x[:, first : min(first + length, end) if length else end], mask))
        begin = end
    return ops.concatenate(outputs, axis=1)

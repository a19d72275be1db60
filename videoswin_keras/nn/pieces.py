"""Work cut into pieces that stay in a processor's cache.

On a CPU, what a block computes is bound by memory as soon as the attention weights and the hidden layer of a whole clip
are written there. So they are computed for a few windows, or a few tokens, at a time. On a GPU the pieces are large,
and bound only what is held at once.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras.nn import windows

PIECE_BYTES = {"cpu": 16 * 2**20, "gpu": 256 * 2**20}  # of intermediate values

_whole = False


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Computes everything in one piece within: for exports to formats that know no loops."""
    global _whole
    before, _whole = _whole, True
    try:
        yield
    finally:
        _whole = before


def piece_length(x: Any, count: Any, bytes_each: Any) -> int | None:
    """Returns how many items make a piece: a divisor of `count`; None where all of them are one.

    Args:
        x: What is computed on, which says on what device.
        count: Items of a clip; unknown sizes make one piece.
        bytes_each: Bytes of intermediate values that an item needs.
    """
    if _whole or not windows.is_static(count, bytes_each) or _would_compile_each_time(x):
        return None
    most = PIECE_BYTES["cpu" if _is_on_cpu(x) else "gpu"] // bytes_each
    return None if most >= count else max(length for length in range(1, max(most, 1) + 1) if count % length == 0)


def _is_on_cpu(x: Any) -> bool:
    if keras.backend.backend() == "torch":
        return x.device.type == "cpu"
    return all(device.lower().startswith("cpu") for device in keras.distribution.list_devices())


def _would_compile_each_time(x: Any) -> bool:
    """Whether this is JAX outside of `jit`, where a loop is compiled anew for every call."""
    return keras.backend.backend() == "jax" and all(base.__name__ != "Tracer" for base in type(x).__mro__)


def over_tokens(function: Callable[[Any], Any], x: Any, bytes_each: int) -> Any:
    """Returns `function(x)`, computed in pieces.

    Args:
        function: From (tokens, channels) to the same shape, each token alone.
        x: (batch, frames, height, width, channels).
        bytes_each: Bytes of intermediate values that a token needs.
    """
    batch, frames, height, width, channels = ops.shape(x)
    length = piece_length(x, frames * height * width, bytes_each)
    if length is None:
        return function(x)
    pieces = ops.reshape(x, (batch * (frames * height * width // length), length, channels))
    return ops.reshape(_over(function, pieces), (batch, frames, height, width, channels))


def over_windows(
    function: Callable[[Any, Any], Any], x: Any, seam: windows.Seam | None, per_clip: Any, bytes_each: Any
) -> Any:
    """Returns `function(x, masks)`, computed in pieces.

    Args:
        function: From (windows, tokens, channels), and the masks of these windows or of all alike (windows or 1,
            tokens, tokens) or None where there are none, to the shape of the windows; each window alone.
        x: (batch · windows, tokens, channels).
        seam: The masks, or None.
        per_clip: Windows of a clip.
        bytes_each: Bytes of intermediate values that a window needs.
    """
    count, tokens, channels = ops.shape(x)
    length = piece_length(x, per_clip, bytes_each)
    if keras.backend.backend() == "torch" and seam is not None and not _whole:
        return _by_kind(function, x, seam, length)
    if length is None:
        return function(x, None if seam is None else ops.take(seam.masks, seam.kinds, axis=0))
    pieces = ops.reshape(x, (count // length, length, tokens, channels))
    if seam is None:
        outputs = _over(lambda piece: function(piece, None), pieces)
    else:
        masks = ops.convert_to_tensor(seam.masks)
        kinds = ops.reshape(ops.convert_to_tensor(seam.kinds), (per_clip // length, length))
        kinds = ops.tile(kinds, (count // per_clip, 1))
        outputs = ops.map(lambda piece: function(piece[0], ops.take(masks, piece[1], axis=0)), (pieces, kinds))
    return ops.reshape(outputs, (count, tokens, channels))


def _over(function: Callable[[Any], Any], pieces: Any) -> Any:
    if keras.backend.backend() == "torch":  # `ops.map` does the same there, with more ado
        return ops.stack([function(piece) for piece in pieces])
    return ops.map(function, pieces)


def _by_kind(function: Callable[[Any, Any], Any], x: Any, seam: windows.Seam, length: int | None) -> Any:
    """Takes the windows of one mask together: PyTorch's fused attention is fast where one bias is that of all."""
    kinds = np.tile(seam.kinds, len(x) // len(seam.kinds))
    outputs, order = [], []
    for kind, mask in enumerate(seam.masks):
        same = np.flatnonzero(kinds == kind)
        masks = ops.convert_to_tensor(mask[None]) if mask.any() else None
        for begin in range(0, len(same), length or len(same)):
            some = same[begin : begin + (length or len(same))]
            outputs.append(function(ops.take(x, some, axis=0), masks))
            order.append(some)
    return ops.take(ops.concatenate(outputs), np.argsort(np.concatenate(order)), axis=0)

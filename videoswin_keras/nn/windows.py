"""Window geometry: pure functions from sizes to windows, shifts, regions and bias indices.

Sizes are (frames, height, width), counted in tokens. Where a size is a Python integer everything is computed
in numpy, once; where it is a tensor (a TensorFlow graph of unknown size) the same formulas run in the graph.

Source: section 3.2 of arXiv 2106.13230, and the official implementation where the paper is silent.
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
from keras import ops

from videoswin_keras import kernels
from videoswin_keras.kernels.plain import HIDDEN

Size = tuple[Any, Any, Any]  # three integers, or scalar int32 tensors where a size is unknown until run time


def is_static(*sizes: Any) -> bool:
    """True where every size is a Python integer, so that geometry can be computed ahead in numpy."""
    return all(isinstance(size, int) for size in sizes)


def check_sides(name: str, sides: Any) -> tuple[int, int, int]:
    """Returns three positive integers (frames, height, width) as a tuple, or raises ValueError."""
    try:
        checked = tuple(int(side) for side in sides)
    except (TypeError, ValueError, OverflowError):
        checked = ()
    if len(checked) != 3 or min(checked) < 1 or checked != tuple(sides):
        raise ValueError(f"`{name}` must be three positive integers, (frames, height, width). Received: {sides}.")
    return checked  # type: ignore[return-value]


def ceil_div(size: Any, divisor: Any) -> Any:
    """Ceiling division of two non-negative sizes; `(-size) % divisor` would break tf2onnx."""
    return (size + divisor - 1) // divisor


def clip_window(size: Size, window_size: tuple[int, int, int], shifted: bool) -> tuple[Size, Size]:
    """Returns the window and the shift that a feature map of `size` gets.

    Along an axis that is no longer than the window, the window shrinks to the axis and is not shifted.
    The shift is half the configured window, also where another axis is clipped.
    """
    windows, shifts = [], []
    for length, window in zip(size, window_size, strict=True):
        shift = window // 2 if shifted else 0
        if is_static(length):
            fits = length > window
            windows.append(window if fits else length)
            shifts.append(shift if fits else 0)
        else:
            windows.append(ops.minimum(length, window))
            shifts.append(ops.where(length > window, shift, 0) if shift else 0)
    return tuple(windows), tuple(shifts)  # type: ignore[return-value]


def padded_size(size: Size, window: Size) -> Size:
    """Returns `size` rounded up to whole windows."""
    return tuple(ceil_div(length, side) * side for length, side in zip(size, window, strict=True))  # type: ignore[return-value]


def pad_to(x: Any, size: Size) -> Any:
    """Pads (batch, frames, height, width, channels) with zeros at the end of each axis, up to `size`."""
    current = ops.shape(x)[1:4]
    if is_static(*current, *size) and tuple(current) == tuple(size):
        return x
    after = [target - length for target, length in zip(size, current, strict=True)]
    return ops.pad(x, [(0, 0), *((0, amount) for amount in after), (0, 0)])


def crop_to(x: Any, size: Size) -> Any:
    """Undoes `pad_to`."""
    current = ops.shape(x)[1:4]
    if is_static(*current, *size) and tuple(current) == tuple(size):
        return x
    frames, height, width = size
    return x[:, :frames, :height, :width]


def roll(x: Any, shift: Size) -> Any:
    """Rolls (batch, frames, height, width, channels) towards the origin by `shift` tokens along the three axes.

    Written as slices because `ops.roll` does not survive LiteRT export.
    """
    for axis, amount in enumerate(shift, start=1):
        if is_static(amount) and amount == 0:
            continue
        before = (slice(None),) * axis
        x = ops.concatenate([x[(*before, slice(amount, None))], x[(*before, slice(0, amount))]], axis=axis)
    return x


def unroll(x: Any, shift: Size) -> Any:
    """Undoes `roll`."""
    lengths = ops.shape(x)[1:4]
    back = [
        0 if is_static(amount) and amount == 0 else length - amount
        for length, amount in zip(lengths, shift, strict=True)
    ]
    return roll(x, tuple(back))  # type: ignore[arg-type]


def partition(x: Any, window: Size, xp: Any = ops) -> Any:
    """Cuts (batch, frames, height, width, channels) into (batch · windows, tokens, channels).

    Every side must be a multiple of the window's. Windows and the tokens in them run frames first, width last.
    Two 5-D transposes stand for the usual 8-D one, which LiteRT and TensorRT do not take. `xp` is the array
    module, `keras.ops` or numpy.
    """
    batch, frames, height, width, channels = xp.shape(x)
    t, h, w = window
    nt, nh, nw = frames // t, height // h, width // w
    x = xp.reshape(x, (batch * frames, nh, h, nw, w * channels))
    x = xp.transpose(x, (0, 1, 3, 2, 4))
    x = xp.reshape(x, (batch, nt, t, nh * nw, h * w * channels))
    x = xp.transpose(x, (0, 1, 3, 2, 4))
    return xp.reshape(x, (batch * nt * nh * nw, t * h * w, channels))


def merge(windows: Any, window: Size, size: Size) -> Any:
    """Undoes `partition`: puts windows back into (batch, frames, height, width, channels) of `size`."""
    count, _, channels = ops.shape(windows)
    frames, height, width = size
    t, h, w = window
    nt, nh, nw = frames // t, height // h, width // w
    batch = count // (nt * nh * nw)
    x = ops.reshape(windows, (batch, nt, nh * nw, t, h * w * channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4))
    x = ops.reshape(x, (batch * frames, nh, nw, h, w * channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4))
    return ops.reshape(x, (batch, frames, height, width, channels))


def relative_position_index(window_size: tuple[int, int, int], tokens: Any = None, xp: Any = np) -> Any:
    """Returns int32 (tokens, tokens): the row of the bias table for each pair of tokens, by default of a full window.

    `xp` is the array module. The models pass `keras.ops`, so that the index is no constant of every compiled program.
    """
    rows = _position_rows(window_size)
    some = xp.array(rows)[:tokens]
    return xp.expand_dims(some, 1) - xp.expand_dims(some, 0) + rows[-1]


@functools.lru_cache(maxsize=64)
def _position_rows(window_size: tuple[int, int, int]) -> np.ndarray:
    """Returns int32 (tokens,), whose differences, and the last of them, make the index of pairs."""
    frame, down, right = np.meshgrid(*(np.arange(side) for side in window_size), indexing="ij")
    _, rows, columns = (2 * side - 1 for side in window_size)
    return ((frame * rows + down) * columns + right).reshape(-1).astype("int32")


def num_relative_positions(window_size: tuple[int, int, int]) -> int:
    """Returns the number of rows of the bias table: (2t - 1)(2h - 1)(2w - 1)."""
    return math.prod(2 * side - 1 for side in window_size)


@dataclasses.dataclass(frozen=True, eq=False)
class ShiftMask:
    """Which pairs of tokens must not see each other, window by window, after a cyclic shift.

    Attributes:
        regions: int32 (patterns, tokens). Tokens of a window see each other where their regions are equal.
        patterns: int32 (windows,), the pattern that each window has. Where sizes are known there are at most eight
            patterns, the first has one region alone, and windows of the same pattern follow each other.
    """

    regions: Any
    patterns: Any

    @property
    def is_known(self) -> bool:
        """Whether the patterns are known before run time."""
        return isinstance(self.patterns, np.ndarray)

    def masks(self, patterns: Any = None) -> Any:
        """Returns float32 (windows, tokens, tokens) for some patterns, by default those of all windows.

        They are 0 where two tokens see each other and `HIDDEN` elsewhere. They are computed where they are used: as
        constants they would be in every copy of a compiled program.
        """
        regions = ops.take(self.regions, self.patterns if patterns is None else patterns, axis=0)
        differs = ops.expand_dims(regions, 1) != ops.expand_dims(regions, 2)
        return ops.where(differs, np.float32(HIDDEN), np.float32(0.0))


class WindowGrid:
    """How a feature map is partitioned into windows, and merged again.

    After a cyclic shift the last window along an axis holds tokens from both ends of the clip, which must not attend to
    each other: `shift_mask` says which.

    Args:
        size: (frames, height, width) of the feature map.
        window_size: (frames, height, width) of a full window.
        shifted: Whether windows are shifted by half their size.

    Attributes:
        is_exact: Whether it is known that the windows hold tokens of the feature map alone, and no padding.
        tokens: Tokens of a window.
        shift_mask: A `ShiftMask`; None where nothing is shifted.
    """

    def __init__(self, size: Size, window_size: tuple[int, int, int], shifted: bool):
        self.size = size
        self.window, self.shift = clip_window(size, window_size, shifted)
        self.padded = padded_size(size, self.window)
        self.is_static = is_static(*size)
        self.is_exact = self.is_static and self.padded == tuple(size)
        self.tokens = math.prod(self.window)
        self.shift_mask = _static_mask(*self._key)[0] if self.is_static else _mask(*self._key)

    @property
    def _key(self) -> tuple[Size, Size, Size]:
        return self.padded, self.window, self.shift

    def partition(self, x: Any, training: bool | None = None) -> Any:
        """(batch, frames, height, width, channels) → (batch, windows, tokens, channels)."""
        return kernels.with_adjoint(self._partition, self._merge)(x) if training else self._partition(x)

    def merge(self, x: Any, training: bool | None = None) -> Any:
        """Undoes `partition`, and is its adjoint: the gradient of one is the other."""
        return kernels.with_adjoint(self._merge, self._partition)(x) if training else self._merge(x)

    def _partition(self, x: Any) -> Any:
        batch, *_, channels = ops.shape(x)
        x = pad_to(x, self.padded)
        if self.is_static:
            x = _taken(ops.reshape(x, (batch, math.prod(self.padded), channels)), _places(*self._key))
        else:
            x = partition(roll(x, self.shift), self.window)
        return ops.reshape(x, (batch, math.prod(self.padded) // self.tokens, self.tokens, channels))

    def _merge(self, x: Any) -> Any:
        batch, count, tokens, channels = ops.shape(x)
        if self.is_static:
            x = _taken(ops.reshape(x, (batch, count * tokens, channels)), _places_back(self.size, *self._key))
            return ops.reshape(x, (batch, *self.size, channels))
        # Not `tokens`: tf2onnx makes a wrong reshape where a size of the very tensor moves to another axis.
        x = merge(ops.reshape(x, (batch * count, self.tokens, channels)), self.window, self.padded)
        return crop_to(unroll(x, self.shift), self.size)


def _taken(x: Any, places: np.ndarray) -> Any:
    """One copy, whatever the geometry; none where every token stays where it is."""
    return x if np.array_equal(places, np.arange(ops.shape(x)[1])) else ops.take(x, places, axis=1)


@functools.lru_cache(maxsize=64)
def _places(padded: Size, window: Size, shift: Size) -> np.ndarray:
    """Returns int32 (tokens,): where each token of the windows, one window after the other, is in the padded clip."""
    places = np.arange(math.prod(padded), dtype="int32").reshape(1, *padded, 1)
    places = np.roll(places, [-amount for amount in shift], axis=(1, 2, 3))
    return partition(places, window, np)[_static_mask(padded, window, shift)[1]].reshape(-1)


@functools.lru_cache(maxsize=64)
def _places_back(size: Size, padded: Size, window: Size, shift: Size) -> np.ndarray:
    """Returns int32 (tokens,): where each token of the clip, without its padding, is in the windows."""
    frames, height, width = size
    back = np.argsort(_places(padded, window, shift)).astype("int32")
    return back.reshape(padded)[:frames, :height, :width].reshape(-1)


@functools.lru_cache(maxsize=64)
def _static_mask(padded: Size, window: Size, shift: Size) -> tuple[ShiftMask | None, np.ndarray]:
    """Returns the shift mask, and int (windows,): the windows ordered by their patterns."""
    regions, patterns = np.unique(_regions(np, padded, window, shift), axis=0, return_inverse=True)
    patterns = patterns.reshape(-1).astype("int32")
    order = np.argsort(patterns, kind="stable")
    return ShiftMask(regions, patterns[order]) if any(shift) else None, order


def _mask(padded: Size, window: Size, shift: Size) -> ShiftMask | None:
    if is_static(*shift) and not any(shift):
        return None
    regions = _regions(ops, padded, window, shift)
    return ShiftMask(regions, ops.arange(ops.shape(regions)[0], dtype="int32"))


def _regions(xp: Any, padded: Size, window: Size, shift: Size) -> Any:
    """Returns int32 (windows, tokens): tokens of a window see each other where this is the same.

    `xp` is the array module: numpy, or `keras.ops` for sizes known at run time only.
    """
    regions = xp.zeros((1, 1, 1, 1, 1), dtype="int32")
    for axis, (length, amount) in enumerate(zip(padded, shift, strict=True), start=1):
        wrapped_around = xp.arange(0, length, dtype="int32") >= length - amount
        shape = [length if axis == other else 1 for other in range(5)]
        regions = regions * 2 + xp.reshape(xp.where(wrapped_around, 1, 0), shape)
    return partition(regions, window, xp)[:, :, 0]

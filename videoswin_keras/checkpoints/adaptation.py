"""Changes of a state: an image Swin becomes a video Swin, a bias table fits another window, a kernel other channels."""

import logging

import numpy as np

from videoswin_keras.checkpoints.errors import CheckpointError
from videoswin_keras.checkpoints.layout import PATCH_KERNEL, TABLE, State

_log = logging.getLogger(__name__)


def inflate(state: State, window_size: tuple[int, int, int], patch_frames: int = 2) -> State:
    """Turns a 2D state, in the official layout, into a 3D one that treats a still clip as the image model does.

    The patch kernel is repeated over the frames of a patch and divided by their number; every bias table is
    resized to the new window's height and width and repeated for every offset in time.

    Source: section 3.3 of arXiv 2106.13230.
    """
    frames, height, width = window_size
    inflated, resampled = {}, set()
    for key, value in state.items():
        if key == PATCH_KERNEL:
            value = np.repeat(value[:, :, None], patch_frames, axis=2) / np.float32(patch_frames)
        elif key.endswith(TABLE):
            side = round(len(value) ** 0.5)
            if side * side != len(value):
                raise CheckpointError(f"{key}: a table of {len(value)} rows is not that of a square image window.")
            if (side, side) != (2 * height - 1, 2 * width - 1):
                resampled.add((side + 1) // 2)
            table = value.reshape(side, side, -1)
            table = resize(resize(table, 0, 2 * height - 1), 1, 2 * width - 1)
            value = np.tile(table.reshape(-1, value.shape[1]), (2 * frames - 1, 1))
        inflated[key] = value
    if resampled:
        windows = ", ".join(f"{side} × {side}" for side in sorted(resampled))
        _log.warning("Bias tables of windows of %s were resampled to %d × %d.", windows, height, width)
    return inflated


def resample_window(state: State, old: tuple[int, int, int], new: tuple[int, int, int]) -> State:
    """Returns `state` with every bias table resampled from the window `old` to `new`, bicubic along each axis."""

    def resample(table: np.ndarray) -> np.ndarray:
        grid = table.reshape(*(2 * side - 1 for side in old), -1)
        for axis, side in enumerate(new):
            grid = resize(grid, axis, 2 * side - 1)
        return grid.reshape(-1, table.shape[1])

    return {key: resample(value) if key.endswith(TABLE) else value for key, value in state.items()}


def adapt_channels(state: State, channels: int) -> State:
    """Returns `state` with its patch embedding made for clips of `channels` channels.

    The kernel is repeated over the channels and scaled, so that equal channels give what the original gives for
    equal channels. For one channel it is the sum: a grey clip gives exactly what it gives as grey RGB.
    """
    kernel = state[PATCH_KERNEL]
    source = kernel.shape[1]
    if channels == 1:
        adapted = kernel.sum(axis=1, keepdims=True)
    else:
        adapted = kernel[:, np.arange(channels) % source] * np.float32(source / channels)
    return {**state, PATCH_KERNEL: adapted}


def resize(values: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Resizes one axis by cubic convolution (a = −0.75, half-pixel centres, edges repeated), as PyTorch does."""
    length = values.shape[axis]
    if length == size:
        return values
    centres = (np.arange(size) + 0.5) * length / size - 0.5
    first = np.floor(centres).astype(int)
    matrix = np.zeros((size, length))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(centres - first - offset)
        np.add.at(matrix, (np.arange(size), np.clip(first + offset, 0, length - 1)), _cubic(distance))
    resized = np.tensordot(matrix, values.astype("float64"), axes=(1, axis))
    return np.moveaxis(resized, 0, axis).astype("float32")


def _cubic(x: np.ndarray, a: float = -0.75) -> np.ndarray:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, far)

"""Moving shapes: a made-up dataset of eight motions in which no single frame tells the class.

It needs no download and has no rights attached, so it serves tests, examples and the small model that ships with
the library. Clips are uint8 RGB in 0–255, (frames, height, width, 3).

Position, orientation and (log) size of the shape are each uniform on a circle: the frame wraps around, an angle
comes back after a turn, and a shape that has grown to its largest starts again at its smallest. A motion turns one
of the circles at a constant speed, which leaves the distribution of every single frame as it was, for all classes
the same. Every second class is the one before it, reversed in time.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

# Class names in index order; `labels/moving_shapes.txt` holds the same.
MOTIONS = (
    "moving left",
    "moving right",
    "moving up",
    "moving down",
    "turning clockwise",
    "turning anticlockwise",
    "growing",
    "shrinking",
)

# Speeds per frame: sides of the frame (the shorter one), turns, and growths from the smallest to the largest.
_TRANSLATION_SPEEDS = (0.02, 0.05)
_TURNING_SPEEDS = (5 / 360, 14 / 360)
_GROWTH_SPEEDS = (0.035, 0.07)
_SMALLEST, _LARGEST = 0.2, 0.45  # distance of the farthest corner from the centre, in shorter sides of the frame
_NOISE = 4  # largest noise of a pixel, in grey levels


def _rectangle(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


# Each shape is a union of convex polygons with corners (x, y) listed clockwise on the screen (y points down).
# Parts overlap, because antialiasing leaves a seam between parts that only touch. None is a disc: its turning
# would not show; and none is so symmetric that a fast turn looks like a slow one the other way.
_SHAPES = {
    "triangle": [[(-0.6, -0.8), (1.0, 0.0), (-0.6, 0.8)]],
    "wedge": [[(-0.5, -0.5), (1.0, 0.5), (-0.5, 0.5)]],
    "square": [_rectangle(-0.7, -0.7, 0.7, 0.7)],
    "bar": [_rectangle(-0.9, -0.4, 0.9, 0.4)],
    "L": [_rectangle(-0.6, -0.8, 0.0, 0.8), _rectangle(-0.6, 0.2, 0.6, 0.8)],
    "T": [_rectangle(-0.8, -0.6, 0.8, 0.0), _rectangle(-0.3, -0.6, 0.3, 0.8)],
}


def moving_shape(
    motion: int, seed: int | Sequence[int], frames: int = 16, size: int | tuple[int, int] = 64
) -> np.ndarray:
    """Renders one clip: a coloured shape in motion over a still, textured background, with a little noise.

    Kind, colour, place, orientation, size and speed of the shape come from the seed. So does everything of the
    background. Speeds are per frame, so a longer clip shows a longer motion. The frame wraps around: a shape that
    leaves on one side enters on the other; and a shape that has grown to its largest starts again small.

    Args:
        motion: Integer, an index of `MOTIONS`.
        seed: Non-negative integer, or several. The same seed gives the same clip; of two motions that are each
            other's time reversal it gives the same frames in reverse order.
        frames: Integer, number of frames. Default 16.
        size: Height and width of the frame in pixels, as (height, width) or one integer for both; at least 16.
            Default 64.

    Returns:
        Clip, uint8 RGB in 0–255, (frames, height, width, 3).

    Raises:
        ValueError: if `motion` is no index of `MOTIONS`, there are no frames, or `size` is too small.

    Example:

    >>> clip = moving_shape(MOTIONS.index("growing"), seed=7, frames=48, size=(120, 160))
    >>> clip.shape, str(clip.dtype)
    ((48, 120, 160, 3), 'uint8')
    """
    if not 0 <= motion < len(MOTIONS):
        raise ValueError(f"`motion` must be from 0 to {len(MOTIONS) - 1}, an index of MOTIONS. Received: {motion}.")
    if frames < 1:
        raise ValueError(f"`frames` must be at least 1. Received: {frames}.")
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or min(sides) < 16:
        raise ValueError(f"`size` must be (height, width) or one integer, at least 16. Received: {size}.")
    height, width = sides
    rng = np.random.default_rng(seed)

    background = _background(rng, height, width)
    # The farthest of a few random colours from the background's, so that the shape can be seen.
    colours = rng.uniform(0, 255, (8, 3))
    colour = colours[np.argmax(np.linalg.norm(colours - background.mean((0, 1)), axis=1))]
    parts = list(_SHAPES.values())[rng.integers(len(_SHAPES))]

    # Everything is drawn for every motion, so that one seed makes eight clips which differ in their motion only.
    # Even motions are: left, up, clockwise, growing.
    x, y, angle, scale = (np.full(frames, phase) for phase in rng.uniform(size=4))
    speeds = [rng.uniform(*limits) for limits in (_TRANSLATION_SPEEDS, _TURNING_SPEEDS, _GROWTH_SPEEDS)]
    time = np.arange(frames)
    forward = motion // 2
    if forward == 0:
        x = x - time * speeds[0] * min(sides) / width
    elif forward == 1:
        y = y - time * speeds[0] * min(sides) / height
    elif forward == 2:
        angle = angle + time * speeds[1]
    else:
        scale = scale + time * speeds[2]
    radius = _SMALLEST * (_LARGEST / _SMALLEST) ** (scale % 1.0) * min(sides)
    coverage = _coverage(parts, x % 1.0 * width, y % 1.0 * height, 2 * np.pi * angle, radius, height, width)[..., None]

    clip = background + coverage * (colour.astype("float32") - background)
    clip += rng.integers(-_NOISE, _NOISE + 1, clip.shape, dtype="int8")
    clip = np.clip(np.rint(clip), 0, 255).astype("uint8")
    return np.ascontiguousarray(clip[::-1]) if motion % 2 else clip


def moving_shapes_recording(
    bouts: Iterable[tuple[int | None, int]], seed: int, size: int | tuple[int, int] = 64
) -> Iterator[np.ndarray | None]:
    """Renders a recording in which one motion follows another: a made-up night before a camera.

    Args:
        bouts: Pairs of a motion, an index of `MOTIONS`, and its number of frames; None for an outage of the camera.
        seed: Non-negative integer. The same seed gives the same recording.
        size: Height and width, as for `moving_shape`.

    Yields:
        Frames, uint8 RGB in 0–255, (height, width, 3); None during an outage.

    Example:

    >>> recording = moving_shapes_recording([(0, 40), (None, 20), (6, 40)], seed=1)
    >>> sum(frame is not None for frame in recording)
    80
    """
    for number, (motion, frames) in enumerate(bouts):
        if motion is None:
            yield from itertools.repeat(None, frames)
        else:
            yield from moving_shape(motion, (seed, number), frames, size)


def moving_shapes(
    count: int, seed: int, frames: int = 16, size: int | tuple[int, int] = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Renders a dataset of `moving_shape` clips, with every motion equally often, in random order.

    Args:
        count: Integer, number of clips. Where it is no multiple of eight the first classes get one more.
        seed: Non-negative integer. The same seed gives the same dataset, another one other clips.
        frames: Integer, number of frames. Default 16.
        size: Height and width in pixels, as (height, width) or one integer for both. Default 64.

    Returns:
        Clips, uint8 RGB in 0–255, (count, frames, height, width, 3), and labels, int64 (count,), which index
        `MOTIONS`.

    Raises:
        ValueError: as `moving_shape`, or if `count` is not positive.

    Example:

    >>> clips, labels = moving_shapes(8, seed=0, frames=4, size=32)
    >>> clips.shape, sorted(labels.tolist())
    ((8, 4, 32, 32, 3), [0, 1, 2, 3, 4, 5, 6, 7])
    """
    if count < 1:
        raise ValueError(f"`count` must be at least 1. Received: {count}.")
    labels = np.random.default_rng(seed).permutation(np.arange(count) % len(MOTIONS))
    clips = [moving_shape(int(label), (seed, index), frames, size) for index, label in enumerate(labels)]
    return np.stack(clips), labels


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Returns a random texture, float32 (height, width, 3): a colour with coarse, middling and fine stains."""
    texture = np.broadcast_to(rng.uniform(40, 215, 3), (height, width, 3))
    for cells, strength in ((3, 20.0), (8, 10.0), (24, 5.0)):
        stains = rng.normal(0.0, strength, (cells, cells, 3))
        rows, columns = _interpolation(height, cells), _interpolation(width, cells)
        texture = texture + np.einsum("yi,xj,ijc->yxc", rows, columns, stains, optimize=True)
    return np.clip(texture, 0, 255).astype("float32")


def _interpolation(length: int, cells: int) -> np.ndarray:
    """Returns the matrix (length, cells) that spreads `cells` values over `length` pixels, linearly, wrapping round."""
    position = (np.arange(length) + 0.5) / length * cells
    distance = np.abs(position[:, None] - np.arange(cells))
    return np.clip(1 - np.minimum(distance, cells - distance), 0, 1)


def _coverage(
    parts: list[list[tuple[float, float]]],
    x: np.ndarray,
    y: np.ndarray,
    angle: np.ndarray,
    radius: np.ndarray,
    height: int,
    width: int,
) -> np.ndarray:
    """Returns how much of each pixel the shape covers in each frame: float32 (frames, height, width) in 0–1.

    Args:
        parts: Convex polygons, each a list of corners, in units of `radius`.
        x, y: Centre in pixels, (frames,).
        angle: Clockwise turn in radians, (frames,).
        radius: Size in pixels, (frames,).
        height: Pixels.
        width: Pixels.
    """
    # Offsets from the centre, the shorter way round.
    dx = (np.arange(width) + 0.5 - x[:, None] + width / 2) % width - width / 2
    dy = (np.arange(height) + 0.5 - y[:, None] + height / 2) % height - height / 2
    cos, sin = np.cos(angle), np.sin(angle)
    distance = np.full((len(x), height, width), np.inf, "float32")
    for corners in parts:
        part = np.full_like(distance, -np.inf)
        for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
            length = np.hypot(x2 - x1, y2 - y1)
            normal_x, normal_y = (y2 - y1) / length, (x1 - x2) / length  # points outwards
            offset = (normal_x * x1 + normal_y * y1) * radius
            across = (normal_x * cos - normal_y * sin)[:, None] * dx - offset[:, None]
            down = (normal_x * sin + normal_y * cos)[:, None] * dy
            outside = across.astype("float32")[:, None, :] + down.astype("float32")[:, :, None]
            np.maximum(part, outside, out=part)
        np.minimum(distance, part, out=distance)
    # An edge at a distance of less than half a pixel covers part of the pixel.
    return np.clip(0.5 - distance, 0, 1)

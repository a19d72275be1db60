"""Writes small videos whose frames carry their number, so that a decoded frame can be told whatever the codec did."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

ROWS, COLUMNS = 3, 4  # the bits of a number, as black and white blocks


def numbered_picture(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture of 12 black or white blocks: the bits of `number`, the highest at the upper left."""
    bits = np.array([number >> bit & 1 for bit in range(ROWS * COLUMNS - 1, -1, -1)]).reshape(ROWS, COLUMNS)
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    blocks = bits[rows[:, None], columns[None]]
    return np.repeat((20 + 215 * blocks)[..., None], 3, axis=-1).astype("uint8")


def number_on(picture: np.ndarray) -> int:
    """The number that a picture carries, by the centres of its blocks."""
    height, width = picture.shape[:2]
    number = 0
    for row in range(ROWS):
        for column in range(COLUMNS):
            y, x = (2 * row + 1) * height // (2 * ROWS), (2 * column + 1) * width // (2 * COLUMNS)
            number = 2 * number + int(picture[y - 1 : y + 2, x - 1 : x + 2].mean() > 127)
    return number


def write_video(
    path: Path,
    pictures: Iterable[np.ndarray],
    codec: str = "libx264",
    rate: Fraction | int = 25,
    times: list[int] | None = None,
    clock: int | None = None,
    pixels: str = "yuv420p",
    rotation: tuple | None = None,
    options: dict[str, str] | None = None,
    **container: Any,
) -> Path:
    """Writes pictures to a video at `rate`, or at these times in ticks of 1 / `clock` seconds."""
    tick = Fraction(1, clock) if clock else 1 / Fraction(rate)
    with av.open(str(path), "w", **container) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.codec_context.time_base = tick
        stream.pix_fmt = pixels
        if rotation:
            stream.set_display_rotation(*rotation)
        for number, picture in enumerate(pictures):
            if not number:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, tick
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.fixture
def numbered_video(tmp_path: Path) -> Callable[..., Path]:
    """A function (file name, number of frames, …) that writes a video of numbered frames and returns its path."""

    def write(name: str, num_frames: int, width: int = 64, height: int = 48, **settings: Any) -> Path:
        pictures = (numbered_picture(number, width, height) for number in range(num_frames))
        return write_video(tmp_path / name, pictures, **settings)

    return write


@pytest.fixture
def picture_video(tmp_path: Path) -> Callable[..., Path]:
    """A function (file name, pictures, …) that writes a video of these pictures and returns its path."""
    return lambda name, pictures, **settings: write_video(tmp_path / name, pictures, **settings)


@pytest.fixture
def number_of() -> Callable[[np.ndarray], int]:
    """The function that reads the number off a frame."""
    return number_on


@pytest.fixture
def numbered() -> Callable[..., np.ndarray]:
    """The function that draws a numbered picture."""
    return numbered_picture


class Jumping:
    """A container whose jumps go elsewhere."""

    def __init__(self, container, seek):
        self.container = container
        self.seek = lambda pts, stream: seek(container, pts, stream)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.container.close()

    def __getattr__(self, name):
        return getattr(self.container, name)


@pytest.fixture
def jumping() -> type[Jumping]:
    """The class of containers whose jumps go elsewhere: it takes a container and a function in place of its `seek`."""
    return Jumping

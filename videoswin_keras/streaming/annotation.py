"""Draws what is known about a recording into its pictures: label, probabilities, clock."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from videoswin_keras import optional
from videoswin_keras.streaming.about import About
from videoswin_keras.streaming.frames import Sampler, sample
from videoswin_keras.streaming.report import COLOURS
from videoswin_keras.streaming.timeline import Result
from videoswin_keras.text import printable

with optional.needed("Annotating videos", "cv2"):
    import cv2

_BAND = 56  # pixels below the picture
_LONGER_SIDE = 640  # pixels of a picture
_SQUARE = (255, 255, 0)
_GREY = "#969696"


def annotate(
    frames: Iterable[tuple[float, Any]],
    results: Iterable[Result],
    about: About,
    sampler: Sampler,
    share: float | None = None,
) -> Iterator[np.ndarray]:
    """Yields the pictures that the stream looked at, with what it said about them, `about.fps` per second.

    Args:
        frames: Pairs of time and function that returns the frame, as the stream took them.
        results: Its results, smoothed, in order.
        about: What the recording is.
        sampler: A fresh one, as the stream had; in a gap the picture is grey.
        share: Float. Side of the square in the middle that the model looks at, as a share of the shorter side: it is
            drawn. Default: no square.

    Yields:
        uint8 RGB (height, width, 3), all of one size, both sides even.
    """
    size: tuple[int, int] | None = None
    remaining = iter(results)
    result = next(remaining, None)
    for moment, frame in enumerate(sample(frames, sampler)):
        seconds = moment / about.fps
        while result is not None and result.end <= seconds + 1e-9:
            result = next(remaining, None)
        picture = None if frame is None else frame()
        if size is None:
            assert picture is not None  # the first moment is that of the first frame
            size = _size(*picture.shape[:2])
        yield np.concatenate([_fit(picture, size, share), _band(size[1], result, about, seconds)])


def _size(height: int, width: int) -> tuple[int, int]:
    scale = _LONGER_SIDE / max(height, width)
    return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)


def _fit(picture: np.ndarray | None, size: tuple[int, int], share: float | None) -> np.ndarray:
    """Shows a picture of any size within `size`, in its proportions."""
    canvas = np.full((*size, 3), 96 if picture is None else 0, "uint8")
    if picture is not None:
        scale = min(size[0] / picture.shape[0], size[1] / picture.shape[1])
        height, width = (
            max(1, min(round(side * scale), limit)) for side, limit in zip(picture.shape[:2], size, strict=True)
        )
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        canvas[top : top + height, left : left + width] = cv2.resize(
            picture, (width, height), interpolation=cv2.INTER_AREA
        )
        if share is not None:
            half = round(share * min(height, width) / 2)
            middle = left + width // 2, top + height // 2
            corners = [(middle[0] + sign * half - (sign > 0), middle[1] + sign * half - (sign > 0)) for sign in (-1, 1)]
            cv2.rectangle(canvas, corners[0], corners[1], color=_SQUARE)
    return canvas


def _band(width: int, result: Result | None, about: About, seconds: float) -> np.ndarray:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, _BAND), (20, 20, 20))
    draw = ImageDraw.Draw(image)
    clock = about.clock(seconds)
    room = width - 16 - draw.textlength(clock, _font())
    draw.text((room + 8, 6), clock, (200, 200, 200), _font())
    left = 8.0
    for name, colour in _names(None if result is None else result.smoothed_labels, about):
        while name and left - 8 + draw.textlength(name, _font()) > room:
            name = name[:-1]
        draw.text((left, 6), name, colour, _font())
        left += draw.textlength(name, _font())
    if result is not None and result.probabilities is not None:
        _draw_bars(draw, result.probabilities, width, about.multi_label)
    return np.asarray(image)


def _names(labels: tuple[int, ...] | None, about: About) -> list[tuple[str, str]]:
    """Returns what is written above the bar, piece by piece, each with its colour."""
    if not labels:
        return [(about.named(labels), _GREY)]
    pieces = [[(" + ", _GREY), (printable(about.label(label)), _colour(label))] for label in labels]
    return list(itertools.chain.from_iterable(pieces))[1:]


def _draw_bars(draw: Any, probabilities: Sequence[float], width: int, multi_label: bool) -> None:
    """Draws one bar of all classes, or beside each other one of each class within a frame of its own."""
    left, whole = 8.0, float(width - 16)
    if multi_label:
        whole /= len(probabilities)
    for index, probability in enumerate(probabilities):
        right = left + probability * whole
        if round(right) > round(left):
            draw.rectangle((round(left), 34, round(right) - 1, 46), fill=_colour(index))
        if multi_label:
            right = left + whole
            draw.rectangle((round(left), 34, round(right) - 1, 46), outline=_GREY)
        left = right


def _colour(label: int) -> str:
    return COLOURS[label % len(COLOURS)]


@lru_cache(maxsize=1)
def _font() -> Any:
    import matplotlib
    from PIL import ImageFont

    # The one font with many alphabets that is there wherever reports can be drawn.
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 18)

"""From a decoded frame to the picture as it is meant to be seen: RGB, with square pixels, turned the right way up."""

from fractions import Fraction
from typing import Any

import numpy as np

from videoswin_keras import optional
from videoswin_keras.video.container import exact

with optional.needed("Reading videos", "av"):
    import av
    from av.sidedata.sidedata import Type

_MOST_STRETCHED = 10  # a pixel of sides 1:10; what is beyond is an error of the file
_SIDE_DATA_KINDS = 64  # FFmpeg has fewer


class Pictures:
    """Makes the frames of one stream into RGB.

    Colours are converted as FFmpeg does by default: by the matrix and the range that the frame names, else BT.601 and
    the limited range. Pixels that are not square make the side grow that is too short. The display matrix turns and
    mirrors; it is read again only where the rotation changes: reading it leaves a cycle of references around the frame
    (PyAV 18), which stays until Python looks for garbage: in a long recording, gigabytes.

    Args:
        stream: PyAV's video stream.
    """

    def __init__(self, stream: Any) -> None:
        self._pixel = pixel_shape(stream)
        self._rotation: int | None = None
        self._matrix: list[int] | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Returns uint8 of shape (height, width, 3), RGB in 0–255."""
        size = _square_size(frame, self._pixel)
        if size is None:
            picture = frame.to_ndarray(format="rgb24")
        else:
            picture = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
        return self._turned(picture, frame)

    def size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Returns width and height of the picture that a frame becomes, in pixels."""
        width, height = _square_size(frame, self._pixel) or (frame.width, frame.height)
        height, width = self._turned(np.empty((height, width, 0), "uint8"), frame).shape[:2]
        return width, height

    def _turned(self, picture: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
        """Turns and mirrors by the display matrix, which sends x, y to ax + cy, bx + dy."""
        if frame.rotation != self._rotation:
            self._rotation, self._matrix = frame.rotation, _display_matrix(frame)
        if self._matrix is None:
            return picture
        a, b, _, c, d = self._matrix
        if abs(a) < abs(b):
            picture, a, d = picture.transpose(1, 0, 2), c, b
        return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def pixel_shape(stream: Any) -> Fraction:
    """Returns width by height of a pixel as the file says; 1 where it does not, or says something absurd."""
    shape = stream.sample_aspect_ratio
    if not shape or not shape.denominator:
        return Fraction(1)
    pixel = exact(shape)
    return pixel if Fraction(1, _MOST_STRETCHED) <= pixel <= _MOST_STRETCHED else Fraction(1)


def square_size(width: int, height: int, pixel: Fraction) -> tuple[int, int]:
    """Returns the width and height at which pixels of this shape become square, the larger of the ways."""
    return (round(width * pixel), height) if pixel >= 1 else (width, round(height / pixel))


def _square_size(frame: av.VideoFrame, pixel: Fraction) -> tuple[int, int] | None:
    return None if pixel == 1 else square_size(frame.width, frame.height, pixel)


def _display_matrix(frame: av.VideoFrame) -> list[int] | None:
    try:
        data: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # among the side data is a kind that PyAV has no name for, such as EXIF
        data = _with_known_side_data(frame).side_data.get("DISPLAYMATRIX")
    return None if data is None else np.frombuffer(data, "int32")[:5].tolist()


def _with_known_side_data(frame: av.VideoFrame) -> av.VideoFrame:
    """Returns the frame without the kinds of side data that PyAV has no name for; FFmpeg's filter takes them away."""
    known = {kind.value for kind in Type}
    graph = av.filter.Graph()
    last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25))
    for kind in sorted(set(range(_SIDE_DATA_KINDS)) - known):
        following = graph.add("sidedata", f"mode=delete:type={kind}")
        last.link_to(following)
        last = following
    last.link_to(graph.add("buffersink"))
    graph.configure()
    graph.push(frame)
    cleaned: Any = graph.pull()
    return cleaned

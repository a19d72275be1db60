"""Writes frames as a video file."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from videoswin_keras import optional
from videoswin_keras.atomic import replacing

with optional.needed("Writing videos", "av"):
    import av


def write_video(path: str | Path, frames: Iterable[np.ndarray | None], rate: float = 25) -> None:
    """Encodes frames as H.264, by way of a temporary name.

    Args:
        path: File to write; its ending decides the container (.mp4, .mkv, …).
        frames: Each uint8 (height, width, 3), RGB in 0–255, with even sides, all of one size; or None, for a moment
            that has no frame: the video has a gap there.
        rate: Float. Frames per second.

    Raises:
        ValueError: if there are no frames, or their sides are odd.

    Example:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> write_video(f"{folder}/grey.mp4", np.full((8, 32, 48, 3), 128, "uint8"))
    """
    stream, exact_rate = None, Fraction(rate).limit_denominator(1000)
    options = {"protocol_whitelist": "file"}  # the path is absolute, or FFmpeg would take `12:30` for an address
    with replacing(path) as temporary, av.open(str(temporary), "w", options=options) as container:
        for number, frame in enumerate(frames):
            if frame is None:
                continue
            if stream is None:
                if frame.shape[0] % 2 or frame.shape[1] % 2:
                    raise ValueError(f"H.264 takes frames of even sides. Received: height and width {frame.shape[:2]}.")
                stream = container.add_stream("libx264", rate=exact_rate)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = number, 1 / exact_rate
            container.mux(stream.encode(picture))
        if stream is None:
            raise ValueError(f"There are no frames to write to {path}.")
        container.mux(stream.encode())

"""Reads what a video file says about itself in its header, without reading the file.

What goes in: a path. What comes out: a `VideoHeader`.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from videoswin_keras import optional
from videoswin_keras.video import container, reading
from videoswin_keras.video.container import JUMPING_FORMATS, Clock, Video, exact
from videoswin_keras.video.pictures import Pictures, pixel_shape, square_size

with optional.needed("Reading videos", "av"):
    import av

# Containers whose header says how long the video is, and goes on saying so when the file is cut off.
_STATING_FORMATS = JUMPING_FORMATS | {"mxf"}
_FIRST_YEAR = 1971  # earlier ones are a clock that was not set: 1904 in MP4, 1970 elsewhere


@dataclass(frozen=True)
class VideoHeader:
    """What a video file says about itself. It may be wrong: the file may have been cut off since, for example.

    Attributes:
        duration: Float. Seconds; None where the file does not say.
        end: Float. When the last frame ends, in seconds of the file's own time (as `iter_frames` gives it). None where
            the header does not say, or FFmpeg corrects it by what is there. A file that was cut off can be told from a
            whole one by it in MP4, QuickTime, MXF, Matroska, WebM, FLV and AVI (a whole AVI has None). FLV and some
            Matroska files say only how long the longest stream lasts, which may be sound.
        is_end_exact: Whether `end` is that of the pictures, and not of what lasts longest.
        start: Float. When the file begins, in seconds of its own time: its first frame, decodable or not, or its sound
            if that is earlier. That is from where players count. None where the file has no times.
        rate: Fraction. Frames per second, on average.
        is_rate_guessed: Whether that is FFmpeg's guess: the file is a bare stream and does not say.
        created: When it was recorded, in UTC; None where the file does not say, or by a clock that was not set.
        width: Integer. Pixels as shown: square, and after rotation.
        height: Integer. The same.
    """

    duration: float | None
    end: float | None
    is_end_exact: bool
    start: float | None
    rate: Fraction
    is_rate_guessed: bool
    created: datetime | None
    width: int
    height: int


def read_header(path: str | Path, input_rate: float | None = None) -> VideoHeader:
    """Reads what a video file says about itself. Of its pictures only the first is decoded.

    Args:
        path: The video file.
        input_rate: Float. Frames per second of a bare stream (H.264, HEVC, motion JPEG, …), which has no times.

    Returns:
        A `VideoHeader`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `input_rate` is not from 0.001 to 1000, or the file has times of its own.
        VideoError: if it is empty, not a video, or without a video stream.

    Example, with a picture, which is a video of one frame:

    >>> import cv2, numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "picture.png")
    >>> cv2.imwrite(path, np.zeros((4, 6, 3), "uint8"))
    True
    >>> header = read_header(path)
    >>> header.width, header.height, header.created
    (6, 4, None)
    """
    with container.open_video(path, input_rate) as video:
        duration, start = video.container.duration, _start(video)
        (end, is_end_exact), created = _end(path, video), _created(video)
        width, height = _size(video)
    return VideoHeader(
        duration=None if duration is None else duration / av.time_base,
        end=end,
        is_end_exact=is_end_exact,
        start=start,
        rate=video.rate,
        is_rate_guessed=video.is_rate_guessed,
        created=created,
        width=width,
        height=height,
    )


def _start(video: Video) -> float | None:
    if video.clock is not Clock.TIMES or video.stream.start_time is None:
        return None
    start = float(video.stream.start_time * video.tick)
    own = video.container.start_time
    return start if own is None else min(start, own / av.time_base)


def _end(path: str | Path, video: Video) -> tuple[float | None, bool]:
    """Returns when the file says that its last frame ends, and whether that is of the pictures.

    Of other containers (Ogg, NUT, MPEG streams, ASF that was cut off) FFmpeg measures what is there.
    """
    source, stream = video.container, video.stream
    name = source.format.name
    if name == "avi":
        return (float(stream.frames / video.rate) if stream.frames and _is_cut_riff(path) else None), True
    if name == "flv":  # it counts from 0, and for the longest stream
        return (source.duration / av.time_base if source.duration else None), False
    if name not in _STATING_FORMATS:
        return None, False
    if stream.duration is not None:
        return float(((stream.start_time or 0) + stream.duration) * exact(stream.time_base)), True
    if (own := _tagged_duration(stream)) is not None:  # of Matroska
        return own, True
    if source.duration is not None:
        return ((source.start_time or 0) + source.duration) / av.time_base, False
    return None, False


def _tagged_duration(stream: Any) -> float | None:
    """Returns when a stream ends, which Matroska's writers put into a tag as "00:01:00.040000000"."""
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)", stream.metadata.get("DURATION", ""))
    return None if match is None else int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


def _is_cut_riff(path: str | Path) -> bool:
    """Whether an AVI file has fewer bytes than its parts say, of which there is one for each gigabyte.

    The header of a whole one may count frames wrongly.
    """
    size, end = Path(path).stat().st_size, 0
    with Path(path).open("rb") as file:
        while end < size:
            file.seek(end)
            head = file.read(8)
            if head[:4] != b"RIFF":
                break
            length = int.from_bytes(head[4:], "little")
            end += 8 + length + length % 2
    return end > size + 1  # the last one may lack its byte of padding


def _created(video: Video) -> datetime | None:
    for tags in (video.container.metadata, video.stream.metadata):
        try:
            created = datetime.fromisoformat(tags.get("creation_time", ""))
        except ValueError:
            continue
        if created.tzinfo is None:
            created = created.replace(tzinfo=UTC)
        if created.astimezone(UTC).year >= _FIRST_YEAR:
            return created.astimezone(UTC)
    return None


def _size(video: Video) -> tuple[int, int]:
    """By the first frame, which says how it is turned; where it does not decode, by the header."""
    video.stream.thread_type = "SLICE"  # threads by frame would decode ahead
    first = next(reading.decoded(video), None)
    if first is None:
        return square_size(video.stream.width, video.stream.height, pixel_shape(video.stream))
    return Pictures(video.stream).size(first)

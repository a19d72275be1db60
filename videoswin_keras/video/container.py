"""Opens a video file: finds its video stream, its rate, and where the times of its frames come from.

What goes in: a path. What comes out: a `Video`; one clear error where there is none.
"""

import functools
import itertools
import logging
import os
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from videoswin_keras import optional
from videoswin_keras.video import bitstream

with optional.needed("Reading videos", "av"):
    import av
    from av.stream import Disposition

_log = logging.getLogger(__name__)

# What FFmpeg would also open: text drawn as pictures, and lists of other files.
_NO_VIDEO_FORMATS = {"tty", "bin", "xbin", "adf", "idf", "hls", "concat", "dash", "webm_dash_manifest", "imf", "sdp"}
# Bare streams of pictures, which have no times.
_RAW_FORMATS = {
    "apv", "av1", "avs2", "avs3", "cavsvideo", "dirac", "dnxhd", "evc", "h261", "h263", "h264", "hevc", "ingenient",
    "ipu", "m4v", "mjpeg", "mjpeg_2000", "mpegvideo", "obu", "vc1", "vvc",
}  # fmt: skip
# Containers whose index leads to the same frames that reading from the start gives.
JUMPING_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
# Where FFmpeg gives these codecs' packets times as they come, which is not the order they are shown in.
_MPEG = {"h264", "hevc", "mpeg1video", "mpeg2video"}
_ORDER_OF_DECODING = {"avi": _MPEG, "asf": _MPEG, "asf_o": _MPEG, "mxf": {"h264", "hevc"}}
# Bare streams that may state their rate. Others state a clock that is finer than their frames.
_RATED_FORMATS = {"h264", "hevc", "vvc", "mpegvideo", "m4v", "avs2", "avs3", "cavsvideo"}
_LIKELY_RATES = range(1, 241)  # frames per second that a bare stream may state; others are counts of a finer clock
_FEW_PACKETS = 250  # a stream of which only one packet comes within so many of another is a thumbnail
# Tags that are no UTF-8 are no reason to refuse a video. PyAV 19 takes them as they are; older ones have to be told.
_ANY_TAGS: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}
_PACKED_WITHIN = 16  # packets after which MPEG-4 has shown whether it is packed


class VideoError(ValueError):
    """A file that holds no video, or none that can be decoded."""


class Clock(Enum):
    """Where the times of frames come from."""

    TIMES = "the file"
    PACKETS = "the order of the packets: frame k is shown at the time of packet k"
    COUNT = "the number of frames before, and the rate"


@dataclass(frozen=True)
class Video:
    """An open video file; leaving its `with` block closes it.

    Attributes:
        container: PyAV's container.
        stream: Its video stream.
        clock: Where the times of the frames come from.
        tick: Fraction. Seconds per tick of these times.
        rate: Fraction. Frames per second, as the file or the caller says; else FFmpeg's guess.
        is_rate_guessed: Whether it is that.
    """

    container: Any
    stream: Any
    clock: Clock
    tick: Fraction
    rate: Fraction
    is_rate_guessed: bool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.container.close()

    @property
    def has_sure_jumps(self) -> bool:
        """Whether the container's index leads to the same frames that reading from the start gives."""
        return self.container.format.name in JUMPING_FORMATS and self.clock is Clock.TIMES


def open_video(path: str | Path, input_rate: float | None = None) -> Video:
    """Opens a video file at its start.

    The first video stream counts, unless it is cover art or a thumbnail: one frame, beside a stream of more.

    Args:
        path: The video file.
        input_rate: Float. Frames per second of a bare stream (H.264, HEVC, motion JPEG, …), from 0.001 to 1000.

    Returns:
        A `Video`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `input_rate` is out of range, or the file has times of its own.
        VideoError: if the file is empty, not a video, cut off, or without a video stream.

    Example, with a picture, which is a video of one frame:

    >>> import cv2, numpy as np, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "picture.png")
    >>> cv2.imwrite(path, np.zeros((4, 6, 3), "uint8"))
    True
    >>> with open_video(path) as video:
    ...     video.stream.width, video.clock.name
    (6, 'TIMES')
    """
    path = Path(path)
    container = _open(path)
    try:
        if container.format.name == "webp_pipe" and _is_animated(path):
            raise VideoError(
                f"{path} is an animated WebP, which FFmpeg cannot read here. Another program can make it an MP4."
            )
        stream = _video_stream(path, container)
        if stream is None:  # how many frames each stream has shows only in reading, which moves on
            number = _longest_stream(path)
            stream = container.streams[number]
        if stream.codec_context is None:
            raise VideoError(
                f"{path} is in a video format for which FFmpeg has no decoder here. Where it plays, convert it with "
                f"`ffmpeg -i {path.name} -c:v libx264 converted.mp4`."
            )
        rate, is_guessed = _rate(path, container, stream, input_rate)
    except Exception:
        container.close()
        raise
    stream.thread_type = "AUTO"
    clock = _clock(path, container, stream)
    tick = 1 / rate if clock is Clock.COUNT else exact(stream.time_base)
    return Video(container, stream, clock, tick, rate, is_guessed)


def exact(number: Any) -> Fraction:
    """Returns a rate or a tick as a Fraction, which PyAV 19 no longer gives."""
    return Fraction(number.numerator, number.denominator)


def stated_rates(stream: Any) -> list[Fraction]:
    """Returns the file's own word on its frames per second, the most trusted first. At least one."""
    return [exact(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate] or [Fraction(25)]


def rate_fraction(rate: float, name: str = "rate") -> Fraction:
    """Returns a number per second as a fraction.

    Raises:
        ValueError: if it is not from 0.001 to 1000.
    """
    if not 0.001 <= rate <= 1000:
        raise ValueError(f"`{name}` must be from 0.001 to 1000 per second. Received: {rate}.")
    return Fraction(rate).limit_denominator(10_000)


def _is_packed(path: Path, stream: Any) -> bool:
    """Whether the first packets of MPEG-4 say that they are packed, or are."""
    if stream.codec_context.name != "mpeg4":
        return False
    with _open(path) as container:
        source = itertools.islice(container.demux(container.streams[stream.index]), _PACKED_WITHIN)
        try:
            return any(bitstream.is_packed(packet) for packet in source)
        except av.error.FFmpegError:
            return False


def _open(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"No video file at {path}. Is the path right, and is it a file?")
    if not path.stat().st_size:
        raise VideoError(f"{path} is empty. Was it copied completely?")
    try:
        # The path is made absolute because FFmpeg takes `12:30.mp4` for an address. Nothing but files is opened, and of
        # pictures none but this: `img%d.png` is a name, not a pattern of names.
        options = {"protocol_whitelist": "file", "pattern_type": "none"}
        return av.open(os.path.abspath(path), options=options, **_ANY_TAGS)
    except PermissionError:
        raise
    except av.error.FFmpegError as error:
        raise VideoError(f"{path} is not a readable video: {_reason(path, error)}") from error


def _reason(path: Path, error: Any) -> str:
    """Returns what is wrong with a file that FFmpeg does not open, and what helps."""
    boxes = _boxes(path)
    if boxes and "moov" not in boxes:
        return (
            "its index (moov) is missing: the recording was cut off before it was finished, or copied incompletely. "
            "Copy it again from where it is whole. Where there is no whole one, `untrunc` can rebuild the index with "
            "another video of the same camera."
        )
    if isinstance(error, av.error.DemuxerNotFoundError | av.error.DecoderNotFoundError):
        return f"{error.strerror}. Where it plays, convert it with `ffmpeg -i {path.name} -c:v libx264 converted.mp4`."
    return f"{error.strerror}. Is it a video, and was it copied completely?"


def _boxes(path: Path) -> list[str]:
    """Returns the names of the outer parts of an MP4 or QuickTime file; none if it is no such file."""
    names: list[str] = []
    size = path.stat().st_size
    with path.open("rb") as file:
        while file.tell() + 8 <= size:
            start = file.tell()
            length, name = int.from_bytes(file.read(4), "big"), file.read(4).decode("latin-1")
            if not names and name not in ("ftyp", "mdat", "wide", "skip", "free"):
                return []
            names.append(name)
            if length == 1:  # the length is in the next eight bytes
                length = int.from_bytes(file.read(8), "big")
            if length < 8:
                break  # up to the end of the file
            file.seek(start + length)
    return names


def _is_animated(path: Path) -> bool:
    """Whether a WebP file says that it is animated: bit 1 of the flags in its extended header (VP8X)."""
    with path.open("rb") as file:
        head = file.read(21)
    return head[12:16] == b"VP8X" and bool(head[20] & 2)


def _candidates(path: Path, container: Any) -> list[Any]:
    """Returns the video streams but cover art: at least one."""
    if container.format.name in _NO_VIDEO_FORMATS:
        raise VideoError(f"{path} is a text or a list of files ({container.format.name}), not a video.")
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise VideoError(f"{path} has no video stream; it holds {kinds} (cover art does not count).")
    return streams


def _video_stream(path: Path, container: Any) -> Any | None:
    """Returns the first video stream that is no thumbnail; None where the header does not tell."""
    streams = _candidates(path, container)
    if len(streams) == 1 or streams[0].frames > 1:
        return streams[0]
    if all(stream.frames for stream in streams):
        return next((stream for stream in streams if stream.frames > 1), streams[0])
    return None


def _longest_stream(path: Path) -> int:
    """Returns the number of the first video stream of more than one packet; reads on only until that is sure."""
    with _open(path) as container:
        streams = _candidates(path, container)
        counts = {stream.index: 0 for stream in streams}
        first = streams[0].index
        source = container.demux(streams)
        while counts[first] < 2 and max(counts.values()) < _FEW_PACKETS:
            try:
                packet = next(source)
            except (StopIteration, IndexError, av.error.FFmpegError):
                break
            counts[packet.stream_index] += packet.size > 0
        return next((number for number, count in counts.items() if count > 1), first)


def _clock(path: Path, container: Any, stream: Any) -> Clock:
    name = container.format.name
    if name in _RAW_FORMATS:
        return Clock.COUNT
    if stream.codec_context.name in _ORDER_OF_DECODING.get(name, ()):
        return Clock.PACKETS
    return Clock.PACKETS if _is_packed(path, stream) else Clock.TIMES


def _rate(path: Path, container: Any, stream: Any, input_rate: float | None) -> tuple[Fraction, bool]:
    """Returns the frames per second, and whether that is only FFmpeg's guess."""
    is_raw = container.format.name in _RAW_FORMATS
    if input_rate is not None:
        if not is_raw:
            raise ValueError(
                f"{path} has times of its own; `input_rate` is for bare streams that have none (H.264, HEVC, motion "
                f"JPEG, …). Received: {input_rate}."
            )
        return rate_fraction(input_rate, "input_rate"), False
    if not is_raw:
        return stated_rates(stream)[0], False
    stated = stream.codec_context.framerate if container.format.name in _RATED_FORMATS else None
    if stated and _LIKELY_RATES[0] <= exact(stated) <= _LIKELY_RATES[-1]:
        return exact(stated), False
    return stated_rates(stream)[-1], True


def warn_of_guess(path: str | Path, video: Video) -> None:
    """Says in the log, once for each file, if its times rest on a rate that FFmpeg guessed."""
    if video.is_rate_guessed:
        _warn_of_guess(Path(path), video.rate)


@functools.lru_cache(maxsize=1024)
def _warn_of_guess(path: Path, rate: Fraction) -> None:
    _log.warning(
        "%s says neither times nor frames per second; %g per second is FFmpeg's guess. Where it is wrong, give the "
        "right one with --input-rate (in Python `input_rate`).",
        path,
        float(rate),
    )

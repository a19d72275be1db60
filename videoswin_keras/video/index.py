"""The time line of a video file: when each of its frames is shown, read from its packets.

What goes in: a path. What comes out: a `VideoIndex`, without pixels.
"""

import math
from array import array
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from videoswin_keras.video import bitstream, container, reading
from videoswin_keras.video.container import JUMPING_FORMATS, Clock, Video, VideoError, rate_fraction
from videoswin_keras.video.pictures import Pictures

# A frame may be this far from its regular time, in frames, in a video of constant rate. Containers round times, and
# cameras jitter by some milliseconds; a frame that was left out shifts the others by more.
_JITTER = 0.25
_LONG_FRAMES = 2  # the last frame of a video of constant rate lasts no more frames than this


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The time line of a video, as `probe` reads it. Frames are numbered from 0 in the order they are shown.

    Besides the frames there are slots: the time line cut into equal steps, for everything that samples by time or by
    number. In a video of constant rate slot k is frame k, exactly. Otherwise, or at another rate, slot k is shown by
    the last frame whose time is at most k / rate, to within half a tick of the file's clock.

    Attributes:
        pts: int64 of shape (frames,), never decreasing. When each frame is shown, in ticks; may start anywhere.
        tick: Fraction. Seconds per tick.
        keyframes: int64, increasing. Numbers of the frames, besides the first, that reading can safely jump to.
        rate: Fraction. Frames per second, on average.
        is_constant: Whether every frame is within a quarter of a frame of its regular time, and the last lasts no
            longer than two.
        duration: Float. Seconds from the first frame to the end of the last.
        width: Integer. Pixels as shown: square, and after rotation.
        height: Integer. The same.
        rotation: Integer. By how many degrees the stored frames are turned counter-clockwise to be shown: 0, 90, 180
            or 270. Where the file also mirrors them, that is done as well.
        is_timed: Whether decoded frames carry these times. If not (bare streams), frames can only be counted from the
            start, and reading one decodes all before it.
    """

    pts: np.ndarray
    tick: Fraction
    keyframes: np.ndarray
    rate: Fraction
    is_constant: bool
    duration: float
    width: int
    height: int
    rotation: int
    is_timed: bool

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.pts)

    @property
    def times(self) -> np.ndarray:
        """When each frame is shown, in seconds: float64 of shape (frames,), never decreasing; may start anywhere."""
        return self.pts * float(self.tick)

    def num_slots(self, rate: float | None = None) -> int:
        """Returns into how many slots `rate` per second cuts the video, at least 1; by default as many as frames.

        A slot that the video does not fill is left out; but where a slot is a whole number of frames, the last one may
        be cut short. So does torchvision.
        """
        if rate is None:
            return self.num_frames
        if self.is_constant:
            slots = self.num_frames * rate_fraction(rate) / self.rate
            is_whole = (self.rate / rate_fraction(rate)).denominator == 1
            return max(1, math.ceil(slots) if is_whole else math.floor(slots))
        return max(1, math.floor(self.duration * float(rate_fraction(rate)) + 1e-6))

    def frames_at(self, slots: np.ndarray, rate: float | None = None) -> np.ndarray:
        """Returns the numbers of the frames that are shown in these slots.

        Args:
            slots: Integers of any shape, each from 0 to `num_slots(rate) − 1`.
            rate: Float. Slots per second. Default: the video's average rate.

        Returns:
            int64 of the same shape.

        Raises:
            ValueError: if a slot is out of range, or the rate not from 0.001 to 1000.
        """
        slots = np.asarray(slots, "int64")
        count = self.num_slots(rate)
        if slots.size and not 0 <= slots.min() <= slots.max() < count:
            raise ValueError(f"The video has slots 0 to {count - 1}. Received: {slots.min()} to {slots.max()}.")
        slots_per_second = self.rate if rate is None else rate_fraction(rate)
        if self.is_constant:
            frames_per_slot = self.rate / slots_per_second
            return slots * frames_per_slot.numerator // frames_per_slot.denominator
        shown = self.pts[0] + slots / float(slots_per_second * self.tick) + 0.5
        return np.searchsorted(self.pts, shown, side="right") - 1


def probe(path: str | Path, input_rate: float | None = None) -> VideoIndex:
    """Reads the time line of a video file: all of its packets, but only one decoded frame.

    Time and memory grow with the file, slowly: 17 bytes and some microseconds per frame, plus the reading itself.
    Where a packet may be other than one frame (interlaced H.264, MPEG-4 with packed B-frames), or has no time or
    that of another, all frames are decoded once instead.
    The first video stream counts; cover art and thumbnails do not. Frames that an edit list cuts away are not counted.
    A file that ends early has the frames that are there.

    The size is that of square pixels: where the file's are not, the side that is too short grows. (The official code,
    by decord, ignores the shape of pixels.)

    Args:
        path: The video file.
        input_rate: Float. Frames per second of a bare stream (H.264, HEVC, motion JPEG, …), which has no times.
            Default: what the stream says, else FFmpeg's guess, with a warning in the log.

    Returns:
        A `VideoIndex`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `input_rate` is not from 0.001 to 1000, or the file has times of its own.
        VideoError: if it is empty, not a video, without a video stream, or no frame of it can be decoded.

    Example, with a picture, which is a video of one frame:

    >>> import cv2, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "picture.png")
    >>> cv2.imwrite(path, np.zeros((4, 6, 3), "uint8"))
    True
    >>> index = probe(path)
    >>> index.num_frames, index.height, index.width
    (1, 4, 6)
    """
    with container.open_video(path, input_rate) as video:
        container.warn_of_guess(path, video)
        line = _line_of_packets(video)
    if line is None:
        with container.open_video(path, input_rate) as video:
            line = _line_of_frames(video)
    with container.open_video(path, input_rate) as video:
        rates = [video.rate, *container.stated_rates(video.stream)]
        tick, clock = video.tick, video.clock
        video.stream.thread_type = "SLICE"  # threads by frame would decode ahead
        first = next(reading.decoded(video), None)
        if not len(line.pts) or first is None:
            raise VideoError(f"No frame of {path} can be decoded. Is the file complete? Does another player show it?")
        width, height = Pictures(video.stream).size(first)

    pts, keyframes, last_ticks = line.pts, line.keyframes, line.last_ticks
    is_timed = clock is not Clock.COUNT and (len(pts) == 1 or bool(pts[0] < pts[-1]))
    if not is_timed:
        tick, last_ticks, pts, keyframes = 1 / rates[0], 1, np.arange(len(pts)), np.zeros(0, "int64")
    seconds = (pts - pts[0]) * float(tick)
    last_seconds = last_ticks * float(tick)
    constant = _constant_rate(seconds, last_seconds, rates)
    if constant is None:
        mean = seconds[-1] / (len(pts) - 1) if len(pts) > 1 else 0.0
        duration = float(seconds[-1]) + (last_seconds or float(mean))
        rate = _short(Fraction(len(pts) / duration))
    else:
        duration, rate = float(len(pts) / constant), constant
    return VideoIndex(
        pts=pts,
        tick=tick,
        keyframes=keyframes,
        rate=rate,
        is_constant=constant is not None,
        duration=duration,
        width=width,
        height=height,
        rotation=round(first.rotation / 90) * 90 % 360,
        is_timed=is_timed,
    )


class _Line(NamedTuple):
    pts: np.ndarray  # int64, never decreasing
    keyframes: np.ndarray  # int64: numbers of frames that can be jumped to
    last_ticks: int  # for how long the last frame is shown; 0 where it is not known


def _line_of_packets(video: Video) -> _Line | None:
    """Returns the time line by the packets; None where a packet may not be one frame, or the times do not tell."""
    codec = video.stream.codec_context.name
    head = bytes(video.stream.codec_context.extradata or b"")
    if codec == "h264" and bitstream.may_have_fields(head):
        return None
    has_headers_within = codec == "h264" and head[:1] != b"\x01"
    may_go_back = video.container.format.name not in JUMPING_FORMATS
    times, keys = array("q"), bytearray()
    last, last_ticks = None, 0  # the frame shown last, and for how long
    for packet in reading.packets(video):
        if packet.is_discard or bitstream.is_hidden(packet, codec):
            continue
        if not bitstream.is_one_frame(packet, codec):
            return None
        if has_headers_within and packet.is_keyframe and bitstream.may_have_fields(bytes(packet)):
            return None
        time = _time(packet, len(times), video.clock)
        if time is None or (may_go_back and last is not None and reading.goes_back(video, time, last)):
            return None
        times.append(time)
        keys.append(packet.is_keyframe)
        if last is None or time >= last:
            last, last_ticks = time, packet.duration or 0
    pts = np.frombuffer(times, "int64")
    # Packets come in the order of decoding, which B-frames make another than that of showing.
    order = np.argsort(pts, kind="stable")
    pts = pts[order]
    if len(pts) > 1 and not np.diff(pts).all():
        return None  # of two packets of one time it is not known which is shown first
    if video.clock is Clock.PACKETS and len(pts):
        pts = pts - pts[0]
    keyframes = np.flatnonzero(np.frombuffer(keys, "uint8")[order])
    return _Line(pts, keyframes if _can_jump(video) else np.zeros(0, "int64"), last_ticks)


def _line_of_frames(video: Video) -> _Line:
    """Returns the time line by decoding all frames."""
    times, keys = array("q"), bytearray()
    last_ticks, are_times_own = 0, True
    for ticks, frame in reading.shown(video):
        times.append(ticks)
        keys.append(frame.key_frame)
        are_times_own &= frame.pts == ticks
        last_ticks = frame.duration or 0
    pts = np.maximum.accumulate(np.frombuffer(times, "int64")) if times else np.zeros(0, "int64")
    keyframes = np.flatnonzero(np.frombuffer(keys, "uint8"))
    return _Line(pts, keyframes if are_times_own and _can_jump(video) else np.zeros(0, "int64"), last_ticks)


def _time(packet: Any, number: int, clock: Clock) -> int | None:
    if clock is Clock.COUNT:
        return number
    return packet.dts if clock is Clock.PACKETS else packet.pts


def _can_jump(video: Video) -> bool:
    """In MPEG program streams the times change with where reading starts."""
    return video.clock is Clock.TIMES and video.container.format.name != "mpeg"


def _constant_rate(seconds: np.ndarray, last_seconds: float, stated: list[Fraction]) -> Fraction | None:
    """The rate, stated or measured, at which every frame is close to its regular time; None if there is none."""
    if len(seconds) > 1:
        stated = [*stated, Fraction((len(seconds) - 1) / seconds[-1])]
    numbers = np.arange(len(seconds))
    for rate in stated:
        late = seconds * float(rate) - numbers
        if late.max() - late.min() <= 2 * _JITTER and last_seconds * float(rate) <= _LONG_FRAMES:
            return _short(rate)
    return None


def _short(rate: Fraction) -> Fraction:
    """The nearest positive fraction whose products with slot numbers stay far below 2⁶³."""
    return rate.limit_denominator(100_000) or Fraction(1, 100_000)

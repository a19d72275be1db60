"""Reads a video file: its time line without decoding it, then only the frames that are wanted.

Frames are RGB, uint8, (height, width, 3), turned the way up that the file asks for. Colours are converted as FFmpeg
does by default: by the matrix and the range that the file names, else BT.601 and the limited range.
"""

import functools
import logging
import math
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from videoswin_keras import optional

with optional.needed("Reading videos", "av"):
    import av
    from av.stream import Disposition

_log = logging.getLogger(__name__)

# What FFmpeg would also open: text drawn as pictures, and lists of other files.
_NO_VIDEO_FORMATS = {"tty", "bin", "xbin", "adf", "idf", "hls", "concat", "dash", "webm_dash_manifest", "imf", "sdp"}
# Decoding on is cheaper than jumping to a keyframe this few frames ahead.
_JUMP_FRAMES = 16
# A frame may be this far from its regular time, in frames, in a video of constant rate. Containers round times, and
# cameras jitter by some milliseconds; a frame that was left out shifts the others by more.
_JITTER = 0.25
# Containers whose index leads to the same frames that reading from the start gives, and how many seconds before a
# wanted time reading begins: what a jump leaves out or spoils is past by then.
_JUMPING_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_RUN_UP = 10.0
_STEP_BACK = 1.0  # seconds by which times may go back; further in a file that was put together of several
# Tags that are no UTF-8 are no reason to refuse a video. PyAV 19 takes them as they are; older ones have to be told.
_ANY_TAGS: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}


class VideoError(ValueError):
    """A file that holds no video, or none that can be decoded."""


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
        is_constant: Whether every frame is within a quarter of a frame of its regular time.
        duration: Float. Seconds from the first frame to the end of the last.
        width: Integer. Pixels, after rotation.
        height: Integer. Pixels, after rotation.
        rotation: Integer. By how many degrees the stored frames are turned counter-clockwise to be shown: 0, 90, 180
            or 270. Where the file also mirrors them, that is done as well.
        is_timed: Whether decoded frames carry these times. If not (raw streams, H.264 in AVI), frames can only be
            counted from the start, and reading one decodes all before it.
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

        A slot that the video does not fill is left out, as torchvision does.
        """
        if rate is None:
            return self.num_frames
        if self.is_constant:
            return max(1, math.floor(self.num_frames * _fraction(rate) / self.rate))
        return max(1, math.floor(self.duration * float(_fraction(rate)) + 1e-6))

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
        slots_per_second = self.rate if rate is None else _fraction(rate)
        if self.is_constant:
            frames_per_slot = self.rate / slots_per_second
            return slots * frames_per_slot.numerator // frames_per_slot.denominator
        shown = self.pts[0] + slots / float(slots_per_second * self.tick) + 0.5
        return np.searchsorted(self.pts, shown, side="right") - 1


def probe(path: str | Path) -> VideoIndex:
    """Reads the time line of a video file: all of its packets, but only one decoded frame.

    Time and memory grow with the file, slowly: 17 bytes and some microseconds per frame, plus the reading itself.
    The first video stream counts; cover art does not. Frames that an edit list cuts away are not counted.
    A file that ends early has the frames that are there.

    Args:
        path: The video file.

    Returns:
        A `VideoIndex`.

    Raises:
        FileNotFoundError: if there is no such file.
        VideoError: if it is empty, not a video, without a video stream, or no frame of it can be decoded.

    Example, with a picture, which is a video of one frame:

    >>> import cv2, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "picture.png")
    >>> cv2.imwrite(path, np.zeros((4, 6, 3), "uint8"))
    True
    >>> index = probe(path)
    >>> index.num_frames, index.height, index.width
    (1, 4, 6)
    """
    shown, keys = array("q"), bytearray()
    last, last_ticks = None, 0  # the frame shown last, and for how long
    container, stream = _open(path)
    with container:
        is_timed = not _lacks_times(container, stream)
        for packet in _packets(container, stream):
            if packet.is_discard or _is_hidden(packet, stream):
                continue
            is_timed &= packet.pts is not None
            shown.append(packet.pts or 0)
            keys.append(packet.is_keyframe)
            if last is None or shown[-1] >= last:
                last, last_ticks = shown[-1], packet.duration or 0
        tick, rates = _exact(stream.time_base), _stated_rates(stream)
        has_sure_jumps = container.format.name != "mpeg"  # the times change with where reading starts there
    first = _first_frame(path)
    if not keys or first is None:
        raise VideoError(f"No frame of {path} can be decoded. Is the file complete? Does another player show it?")

    is_timed &= len(shown) == 1 or min(shown) < max(shown)
    if is_timed:
        # Packets come in the order of decoding, which B-frames make another than that of showing.
        pts = np.frombuffer(shown, "int64")
        order = np.argsort(pts, kind="stable")
        pts, keyframes = pts[order], np.flatnonzero(np.frombuffer(keys, "uint8")[order])
    else:
        tick, last_ticks, pts = 1 / rates[0], 1, np.arange(len(keys))
    if not (is_timed and has_sure_jumps):
        keyframes = np.zeros(0, "int64")
    seconds = (pts - pts[0]) * float(tick)
    constant = _constant_rate(seconds, rates)
    if constant is None:
        mean = seconds[-1] / (len(pts) - 1)
        duration = float(seconds[-1]) + (last_ticks * float(tick) or float(mean))
        rate = _short(Fraction(len(pts) / duration))
    else:
        duration, rate = float(len(pts) / constant), constant
    height, width = _turned(np.empty((first.height, first.width, 0), "uint8"), _display_matrix(first)).shape[:2]
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


def read_frames(
    path: str | Path,
    index: VideoIndex,
    wanted: Iterable[int],
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[int, np.ndarray]:
    """Decodes the wanted frames of a video, and as few others as the file allows.

    Each run of wanted frames is decoded from the keyframe before it. Each frame is told by its time, so that a file
    that jumps to another place than asked for costs time, not truth. Only the wanted frames are held, as `transform`
    returns them. A wanted frame that is damaged is replaced by the last good one before it (at the start of a video:
    the first good one after it), with one warning in the log that says how many were.

    Args:
        path: The video file.
        index: What `probe` returned for this file.
        wanted: Integers. Frame numbers, in any order, repeated or not.
        transform: Function of a frame (uint8, (height, width, 3), RGB) that returns what to hold in its place. A
            resize, for example. Default: the frame itself.

    Returns:
        The frames by number, in increasing order: each wanted number once.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a number is out of range.
        VideoError: if no wanted frame can be decoded, nor any to replace it.

    Example, with a picture, which is a video of one frame:

    >>> import cv2, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "picture.png")
    >>> cv2.imwrite(path, np.full((4, 6, 3), 255, "uint8"))
    True
    >>> frames = read_frames(path, probe(path), [0])
    >>> frames[0].shape, int(frames[0].min())
    ((4, 6, 3), 255)
    """
    numbers = sorted({int(number) for number in wanted})
    if numbers and not 0 <= numbers[0] <= numbers[-1] < index.num_frames:
        raise ValueError(
            f"{path} has the frames 0 to {index.num_frames - 1}. Received: {numbers[0]} to {numbers[-1]}. "
            f"Is this the index of this file?"
        )
    found: dict[int, np.ndarray] = {}
    replaced, matrix = 0, _DisplayMatrix()

    def keep(number: int, frame: av.VideoFrame, is_it: bool) -> None:
        nonlocal replaced
        picture = _picture(frame, matrix)
        found[number] = picture if transform is None else transform(picture)
        replaced += not is_it

    for keyframe, run in _runs(numbers, index):
        for start in _starts(keyframe, index):
            if _read_run(path, index, start, run, keep):
                break
    if len(found) < len(numbers):
        raise VideoError(
            f"Of {len(numbers)} wanted frames of {path}, {len(numbers) - len(found)} cannot be decoded, nor any frame "
            f"that could replace them. Is the file complete?"
        )
    if replaced:
        _log.warning(
            "%s: %d of %d wanted frames are damaged; their neighbours replace them.", path, replaced, len(numbers)
        )
    return {number: found[number] for number in numbers}


def iter_frames(path: str | Path) -> Iterator[tuple[float, np.ndarray]]:
    """Decodes a video from start to end, holding one frame at a time. Damaged frames are left out.

    Where times go back by more than a second, in a file that was put together of several, they go on instead.

    Args:
        path: The video file.

    Returns:
        Iterator of pairs: the time in seconds, as `VideoIndex.times` has it, and the frame, RGB in uint8 of shape
        (height, width, 3).

    Raises:
        FileNotFoundError: if there is no such file.
        VideoError: if it is empty, not a video, without a video stream, or (after the last frame) had none.

    Example, with a picture, which is a video of one frame:

    >>> import cv2, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "picture.png")
    >>> cv2.imwrite(path, np.full((4, 6, 3), 255, "uint8"))
    True
    >>> [(seconds, frame.shape) for seconds, frame in iter_frames(path)]
    [(0.0, (4, 6, 3))]
    """
    return ((frame.seconds, frame.picture()) for frame in iter_lazy_frames(path))


def iter_lazy_frames(path: str | Path, after: float | None = None) -> Iterator["TimedFrame"]:
    """Decodes a video as `iter_frames` does, and leaves it to the caller whether to make a frame into RGB.

    That takes about as long as the decoding: who looks at few frames saves half the time.

    Args:
        path: The video file.
        after: Float. Seconds: only the frames later than this are returned, the same ones as without `after`. Where
            the container is one to be trusted with it, reading jumps there.

    Returns:
        Iterator of pairs: the time in seconds, and a function without arguments that returns the frame, RGB in uint8
        of shape (height, width, 3).

    Raises:
        FileNotFoundError, VideoError: as `iter_frames`; that no frame comes after `after` is no error.
    """
    container, stream = _open(path)  # opened here, so that errors come at the call
    if after is not None and not _jump(container, stream, after):
        container.close()
        container, stream = _open(path)
    return _timed_frames(path, container, stream, after)


def _jump(container: Any, stream: Any, after: float) -> bool:
    """Moves to a keyframe well before a time, if that can be trusted to give the same frames; returns whether."""
    if container.format.name not in _JUMPING_FORMATS:
        return False
    target = math.floor((after - _RUN_UP) / _exact(stream.time_base))
    try:
        container.seek(target, stream=stream)
        landing = next(_decoded(container, stream), None)
        container.seek(target, stream=stream)
    except av.error.FFmpegError:
        return False
    return landing is not None and landing.pts is not None and landing.pts <= target


def _timed_frames(path: str | Path, container: Any, stream: Any, after: float | None) -> Iterator["TimedFrame"]:
    count = 0
    with container:
        rate, is_timed = _stated_rates(stream)[0], not _lacks_times(container, stream)
        tick, shift, last = float(stream.time_base), 0.0, -math.inf
        may_go_back = container.format.name not in _JUMPING_FORMATS
        matrix = _DisplayMatrix()
        for frame in _decoded(container, stream):
            seconds = float(count / rate) if frame.pts is None or not is_timed else frame.pts * tick + shift
            if may_go_back and seconds < last - _STEP_BACK:
                _log.warning("%s: its times go back by %.1f s; they are taken as going on.", path, last - seconds)
                shift += last + float(1 / rate) - seconds
                seconds = last + float(1 / rate)
            last = seconds
            count += 1
            if after is None or seconds > after:
                yield TimedFrame(seconds, (frame.duration or 0) * tick, functools.partial(_picture, frame, matrix))
    if not count and after is None:
        raise VideoError(f"No frame of {path} can be decoded. Is the file complete? Does another player show it?")


@dataclass(frozen=True)
class VideoHeader:
    duration: float | None
    end: float | None
    rate: Fraction
    created: datetime | None


def read_header(path: str | Path) -> VideoHeader:
    container, stream = _open(path)
    with container:
        end = None
        if container.format.name in _JUMPING_FORMATS:
            if stream.duration is not None:
                end = float(((stream.start_time or 0) + stream.duration) * _exact(stream.time_base))
            elif container.duration is not None and len(container.streams) == 1:
                end = ((container.start_time or 0) + container.duration) / av.time_base
        text = container.metadata.get("creation_time")
        created = None if not text else datetime.fromisoformat(text)
        duration = None if container.duration is None else container.duration / av.time_base
        return VideoHeader(duration, end, _stated_rates(stream)[0], created)


class TimedFrame(NamedTuple):
    seconds: float
    duration: float
    picture: Callable[[], np.ndarray]


def _open(path: str | Path) -> tuple[Any, Any]:
    """Opens the file and returns it with its first video stream."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No video file at {path}. Is the path right, and is it a file?")
    if not path.stat().st_size:
        raise VideoError(f"{path} is empty. Was it copied completely?")
    try:
        # The path is made absolute because FFmpeg takes `12:30.mp4` for an address. Nothing but files is opened.
        container = av.open(os.path.abspath(path), options={"protocol_whitelist": "file"}, **_ANY_TAGS)
    except PermissionError:
        raise
    except av.error.FFmpegError as error:
        raise VideoError(
            f"{path} is not a readable video: {error.strerror}. Is it a video, and complete? If it plays elsewhere, "
            f"convert it with `ffmpeg -i {path.name} converted.mp4`."
        ) from error
    try:
        if container.format.name in _NO_VIDEO_FORMATS:
            raise VideoError(f"{path} is a text or a list of files ({container.format.name}), not a video.")
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise VideoError(f"{path} has no video stream; it holds {kinds} (cover art does not count).")
        if streams[0].codec_context is None:
            raise VideoError(f"{path} is in a video format for which FFmpeg has no decoder here. Convert it to H.264.")
    except VideoError:
        container.close()
        raise
    streams[0].thread_type = "AUTO"
    return container, streams[0]


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The stream's packets from the current position on. Where the file cannot be read further, it ends."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):
            return
        if packet.size:  # an empty one stands for "as before" in AVI, and for the end elsewhere
            yield packet


def _decoded(container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """The frames from the current position on, in the order they are shown, without those that do not decode."""
    for packet in _packets(container, stream):
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            continue
    try:
        yield from stream.decode(None)  # what the decoder still holds
    except av.error.FFmpegError:
        return


def _first_frame(path: str | Path) -> av.VideoFrame | None:
    container, stream = _open(path)
    with container:
        stream.thread_type = "SLICE"  # threads by frame would decode ahead
        return next(_decoded(container, stream), None)


def _is_hidden(packet: Any, stream: Any) -> bool:
    """Whether a packet is one of VP8 that is only a reference for others: bit 4 of its first byte says "show"."""
    return stream.codec_context.name == "vp8" and not memoryview(packet)[0] & 0x10


def _lacks_times(container: Any, stream: Any) -> bool:
    """Whether the times of decoded frames are made up. AVI has none, and FFmpeg numbers these codecs' packets as they
    come, which is not the order they are shown in."""
    return container.format.name == "avi" and stream.codec_context.name in ("h264", "hevc")


def _stated_rates(stream: Any) -> list[Fraction]:
    """The file's own word on its frames per second, the most trusted first. At least one."""
    return [_exact(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate] or [Fraction(25)]


def _exact(number: Any) -> Fraction:
    """A rate or a tick as a Fraction, which PyAV 19 no longer returns."""
    return Fraction(number.numerator, number.denominator)


def _constant_rate(seconds: np.ndarray, stated: list[Fraction]) -> Fraction | None:
    """The rate, stated or measured, at which every frame is close to its regular time; None if there is none."""
    if len(seconds) > 1:
        stated = [*stated, Fraction((len(seconds) - 1) / seconds[-1])]
    numbers = np.arange(len(seconds))
    for rate in stated:
        late = seconds * float(rate) - numbers
        if late.max() - late.min() <= 2 * _JITTER:
            return _short(rate)
    return None


def _short(rate: Fraction) -> Fraction:
    """The nearest positive fraction whose products with slot numbers stay far below 2⁶³."""
    return rate.limit_denominator(100_000) or Fraction(1, 100_000)


def _fraction(rate: float) -> Fraction:
    if not 0.001 <= rate <= 1000:
        raise ValueError(f"`rate` must be from 0.001 to 1000 slots per second. Received: {rate}.")
    return Fraction(rate).limit_denominator(10_000)


def _runs(numbers: list[int], index: VideoIndex) -> list[tuple[int, list[int]]]:
    """Groups frame numbers: each group is decoded in one go, from the keyframe (place in `keyframes`) beside it.

    A place of −1 is the start of the file.
    """
    runs: list[tuple[int, list[int]]] = []
    previous = 0
    for number in numbers:
        place = int(np.searchsorted(index.keyframes, number, side="right")) - 1
        jumps = place >= 0 and index.keyframes[place] - previous > _JUMP_FRAMES
        if jumps or not runs:
            runs.append((place if jumps else -1, []))
        runs[-1][1].append(number)
        previous = number
    return runs


def _starts(place: int, index: VideoIndex) -> Iterator[int | None]:
    """When to start decoding, in ticks: at the keyframe, then at ever earlier ones, last at the file's start (None)."""
    step = 1
    while place >= 0:
        yield int(index.pts[index.keyframes[place]])
        place -= step
        step *= 2
    yield None


def _read_run(
    path: str | Path,
    index: VideoIndex,
    start: int | None,
    run: list[int],
    keep: Callable[[int, av.VideoFrame, bool], None],
) -> bool:
    """Decodes from `start` on and keeps the frames of the run. Returns False if the start proved to be no good one."""
    container, stream = _open(path)
    with container:
        if start is not None:
            try:
                container.seek(start, stream=stream)
            except av.error.FFmpegError:
                return False
        pending = [(int(index.pts[number]) if index.is_timed else number, number) for number in reversed(run)]
        previous = None
        for count, frame in enumerate(_decoded(container, stream)):
            here = frame.pts if index.is_timed else count
            if here is None:
                continue
            is_landing = start is not None and previous is None
            if is_landing and (here > pending[-1][0] or here not in index.pts[index.keyframes]):
                return False  # too late, amid a group, or the file counts its times otherwise after a jump
            while pending and pending[-1][0] <= here:
                there, number = pending.pop()
                keep(number, frame if there == here else previous or frame, there == here)
            if not pending:
                return True
            previous = frame
        if previous is None:
            return False
        for _, number in pending:
            keep(number, previous, False)
        return True


def _picture(frame: av.VideoFrame, matrix: "_DisplayMatrix") -> np.ndarray:
    return _turned(frame.to_ndarray(format="rgb24"), matrix(frame))


def _display_matrix(frame: av.VideoFrame) -> list[int] | None:
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else np.frombuffer(data, "int32")[:5].tolist()


class _DisplayMatrix:
    """The display matrix of a stream's frames, read again only where their rotation changes.

    Reading it leaves a cycle of references around the frame (PyAV 18), which stays until Python looks for garbage:
    in a long recording, gigabytes.
    """

    def __init__(self) -> None:
        self._rotation: int | None = None
        self._matrix: list[int] | None = None

    def __call__(self, frame: av.VideoFrame) -> list[int] | None:
        if frame.rotation != self._rotation:
            self._rotation, self._matrix = frame.rotation, _display_matrix(frame)
        return self._matrix


def _turned(picture: np.ndarray, matrix: list[int] | None) -> np.ndarray:
    """Turns and mirrors a picture by the display matrix of its frame, which sends x, y to ax + cy, bx + dy."""
    if matrix is None:
        return picture
    a, b, _, c, d = matrix
    if abs(a) < abs(b):
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])

"""Decodes a video file: only the frames that are wanted, or all from start to end.

Frames are RGB, uint8, (height, width, 3), turned the way up that the file asks for, with square pixels. Colours are
converted as FFmpeg does by default: by the matrix and the range that the file names, else BT.601 and the limited range.
"""

import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from videoswin_keras import optional
from videoswin_keras.video import container, reading
from videoswin_keras.video.container import Clock, Video, VideoError
from videoswin_keras.video.header import VideoHeader, read_header
from videoswin_keras.video.index import VideoIndex, probe
from videoswin_keras.video.pictures import Pictures

with optional.needed("Reading videos", "av"):
    import av

__all__ = [
    "TimedFrame",
    "VideoError",
    "VideoHeader",
    "VideoIndex",
    "iter_frames",
    "iter_lazy_frames",
    "probe",
    "read_frames",
    "read_header",
]

_log = logging.getLogger(__name__)

# Decoding on is cheaper than jumping to a keyframe this few frames ahead.
_JUMP_FRAMES = 16
# How many seconds before a wanted time reading begins: what a jump leaves out or spoils is past by then.
_RUN_UP = 10.0


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

    >>> import cv2, os, tempfile
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
    replaced = 0

    def keep(number: int, picture: np.ndarray, is_it: bool) -> None:
        nonlocal replaced
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


class TimedFrame(NamedTuple):
    """A frame and when it is shown.

    Attributes:
        seconds: Float. When it is shown, in the file's own time.
        duration: Float. For how many seconds, as far as the file says; 0.0 where it does not.
        picture: Function without arguments that returns the frame, RGB in uint8 of shape (height, width, 3).
    """

    seconds: float
    duration: float
    picture: Callable[[], np.ndarray]


def iter_frames(path: str | Path, input_rate: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """Decodes a video from start to end, holding one frame at a time. Damaged frames are left out.

    Where times go back by more than a second, in a file that was put together of several, they go on instead.

    Args:
        path: The video file.
        input_rate: Float. Frames per second of a bare stream (H.264, HEVC, motion JPEG, …), which has no times.

    Returns:
        Iterator of pairs: the time in seconds, as `VideoIndex.times` has it, and the frame, RGB in uint8 of shape
        (height, width, 3).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `input_rate` is not from 0.001 to 1000, or the file has times of its own.
        VideoError: if it is empty, not a video, without a video stream, or (after the last frame) had none.

    Example, with a picture, which is a video of one frame:

    >>> import cv2, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "picture.png")
    >>> cv2.imwrite(path, np.full((4, 6, 3), 255, "uint8"))
    True
    >>> [(seconds, frame.shape) for seconds, frame in iter_frames(path)]
    [(0.0, (4, 6, 3))]
    """
    return ((frame.seconds, frame.picture()) for frame in iter_lazy_frames(path, input_rate=input_rate))


def iter_lazy_frames(
    path: str | Path,
    after: float | None = None,
    input_rate: float | None = None,
    on_damage: reading.OnDamage | None = None,
) -> Iterator[TimedFrame]:
    """Decodes a video as `iter_frames` does, and leaves it to the caller whether to make a frame into RGB.

    That takes about as long as the decoding: who looks at few frames saves half the time.

    Args:
        path: The video file.
        after: Float. Seconds: only the frames later than this are returned, the same ones as without `after`. Where
            the container is one to be trusted with it, reading jumps there.
        input_rate: Float. Frames per second of a bare stream (H.264, HEVC, motion JPEG, …), which has no times.
        on_damage: Function that is told, before the next frame, what is wrong with the file there (frames that cannot
            be decoded, times that cannot be true, a disk that fails), and the second, or None where that is not known.
            Default: the log is told of all but frames.

    Returns:
        Iterator of `TimedFrame`.

    Raises:
        FileNotFoundError, ValueError, VideoError: as `iter_frames`; that no frame comes after `after` is no error.
    """
    video = container.open_video(path, input_rate)  # opened here, so that errors come at the call
    container.warn_of_guess(path, video)
    if after is not None and not _jump(video, after):
        video.container.close()
        video = container.open_video(path, input_rate)
    return _timed_frames(path, video, after, on_damage)


def _jump(video: Video, after: float) -> bool:
    """Moves to a keyframe well before a time, if that can be trusted to give the same frames; returns whether."""
    if not video.has_sure_jumps:
        return False
    target = math.floor((after - _RUN_UP) / video.tick)
    try:
        video.container.seek(target, stream=video.stream)
        landing = next(reading.decoded(video), None)
        video.container.seek(target, stream=video.stream)
    except av.error.FFmpegError:
        return False
    return landing is not None and landing.pts is not None and landing.pts <= target


def _timed_frames(
    path: str | Path, video: Video, after: float | None, on_damage: reading.OnDamage | None
) -> Iterator[TimedFrame]:
    is_empty = True
    with video:
        tick, picture = float(video.tick), Pictures(video.stream)
        for ticks, frame in reading.shown(video, on_damage=on_damage):
            is_empty = False
            seconds = ticks * tick
            if after is None or seconds > after:
                duration = tick if video.clock is Clock.COUNT else frame.duration * tick
                yield TimedFrame(seconds, duration, functools.partial(picture, frame))
    if is_empty and after is None:
        raise VideoError(f"No frame of {path} can be decoded. Is the file complete? Does another player show it?")


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
    keep: Callable[[int, np.ndarray, bool], None],
) -> bool:
    """Decodes from `start` on and keeps the frames of the run. Returns False if the start proved to be no good one."""
    with container.open_video(path) as video:
        picture = Pictures(video.stream)
        if start is not None:
            try:
                video.container.seek(start, stream=video.stream)
            except av.error.FFmpegError:
                return False
        pending = run[::-1]
        previous, before, repeats = None, None, 0
        for here, frame in reading.shown(video, None if index.is_timed else Clock.COUNT):
            is_landing = start is not None and previous is None
            if is_landing and (here > index.pts[pending[-1]] or here not in index.pts[index.keyframes]):
                return False  # too late, amid a group, or the file counts its times otherwise after a jump
            repeats = repeats + 1 if here == before else 0  # frames of one time are told by their order
            number = int(np.searchsorted(index.pts, here)) + repeats
            is_known = number < len(index.pts) and index.pts[number] == here
            while pending and pending[-1] < number:
                keep(pending.pop(), picture(previous or frame), False)
            if pending and pending[-1] == number and is_known:
                keep(pending.pop(), picture(frame), True)
            before = here
            if not pending:
                return True
            previous = frame
        if previous is None:
            return False
        for number in pending:
            keep(number, picture(previous), False)
        return True

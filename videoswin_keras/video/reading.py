"""Reads the packets and the frames of an open video file, as FFmpeg gives them, without those that do not decode.

What goes in: a `Video`. What comes out: packets in the order of decoding, or frames in the order they are shown, each
with its tick.
"""

import itertools
import logging
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from videoswin_keras import optional
from videoswin_keras.video.container import JUMPING_FORMATS, Clock, Video, VideoError, open_video

with optional.needed("Reading videos", "av"):
    import av

_log = logging.getLogger(__name__)

UNDECODABLE = "has frames, somewhere in it, that are damaged or cannot be decoded"
_STEP_BACK = 1  # seconds by which times may go back; further in a file that was put together of several


class OnDamage(Protocol):
    """Is told what is wrong with a file, and at which second of its own time; None where that is not known."""

    def __call__(self, what: str, seconds: float | None) -> None: ...


def packets(video: Video, on_damage: OnDamage | None = None) -> Iterator[Any]:
    """Yields the packets from the current position on, in the order of decoding, up to where reading fails.

    That the disk or the network fails is told; a file that breaks off has ended.
    """
    source = video.container.demux(video.stream)
    while True:
        try:
            packet = next(source)
        except (StopIteration, av.error.EOFError):
            return
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                (on_damage or _warning_of(video))(f"cannot be read on ({error.strerror})", None)
            return
        except IndexError:  # PyAV, at the end of a file in which a stream began late
            return
        if packet.size:  # an empty one stands for the end
            yield packet


def decoded(
    video: Video, sent: deque[int | None] | None = None, on_damage: OnDamage | None = None
) -> Iterator[av.VideoFrame]:
    """Yields the frames from the current position on, in the order they are shown.

    Args:
        video: The open file.
        sent: Takes the time of decoding (dts) of each packet that went into the decoder.
        on_damage: Function that is told of each packet that does not decode, or only to a damaged frame; but not of
            those before the first good frame: many recorders begin a file amid a group of pictures.
    """
    is_begun = False
    for packet in packets(video, on_damage):
        if sent is not None:
            sent.append(packet.dts)
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            if is_begun and on_damage is not None:
                on_damage(UNDECODABLE, None)  # it shows sooner or later, by how many threads decode
            continue
        for frame in frames:
            if is_begun and frame.is_corrupt and on_damage is not None:
                on_damage(UNDECODABLE, None)
            is_begun |= not frame.is_corrupt
            yield frame
    try:
        yield from video.stream.decode(None)  # what the decoder still holds
    except av.error.FFmpegError:
        return


def shown(
    video: Video, clock: Clock | None = None, on_damage: OnDamage | None = None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yields the frames from the current position on, each with the tick it is shown at, in the order they are shown.

    Ticks never decrease. Where they do by more than a second in the file, because it was put together of several, they
    go on instead. A frame that has no time follows the one before it by a frame; so does a single one whose time is
    more than a second ahead of the frame after it.

    Args:
        video: The open file.
        clock: Where the times come from. Default: the video's.
        on_damage: Function that is told what is wrong with the file, each time. Default: the log.
    """
    clock = clock or video.clock
    if clock is Clock.COUNT:
        yield from enumerate(decoded(video, on_damage=on_damage))
    elif clock is Clock.PACKETS:
        yield from _shown_by_packets(video, on_damage)
    else:
        yield from _shown_by_times(video, on_damage)


def _warning_of(video: Video) -> OnDamage:
    def warn(what: str, seconds: float | None) -> None:
        _log.warning("%s %s", video.container.name, what)

    return warn


def _shown_by_times(video: Video, on_damage: OnDamage | None) -> Iterator[tuple[int, av.VideoFrame]]:
    tell = on_damage or _warning_of(video)
    step = frame_ticks(video)
    may_go_back = video.container.format.name not in JUMPING_FORMATS
    shift, last = 0, None
    frames = decoded(video, on_damage=on_damage)
    ahead = itertools.pairwise(itertools.chain(frames, [None]))
    for frame, next_frame in ahead if may_go_back else ((frame, None) for frame in frames):
        assert frame is not None
        following = 0 if last is None else last + step
        ticks = following if frame.pts is None else frame.pts + shift
        if may_go_back and last is not None and next_frame is not None and next_frame.pts is not None:
            next_ticks = next_frame.pts + shift
            if goes_back(video, next_ticks, ticks) and not goes_back(video, next_ticks, last):
                tell("has a frame whose time is damaged: it is taken as the next", float(following * video.tick))
                ticks = following
        if may_go_back and last is not None and goes_back(video, ticks, last):
            seconds = (last - ticks) * float(video.tick)
            what = (
                f"has times that go back by {seconds:.1f} s: they are taken as going on, and a gap there is not known"
            )
            tell(what, float(following * video.tick))
            shift += following - ticks
            ticks = following
        ticks = ticks if last is None else max(ticks, last)
        last = ticks
        yield ticks, frame


def _shown_by_packets(video: Video, on_damage: OnDamage | None) -> Iterator[tuple[int, av.VideoFrame]]:
    """A frame carries the time of the packet that brought it out, which came a constant number of packets later.

    So a packet that brings no frame is seen, and does not shift the frames after it.
    """
    step = frame_ticks(video)
    sent: deque[int | None] = deque()
    first, delay, last = None, 0, -step
    for frame in decoded(video, sent, on_damage):
        if frame.dts is not None:
            so_far = sum(dts is not None and dts <= frame.dts for dts in sent)
            if first is None:
                delay = max(so_far - 1, 0)
            for _ in range(so_far - 1 - delay):
                sent.popleft()
        dts = sent.popleft() if sent else None
        if first is None and dts is not None:
            first = dts
        last = last + step if dts is None or first is None else max(last, dts - first)
        yield last, frame


def frame_ticks(video: Video) -> int:
    """Returns how many ticks a frame lasts by the stated rate, at least 1."""
    return max(1, round(1 / (video.rate * video.tick)))


def goes_back(video: Video, ticks: int, last: int) -> bool:
    """Whether a time is so much earlier than the one before it that another recording begins there."""
    return (last - ticks) * video.tick > _STEP_BACK


def is_video(path: Path) -> bool:
    """Returns whether a file is a video, by its content: FFmpeg opens it and decodes a frame. Pictures are none."""
    try:
        with open_video(path) as video:
            is_picture = video.container.format.name.endswith("_pipe") or video.container.format.name == "image2"
            return not is_picture and next(decoded(video), None) is not None
    except (VideoError, OSError):
        return False

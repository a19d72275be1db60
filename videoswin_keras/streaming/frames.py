"""Frames of a recording at even steps of time, whatever the camera did."""

from collections.abc import Iterable, Iterator

import numpy as np

TOLERANCE = 0.001  # seconds; containers round times to milliseconds


def sample(
    frames: Iterable[tuple[float, np.ndarray]], fps: float, longest_hold: float = 2.0
) -> Iterator[np.ndarray | None]:
    """Yields what the recording shows at 0, 1 / fps, 2 / fps, … seconds after its first frame.

    Each moment is shown by the last frame at or before it, for at most `longest_hold` seconds: after that, until the
    next frame, there is a gap. Only one frame is kept.

    Args:
        frames: Pairs of time in seconds and frame, such as `video.decode.iter_frames` gives. A frame earlier than
            the one before it (a camera whose clock was set back) is left out.
        fps: Float. Moments per second.
        longest_hold: Float. Seconds for which a frame stands for what followed it.

    Yields:
        The frame, or None in a gap. The last moment is that of the last frame or just before it.

    Raises:
        ValueError: if `fps` or `longest_hold` is not positive.

    Example:

    >>> list(sample([(5.0, "a"), (5.4, "b"), (9.0, "c")], fps=2, longest_hold=1.0))
    ['a', 'b', 'b', None, None, None, None, None, 'c']
    """
    if not (fps > 0 and longest_hold > 0):
        raise ValueError(f"`fps` and `longest_hold` must be positive. Received: {fps} and {longest_hold}.")
    moment, origin, shown, shown_at = 0, None, None, 0.0

    def until(end: float) -> Iterator[np.ndarray | None]:
        nonlocal moment
        while moment / fps < end:
            yield shown if moment / fps - shown_at <= longest_hold else None
            moment += 1

    for time, frame in frames:
        if origin is None:
            origin = time
        time -= origin
        if time < shown_at:
            continue
        yield from until(time - TOLERANCE)
        shown, shown_at = frame, time
    if origin is not None:
        yield from until(shown_at + TOLERANCE)

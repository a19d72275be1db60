"""Frames of a recording at even steps of time, whatever the camera did."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

TOLERANCE = 0.001  # seconds; containers round times to milliseconds


class Sampler:
    """Gives what a recording shows at 0, 1 / fps, 2 / fps, … seconds after its first frame.

    Each moment is shown by the last frame at or before it, for at most `longest_hold` seconds: after that, until the
    next frame, there is a gap. Only one frame is kept.

    Args:
        fps: Float. Moments per second.
        longest_hold: Float. Seconds for which a frame stands for what followed it.
        prepare: Function of a frame, called once for each that is shown at some moment, and for no other.

    Attributes:
        moment: Integer. How many moments have been given.
        origin: Float. Time of the first frame; None before it.
        time: Float. Time of the last frame that has been taken in full; None before the first. A sampler whose
            attributes are set anew goes on with the frames after this.

    Raises:
        ValueError: if `fps` or `longest_hold` is not positive.
    """

    def __init__(self, fps: float, longest_hold: float = 2.0, prepare: Callable[[Any], Any] | None = None):
        if not (fps > 0 and longest_hold > 0):
            raise ValueError(f"`fps` and `longest_hold` must be positive. Received: {fps} and {longest_hold}.")
        self.fps, self.longest_hold = fps, longest_hold
        self.moment = 0
        self.origin: float | None = None
        self.time: float | None = None
        self._prepare = prepare
        self._frame: Any = None
        self._is_prepared = False

    def add(self, time: float, frame: Any) -> Iterator[Any]:
        """Takes the next frame; yields what each moment before it shows, None in a gap.

        A frame that is not later than the one before it (a camera whose clock was set back) is left out.
        """
        if self.origin is None or self.time is None:
            self.origin = time
        elif time <= self.time:
            return
        else:
            yield from self._until(time - TOLERANCE)
        self.time, self._frame, self._is_prepared = time, frame, False

    def finish(self) -> Iterator[Any]:
        """Yields what the moments left show; the last is that of the last frame or just before it."""
        if self.time is not None:
            yield from self._until(self.time + TOLERANCE)

    def shown(self) -> Any:
        """Returns the last frame, as it was prepared; None before the first."""
        if self._prepare and not self._is_prepared and self._frame is not None:
            self._frame = self._prepare(self._frame)
        self._is_prepared = True
        return self._frame

    def resume(self, moment: int, origin: float | None, time: float | None, shown: Any) -> None:
        """Sets what another sampler had after a moment, so that this one goes on like it."""
        self.moment, self.origin, self.time = moment, origin, time
        self._frame, self._is_prepared = shown, True

    def _until(self, end: float) -> Iterator[Any]:
        assert self.origin is not None
        assert self.time is not None
        while self.origin + self.moment / self.fps < end:
            is_held = self.origin + self.moment / self.fps - self.time <= self.longest_hold
            self.moment += 1
            yield self.shown() if is_held else None


def sample(frames: Iterable[tuple[float, Any]], fps: float, longest_hold: float = 2.0) -> Iterator[Any]:
    """Yields what a `Sampler` gives for some frames, pairs of time in seconds and frame.

    Example:

    >>> list(sample([(5.0, "a"), (5.4, "b"), (9.0, "c")], fps=2, longest_hold=1.0))
    ['a', 'b', 'b', None, None, None, None, None, 'c']
    """
    sampler = Sampler(fps, longest_hold)
    for time, frame in frames:
        yield from sampler.add(time, frame)
    yield from sampler.finish()

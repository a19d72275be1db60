"""Frames of a recording at even steps of time, whatever the camera did."""

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

TOLERANCE = 0.001  # seconds; containers round times to milliseconds
# Seconds by which a frame may be earlier, or later, than the one before it. Beyond that a clock was set, and the frame
# is taken as the next one.
STEP_BACK, STEP_AHEAD = 1.0, 86_400.0
_LATEST = 1e11  # seconds, of any clock: the year 5138

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Missing:
    """Moments in a row that no frame shows."""

    count: int


class Sampler:
    """Gives what a recording shows at 0, 1 / fps, 2 / fps, … seconds after its first frame.

    Each moment is shown by the last frame at or before it, for at most `longest_hold` seconds: after that, until the
    next frame, there is a gap. Only one frame is kept.

    Args:
        fps: Float from 0.001 to 1000. Moments per second.
        longest_hold: Float. Seconds for which a frame stands for what followed it.
        prepare: Function of a frame, called once for each that is shown at some moment, and for no other.

    Attributes:
        moment: Integer. How many moments have been given.
        origin: Float. Time of the first frame; None before it.
        time: Float. Time of the last frame that has been taken in full; None before the first.
        position: Float. The same by the source's own clock, which may have been set: a sampler that takes up the
            attributes of another with `resume` goes on with the frames after this.
        prepare: The function.
        step_ahead: Float. By how many seconds a frame may be later than the one before it.
        shift: Float. Seconds from the source's clock, which was set, to this.

    Raises:
        ValueError: if `fps` is out of range or `longest_hold` not positive.
    """

    def __init__(self, fps: float, longest_hold: float = 2.0, prepare: Callable[[Any], Any] | None = None):
        if not 0.001 <= fps <= 1000:
            raise ValueError(f"`fps` must be from 0.001 to 1000 frames per second. Received: {fps}.")
        if not longest_hold > 0:
            raise ValueError(f"`longest_hold` must be positive. Received: {longest_hold}.")
        self.fps, self.longest_hold = fps, longest_hold
        self.moment = 0
        self.origin: float | None = None
        self.time: float | None = None
        self.position: float | None = None
        self.prepare = prepare
        self.step_ahead = STEP_AHEAD
        self.shift = 0.0
        self._frame: Any = None
        self._is_prepared = False

    def add(self, time: float, frame: Any) -> Iterator[Any]:
        """Takes the next frame; yields what each moment before it shows, or `Missing` for a gap.

        A frame that is not later than the one before it is left out. Where the clock was set (by more than a second
        back, or a day ahead) time goes on from the frame before.
        """
        position, time = time, time + self.shift
        if self.origin is None or self.time is None:
            self.origin = time
        else:
            if not -STEP_BACK <= time - self.time <= self.step_ahead:
                _log.warning("a clock was set: %.1f s after the frame before; taken as the next", time - self.time)
                self.shift += self.time + 1 / self.fps - time
                time = self.time + 1 / self.fps
            if time <= self.time:
                return
            yield from self._until(time - TOLERANCE)
        self.time, self.position, self._frame, self._is_prepared = time, position, frame, False

    def finish(self) -> Iterator[Any]:
        """Yields what the moments left show; the last is that of the last frame or just before it."""
        if self.time is not None:
            yield from self._until(self.time + TOLERANCE)

    def shown(self) -> Any:
        """Returns the last frame, as it was prepared; None before the first."""
        if self.prepare and not self._is_prepared and self._frame is not None:
            self._frame = self.prepare(self._frame)
        self._is_prepared = True
        return self._frame

    def times(self) -> list[float]:
        """Returns all that `resume` needs to know of time; empty before the first frame."""
        if self.origin is None or self.time is None or self.position is None:
            return []
        return [self.origin, self.time, self.position, self.shift]

    def resume(self, moment: int, times: list[float], shown: Any) -> None:
        """Takes up what another sampler had after a moment, so that this one goes on like it.

        Raises:
            ValueError: if no sampler can have these.
        """
        if times:
            origin, time, position, shift = times
            # All moments before the last frame have been given.
            is_given = 0 <= time - origin <= (moment + 1) / self.fps + TOLERANCE
            if not is_given or not all(abs(number) < _LATEST for number in times):
                raise ValueError(f"{moment} moments, and times of {times}")
            self.origin, self.time, self.position, self.shift = origin, time, position, shift
        elif moment:
            raise ValueError(f"{moment} moments without a frame")
        self.moment = moment
        self._frame, self._is_prepared = shown, True

    def _until(self, end: float) -> Iterator[Any]:
        assert self.origin is not None
        assert self.time is not None
        while self.origin + self.moment / self.fps < end:
            if self.origin + self.moment / self.fps - self.time <= self.longest_hold:
                self.moment += 1
                yield self.shown()
            else:
                count = max(1, math.ceil((end - self.origin) * self.fps) - self.moment)
                self.moment += count
                yield Missing(count)


def sample(frames: Iterable[tuple[float, Any]], sampler: Sampler) -> Iterator[Any]:
    """Yields what a fresh sampler gives for some frames, pairs of time in seconds and frame; None for each missing one.

    Example:

    >>> list(sample([(5.0, "a"), (5.4, "b"), (9.0, "c")], Sampler(fps=2, longest_hold=1.0)))
    ['a', 'b', 'b', None, None, None, None, None, 'c']
    """
    shown = itertools.chain.from_iterable(sampler.add(time, frame) for time, frame in frames)
    for item in itertools.chain(shown, sampler.finish()):
        if isinstance(item, Missing):
            yield from itertools.repeat(None, item.count)
        else:
            yield item

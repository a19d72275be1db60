"""Video files that follow each other, as one recording with one time line."""

import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np

from videoswin_keras.streaming.about import (
    CLOCK,
    CUT_OFF,
    DAMAGED,
    LEFT_OUT,
    OVERLAP,
    FileSpan,
    Problem,
    length_of_time,
)
from videoswin_keras.streaming.clocks import Start, add_seconds, seconds_after
from videoswin_keras.text import printable, writable
from videoswin_keras.video.decode import VideoError, iter_lazy_frames, read_header

_log = logging.getLogger(__name__)

# Names give the second in which a file begins, and files of recorders end a little before or after the next begins.
_OVERLAP = 2.0
_LONGEST_GAP = 32 * 86_400.0  # seconds; what is longer is a clock that was not set
_LATE_FRAME = 1.0  # seconds after a file's start; less is how containers order frames
# By how much frames may end earlier than a file says: a share of its length where it says that of its sound, perhaps.
_EARLY_END, _EARLY_SHARE = 2.0, 0.02
_AFTER_THE_FILE_BEFORE = "the end of the file before"


class Recording:
    """One or more video files on one time line, which begins with the first frame of the first that can be read.

    A file begins where its start says. Without one it begins where the file before it ends: by what that file says
    about its length, also where it breaks off earlier. What lies between two files is a gap. Where two overlap, the
    frames of the first are taken.

    Args:
        paths: The files, at least one, in their order.
        starts: When the first frame of each was taken, as `find_starts` returns it; None where that is not known.
        input_rate: Float. Frames per second of bare streams (H.264, HEVC, motion JPEG, …), which have no times.

    Attributes:
        paths, starts: As above.
        names: What each file is called in results: its name, with folders where names are not enough.
        started: When the recording began; None if no file's start is known, or none of those has been reached.
        events: What has become known while frames were read, in order: a `FileSpan` for each file that was reached and
            another when it was read to its end, and a `Problem` for each that could not be read, broke off, or
            overlaps.

    Raises:
        ValueError: if there is no file, or a file begins before the one before it.

    Example, with a picture, which is a video of one frame:

    >>> import cv2, tempfile
    >>> path = Path(tempfile.mkdtemp()) / "picture.png"
    >>> cv2.imwrite(str(path), np.zeros((4, 6, 3), "uint8"))
    True
    >>> [(time, picture().shape) for time, picture in Recording([path]).frames()]
    [(0.0, (4, 6, 3))]
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        starts: Sequence[Start | None] | None = None,
        input_rate: float | None = None,
    ):
        if isinstance(paths, str | Path) or not paths:
            raise ValueError(f"A recording is a list of at least one file. Received: {paths!r}.")
        self.paths = [Path(path) for path in paths]
        self.starts = [None] * len(self.paths) if starts is None else list(starts)
        self.names = _unique_names(self.paths)
        self._input_rate = input_rate
        self.started: datetime | None = None
        self.events: list[FileSpan | Problem] = []
        self._read_to = -math.inf  # seconds at which the last frame that was read ends
        known = [(name, start.moment) for name, start in zip(self.names, self.starts, strict=True) if start]
        for (one, earlier), (other, later) in itertools.pairwise(known):
            if seconds_after(earlier, later) < 0:
                raise ValueError(
                    f"{other} begins at {later}, before {one}, which comes first and begins at {earlier}. Give the "
                    f"files in the order of time, or a table of their starts."
                )
            if seconds_after(earlier, later) > _LONGEST_GAP:
                raise ValueError(
                    f"{other} begins at {later}, weeks after {one}, which begins at {earlier}. If a clock was wrong, "
                    f"give a table of starts; else take them as two recordings."
                )

    @property
    def spans(self) -> list[FileSpan]:
        """Where the files lie that have been reached; the end of one that is being read is infinite."""
        return list({event.file: event for event in self.events if isinstance(event, FileSpan)}.values())

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with the files that have been read, and what clocks do not tell about them."""
        doubts = [
            Problem(span.file, CLOCK, start.doubt, span.start)
            for span in self.spans
            if (start := self.starts[self.names.index(span.file)]) is not None and start.doubt
        ]
        return [*doubts, *(event for event in self.events if isinstance(event, Problem))]

    def frames(self, after: float | None = None) -> Iterator[tuple[float, Callable[[], np.ndarray]]]:
        """Yields time in seconds and a function that returns the pixels; with `after` only frames later than that.

        Raises:
            FileNotFoundError, VideoError: if there is only one file and it cannot be read, or none of them can.
        """
        lost_before = {problem.file for problem in self.problems if problem.kind == LEFT_OUT}
        end, shown = 0.0, -math.inf if after is None else after
        for number, name in enumerate(self.names):
            span = self._span(name)
            if name in lost_before:
                end = end if span is None else span.until
                continue
            if span is None or shown < span.end:
                begin = self._begin(number, end) if span is None else span.start
                try:
                    for time, picture in self._file(number, begin, shown, is_new=span is None):
                        shown = time
                        yield time, picture
                except (OSError, VideoError) as error:
                    end = self._leave_out(number, error, begin, end, shown)
                    continue
                span = self._span(name)
            assert span is not None
            end = shown if math.isinf(span.until) else span.until

    def _span(self, name: str) -> FileSpan | None:
        return next((span for span in self.spans if span.file == name), None)

    def _begin(self, number: int, end: float) -> float:
        """Returns where a file begins in the recording, of which what was before it ends at `end`."""
        start = self.starts[number]
        return end if start is None or self.started is None else seconds_after(self.started, start.moment)

    def _set_started(self, number: int, begin: float) -> None:
        if self.started is None and (start := self.starts[number]) is not None:
            self.started = add_seconds(start.moment, -begin)

    def _file(
        self, number: int, begin: float, shown: float, is_new: bool
    ) -> Iterator[tuple[float, Callable[[], np.ndarray]]]:
        """Yields the frames of a file that are later than `shown`; says where it ends, and what is wrong with it.

        Args:
            number: Of the file.
            begin: Seconds of the recording at which it begins.
            shown: Seconds of the recording up to which there are frames already.
            is_new: Whether it is reached for the first time.
        """
        path, name, start = self.paths[number], self.names[number], self.starts[number]
        header = read_header(path, self._input_rate)
        first = next(iter_lazy_frames(path, input_rate=self._input_rate)).seconds
        source = start.source if start is not None else _AFTER_THE_FILE_BEFORE if number else "nothing: it is the first"
        if header.is_rate_guessed:
            source += "; its rate is a guess"
        # A file that begins amid a group of pictures, or with sound, begins before its first frame that can be decoded.
        if header.start is not None and first - header.start > _LATE_FRAME:
            source += f"; its first {first - header.start:.1f} s show no picture"
            if not self.spans:  # the recording begins with a frame
                begin -= first - header.start
            first = header.start
        self._set_started(number, begin)
        if is_new and start is not None and start.doubt:
            _log.warning("%s %s", name, start.doubt)
        before = self.names[:number]
        covered = max((span.end for span in self.spans if span.file in before), default=begin)
        if begin < covered - _OVERLAP:
            length = length_of_time(covered - begin)
            self._report(name, OVERLAP, f"overlaps the file before by {length}, which are taken from that file", begin)
        self._add(FileSpan(name, begin, math.inf, math.inf, source))

        def tell(what: str, seconds: float | None) -> None:  # what is of no certain time is said once for a file
            self._report(name, DAMAGED, what, begin if seconds is None else begin + (seconds - first))

        # A millisecond early: the frame at `shown` itself is read again, and tells where the file ends. Of a file that
        # lies in one before it all frames are earlier.
        wanted = None if is_new or shown < begin else shown - begin + first - 0.001
        end: float | None = None
        for after in dict.fromkeys((wanted, None)):
            for seconds, duration, picture in iter_lazy_frames(path, after, self._input_rate, tell):
                time = begin + (seconds - first)
                self._read_to = end = time + duration
                if time > shown:
                    yield time, picture
            if end is not None:
                break
        assert end is not None  # without `after`, no frame at all is an error
        until = end
        if header.end is not None:
            stated = begin + (header.end - first)
            slack = max(_EARLY_END, 2 / float(header.rate))
            if not header.is_end_exact:
                slack = max(slack, _EARLY_SHARE * (header.end - first))
            if end < stated - slack:
                lengths = f"its frames end at {end - begin:.1f} s, and it says {stated - begin:.1f} s"
                self._report(name, CUT_OFF, f"breaks off: {lengths}", end)
            until = max(end, stated)
        self._add(FileSpan(name, begin, end, until, source))

    def _leave_out(self, number: int, error: Exception, begin: float, end: float, shown: float) -> float:
        """Goes on without a file, or the rest of it, if there are others, and says so.

        Args:
            number: Of the file.
            error: Why it cannot be read.
            begin: Seconds of the recording at which it begins.
            end: Seconds at which what is before it ends.
            shown: Seconds up to which there are frames.

        Returns:
            Seconds at which what is before the next file ends.
        """
        if len(self.paths) == 1:
            raise error
        what = f"is left out: {error}"
        if not self.spans:
            if sum(problem.kind == LEFT_OUT for problem in self.problems) == len(self.paths) - 1:
                raise VideoError(f"None of the {len(self.paths)} files can be read. {self.names[number]} {what}")
            self.started = None  # the recording begins with what can be read
            if self.starts[number] is not None and not any(self.starts[number + 1 :]):
                raise VideoError(f"{self.names[number]} {what} Leave it out, and give the start of the file after it.")
        if number + 1 < len(self.paths) and self.starts[number + 1] is None:
            what += (
                " How long it is is not known: all that follows is early by as much. A table of starts mends that "
                "(--start starts.csv)."
            )
        self._report(self.names[number], LEFT_OUT, what, begin)
        if (span := self._span(self.names[number])) is not None:  # it could be read for a while
            end = max(span.start, shown, self._read_to)
            self._add(replace(span, end=end, until=end))
        return end

    def _report(self, name: str, kind: str, what: str, at: float) -> None:
        what = writable(what)  # it may name the file as the system does
        if self._add(Problem(name, kind, what, at)):
            _log.warning("%s %s", name, what)

    def recall(self, events: Sequence[FileSpan | Problem]) -> None:
        """Takes up what another recording of the same files has found, to go on from there."""
        self.events = list(events)
        for span in self.spans:
            self._set_started(self.names.index(span.file), span.start)

    def _add(self, event: FileSpan | Problem) -> bool:
        """Appends an event that is not known yet, and returns whether it was."""
        known = self._span(event.file) if isinstance(event, FileSpan) else None
        is_open_again = known is not None and isinstance(event, FileSpan) and math.isinf(event.end)
        is_new = event not in self.events and not is_open_again
        if is_new:
            self.events.append(event)
        return is_new

    def rates(self) -> list[float]:
        """Returns how many frames per second each file says it has, of those that can be read."""
        rates = []
        for path in self.paths:
            with contextlib.suppress(OSError, VideoError):
                rates.append(float(read_header(path, self._input_rate).rate))
        return rates

    def duration(self) -> float | None:
        """Returns about how many seconds there are, for a progress bar; None where the files do not say."""
        total = 0.0
        started: datetime | None = None
        for path, start in zip(self.paths, self.starts, strict=True):
            if start is not None:
                started = started or add_seconds(start.moment, -total)
                total = seconds_after(started, start.moment)
            with contextlib.suppress(OSError, VideoError):
                total += read_header(path, self._input_rate).duration or 0.0
        return total or None


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """Returns the files' names, with as many of their folders as make them differ."""
    for parts in range(1, 1 + max(len(path.parts) for path in paths)):
        names = [printable(Path(*path.parts[-parts:])) for path in paths]
        if len({*names}) == len(names):
            return names
    raise ValueError(f"A file is given twice: {max(names, key=names.count)}.")

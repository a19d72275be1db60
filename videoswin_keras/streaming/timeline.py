"""What is known about a recording: the results one by one, and the bouts, times and transitions they add up to."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

THRESHOLD = 0.5  # probability from which on a class is there, of classes that are there or not each by itself

LONGEST = 10 * 366 * 86_400.0  # seconds of a recording, or of a camera's results


@dataclass(frozen=True)
class Result:
    """What a stream says about a stretch of a recording.

    Attributes:
        start: Seconds from the first frame of the recording.
        end: Seconds. The results of a recording follow each other without gap or overlap.
        probabilities: (num_classes,) in 0–1; None where frames are missing, and nothing can be said.
        smoothed: The median over some results, as `smooth` gives it; None as above, and before smoothing.
        multi_label: Whether the classes are there or not each by itself; else it is one of them.
    """

    start: float
    end: float
    probabilities: tuple[float, ...] | None
    smoothed: tuple[float, ...] | None = None
    multi_label: bool = False

    @property
    def label(self) -> int | None:
        """Index of the most probable class, which with `multi_label` need not be there: see `labels`."""
        return None if self.probabilities is None else int(np.argmax(self.probabilities))

    @property
    def smoothed_label(self) -> int | None:
        """The same after smoothing."""
        return None if self.smoothed is None else int(np.argmax(self.smoothed))

    @property
    def labels(self) -> tuple[int, ...] | None:
        """Indices of the classes that are there: with `multi_label` those from `THRESHOLD` on, else the label."""
        return self._there(self.probabilities)

    @property
    def smoothed_labels(self) -> tuple[int, ...] | None:
        """The same after smoothing."""
        return self._there(self.smoothed)

    def _there(self, probabilities: tuple[float, ...] | None) -> tuple[int, ...] | None:
        if probabilities is None:
            return None
        if self.multi_label:
            return tuple(np.flatnonzero(np.array(probabilities) >= THRESHOLD).tolist())
        return (int(np.argmax(probabilities)),)

    @property
    def uncertainty(self) -> float | None:
        """Entropy of the probabilities, from 0 (sure) to 1 (all classes alike).

        With `multi_label` the mean over the classes of the entropy of each, to 1 where all are 0.5.
        """
        if self.probabilities is None:
            return None
        p, most = np.array(self.probabilities), np.log(len(self.probabilities))
        if self.multi_label:
            p, most = np.concatenate([p, 1 - p]), np.log(2) * len(p)
        if not most:
            return 0.0
        p = p[p > 0]
        return abs(float((p * np.log(p)).sum() / most))


@dataclass(frozen=True)
class Bout:
    """An unbroken stretch of one class.

    Attributes:
        start: Seconds from the first frame of the recording.
        end: Seconds.
        label: Index of the class; None for a gap, in which nothing is known.
    """

    start: float
    end: float
    label: int | None

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end - self.start


def bouts(intervals: Iterable[tuple[float, float, int | None]]) -> list[Bout]:
    """Merges intervals of one class, each of which begins where one of that class ends.

    Args:
        intervals: Triples of start, end (seconds) and class, None for a gap; in the order of their starts. Those of
            different classes may overlap.

    Example:

    >>> [(bout.duration, bout.label) for bout in bouts([(0, 8, 1), (8, 10, 1), (10, 12, None), (12, 14, 0)])]
    [(10, 1), (2, None), (2, 0)]
    """
    merged: list[Bout] = []
    last: dict[int | None, int] = {}  # where in `merged` the last bout of a class is
    for start, end, label in intervals:
        place = last.get(label)
        if place is not None and merged[place].end == start:
            merged[place] = replace(merged[place], end=end)
        else:
            last[label] = len(merged)
            merged.append(Bout(start, end, label))
    return merged


@dataclass(frozen=True)
class Timeline:
    """What the smoothed results of a recording add up to.

    Attributes:
        bouts: Of each class, and the gaps, in the order of start, then class. Of classes that are there or not each by
            itself they overlap, and there is time without any.
        duration: Seconds of the recording.
    """

    bouts: Sequence[Bout]
    duration: float

    @property
    def gaps(self) -> list[Bout]:
        """The bouts in which nothing is known."""
        return [bout for bout in self.bouts if bout.label is None]

    @property
    def scored(self) -> float:
        """Seconds in which something is known."""
        return self.duration - self.unscored

    @property
    def unscored(self) -> float:
        """Seconds in which nothing is known."""
        return sum(gap.duration for gap in self.gaps)


def timeline_of(results: Iterable[Result]) -> Timeline:
    """Returns what smoothed results add up to.

    Example, with a second of both classes and one of none:

    >>> p = [(0.9, 0.1), (0.8, 0.7), (0.2, 0.1)]
    >>> results = [Result(start, start + 1, row, row, multi_label=True) for start, row in enumerate(p)]
    >>> [(bout.start, bout.end, bout.label) for bout in timeline_of(results).bouts]
    [(0, 2, 0), (1, 2, 1)]
    """
    duration = 0.0

    def intervals() -> Iterator[tuple[float, float, int | None]]:
        nonlocal duration
        for result in results:
            duration = result.end
            labels = result.smoothed_labels
            yield from ((result.start, result.end, label) for label in ((None,) if labels is None else labels))

    merged = bouts(intervals())
    return Timeline(merged, duration)


def transitions(timeline: Timeline, num_classes: int) -> np.ndarray:
    """Counts how often one class follows directly on another: int64 (from, to). Across a gap nothing is counted."""
    counts = np.zeros((num_classes, num_classes), "int64")
    for one, following in itertools.pairwise(timeline.bouts):
        if one.label is not None and following.label is not None:
            counts[one.label, following.label] += 1
    return counts


@dataclass(frozen=True)
class ClassSummary:
    """What one class adds up to in a recording.

    Attributes:
        seconds: Time in it.
        share: Of all time that is known, 0–1; 0 where nothing is known. Where classes are there at the same time the
            shares of all can sum to more than 1.
        num_bouts: How many bouts.
        mean_bout: Seconds; 0 without bouts.
        longest_bout: Seconds; 0 without bouts.
    """

    seconds: float
    share: float
    num_bouts: int
    mean_bout: float
    longest_bout: float


def summarise(timeline: Timeline, num_classes: int) -> list[ClassSummary]:
    """Returns a summary of each class, in index order."""
    known = timeline.scored
    summaries = []
    for label in range(num_classes):
        durations = [bout.duration for bout in timeline.bouts if bout.label == label]
        seconds = sum(durations)
        summaries.append(
            ClassSummary(
                seconds=seconds,
                share=seconds / known if known else 0.0,
                num_bouts=len(durations),
                mean_bout=seconds / len(durations) if durations else 0.0,
                longest_bout=max(durations, default=0.0),
            )
        )
    return summaries

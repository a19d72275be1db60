"""What is known about a recording: the results one by one, and the bouts, times and transitions they add up to."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Result:
    """What a stream says about a stretch of a recording.

    Attributes:
        start: Seconds from the first frame of the recording.
        end: Seconds. The results of a recording follow each other without gap or overlap.
        probabilities: (num_classes,) in 0–1; None where frames are missing, and nothing can be said.
        smoothed: The median over some results, scaled to sum to 1; None as above, and before smoothing.
    """

    start: float
    end: float
    probabilities: tuple[float, ...] | None
    smoothed: tuple[float, ...] | None = None

    @property
    def label(self) -> int | None:
        """Index of the most probable class."""
        return None if self.probabilities is None else int(np.argmax(self.probabilities))

    @property
    def smoothed_label(self) -> int | None:
        """Index of the most probable class after smoothing."""
        return None if self.smoothed is None else int(np.argmax(self.smoothed))

    @property
    def uncertainty(self) -> float | None:
        """Entropy of the probabilities, from 0 (sure) to 1 (all classes alike)."""
        if self.probabilities is None:
            return None
        if len(self.probabilities) == 1:
            return 0.0
        p = np.array([value for value in self.probabilities if value > 0])
        return abs(float((p * np.log(p)).sum() / np.log(len(self.probabilities))))


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
    """Merges neighbouring intervals of one class.

    Args:
        intervals: Triples of start, end (seconds, each interval beginning where the one before ends) and class; None
            for a gap.

    Example:

    >>> [(bout.duration, bout.label) for bout in bouts([(0, 8, 1), (8, 10, 1), (10, 12, None), (12, 14, 0)])]
    [(10, 1), (2, None), (2, 0)]
    """
    merged: list[Bout] = []
    for start, end, label in intervals:
        if merged and merged[-1].label == label and merged[-1].end == start:
            start = merged.pop().start
        merged.append(Bout(start, end, label))
    return merged


def transitions(timeline: Sequence[Bout], num_classes: int) -> np.ndarray:
    """Counts how often one class follows directly on another: int64 (from, to). Across a gap nothing is counted."""
    counts = np.zeros((num_classes, num_classes), "int64")
    for one, following in itertools.pairwise(timeline):
        if one.label is not None and following.label is not None:
            counts[one.label, following.label] += 1
    return counts


@dataclass(frozen=True)
class ClassSummary:
    """What one class adds up to in a recording.

    Attributes:
        seconds: Time in it.
        share: Of all time that is known, 0–1; 0 where nothing is known.
        num_bouts: How many bouts.
        mean_bout: Seconds; 0 without bouts.
        longest_bout: Seconds; 0 without bouts.
    """

    seconds: float
    share: float
    num_bouts: int
    mean_bout: float
    longest_bout: float


def summarise(timeline: Sequence[Bout], num_classes: int) -> list[ClassSummary]:
    """Returns a summary of each class, in index order."""
    known = sum(bout.duration for bout in timeline if bout.label is not None)
    summaries = []
    for label in range(num_classes):
        durations = [bout.duration for bout in timeline if bout.label == label]
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

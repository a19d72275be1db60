"""Median smoothing of class probabilities over time: it removes short flickers and keeps lasting changes sharp."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from videoswin_keras.streaming.timeline import Result

LARGEST = 99


def check_size(size: int) -> int:
    """Returns `size`, a number of results from 1 (no smoothing) to 99, or raises ValueError."""
    if not 1 <= size <= LARGEST:
        raise ValueError(f"Smoothing takes from 1 (none) to {LARGEST} results. Received: {size}.")
    return size


def median(probabilities: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """Returns the median of each class over some results, scaled to sum to 1.

    Args:
        probabilities: (results, classes) in 0–1, at least one result.
        multi_label: Whether the classes are there or not each by itself: their medians are then left as they are.

    Returns:
        (classes,) in 0–1, float64. Where the medians of all classes that exclude each other are zero (each result is
        sure, and no two of the same class) the mean takes their place.
    """
    medians = np.median(np.asarray(probabilities, "float64"), axis=0)
    if multi_label:
        return medians
    if not medians.any():
        medians = np.mean(probabilities, axis=0, dtype="float64")
    return medians / medians.sum()


def smooth(results: Iterable[Result], size: int = 9, centred: bool = False) -> Iterator[Result]:
    """Yields the results with `smoothed` filled in: the median over some of them, as `median` gives it.

    A flicker shorter than half the size does not show. A lasting change shows half the size late, or, centred, where
    it is. Gaps stay gaps, and nothing beyond one counts; at both ends those results that are there do.

    Args:
        results: In their order. At most `size` of them are kept.
        size: Integer from 1 to 99. How many results count.
        centred: Whether as many after a result count as before it, for recordings; of an even size one more before.
            If not, the result and those before it, for live video, whose future is not known.

    Raises:
        ValueError: if the size is out of range.

    Example:

    >>> p = [(0.9, 0.1), (0.2, 0.8), (0.9, 0.1), (0.1, 0.9), (0.2, 0.8)]
    >>> results = [Result(start, start + 1, row) for start, row in enumerate(p)]
    >>> [result.smoothed_label for result in smooth(results, 3)]
    [0, 0, 0, 1, 1]
    >>> [result.smoothed_label for result in smooth(results, 3, centred=True)]
    [0, 0, 1, 1, 1]
    """
    smoother = Smoother(size, centred)
    for result in results:
        yield from smoother.add(result)
    yield from smoother.finish()


class Smoother:
    """`smooth`, for results that come one by one.

    Args:
        size, centred: As in `smooth`.
    """

    def __init__(self, size: int = 9, centred: bool = False):
        others = check_size(size) - 1
        self._after = others // 2 if centred else 0
        self._before = others - self._after
        self._window: deque[Result] = deque(maxlen=size)
        self._count = 0

    def add(self, result: Result) -> list[Result]:
        """Takes the next result; returns the one that is smoothed now, if any."""
        self._window.append(result)
        self._count += 1
        return [self._smoothed(len(self._window) - 1 - self._after)] if self._count > self._after else []

    def finish(self) -> list[Result]:
        """Returns those that waited for more."""
        return [self._smoothed(i) for i in range(max(0, len(self._window) - self._after), len(self._window))]

    def _smoothed(self, index: int) -> Result:
        result, around = self._window[index], list(self._window)
        if result.probabilities is None:
            return result
        until = itertools.takewhile(lambda other: other.probabilities is not None, reversed(around[:index]))
        since = itertools.takewhile(lambda other: other.probabilities is not None, around[index:])
        counting = [*itertools.islice(until, self._before), *itertools.islice(since, self._after + 1)]
        rows = np.array([other.probabilities for other in counting])
        return replace(result, smoothed=tuple(median(rows, result.multi_label).tolist()))

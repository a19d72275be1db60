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


def median(probabilities: np.ndarray) -> np.ndarray:
    """Returns the median of each class over some results, scaled to sum to 1.

    Args:
        probabilities: (results, classes) in 0–1, at least one result.

    Returns:
        (classes,) in 0–1, float64. Where the medians of all classes are zero (each result is sure, and no two of the
        same class) the mean takes their place.
    """
    medians = np.median(np.asarray(probabilities, "float64"), axis=0)
    if not medians.any():
        medians = np.mean(probabilities, axis=0, dtype="float64")
    return medians / medians.sum()


def smooth(results: Iterable[Result], size: int = 9, centred: bool = False) -> Iterator[Result]:
    """Yields the results with `smoothed` filled in: the median over some of them, scaled to sum to 1.

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
    others = check_size(size) - 1
    after = others // 2 if centred else 0
    before = others - after
    window: deque[Result] = deque(maxlen=size)

    def smoothed(index: int) -> Result:
        result, around = window[index], list(window)
        if result.probabilities is None:
            return result
        until = itertools.takewhile(lambda other: other.probabilities is not None, reversed(around[:index]))
        since = itertools.takewhile(lambda other: other.probabilities is not None, around[index:])
        counting = [*itertools.islice(until, before), *itertools.islice(since, after + 1)]
        rows = np.array([other.probabilities for other in counting])
        return replace(result, smoothed=tuple(median(rows).tolist()))

    for count, result in enumerate(results, start=1):
        window.append(result)
        if count > after:
            yield smoothed(len(window) - 1 - after)
    for index in range(max(0, len(window) - after), len(window)):
        yield smoothed(index)

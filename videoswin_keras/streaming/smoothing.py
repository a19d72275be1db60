"""Median smoothing of class probabilities over time: it removes short flickers and keeps lasting changes sharp."""

from collections import deque

import numpy as np

LARGEST = 99


def check_size(size: int) -> int:
    """Returns `size`, a number of results from 1 (no smoothing) to 99, or raises ValueError."""
    if not 1 <= size <= LARGEST:
        raise ValueError(f"Smoothing takes from 1 (none) to {LARGEST} results. Received: {size}.")
    return size


def median(probabilities: np.ndarray) -> np.ndarray:
    """Returns the median of each class over some results, scaled to sum to 1.

    Args:
        probabilities: (results, classes) in 0–1. Rows of NaN are gaps, and do not count.

    Returns:
        (classes,) in 0–1, float64; NaN where there are only gaps. Where the medians of all classes are zero (each
        result is sure, and no two of the same class) the mean takes their place.
    """
    rows = probabilities[~np.isnan(probabilities).any(axis=1)].astype("float64")
    if not len(rows):
        return np.full(probabilities.shape[1], np.nan)
    medians = np.median(rows, axis=0)
    if not medians.any():
        medians = rows.mean(axis=0)
    return medians / medians.sum()


class CausalMedian:
    """The median of the last results, for a stream whose future is not known yet.

    A lasting change shows with a delay of half the size; a flicker shorter than half the size not at all.

    Args:
        size: Integer from 1 to 99. How many results count, the newest included.

    Example:

    >>> smoother = CausalMedian(3)
    >>> [int(smoother.add(np.array(p)).argmax()) for p in ([0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.1, 0.9], [0.2, 0.8])]
    [0, 0, 0, 1, 1]
    """

    def __init__(self, size: int = 9):
        self.recent: deque[np.ndarray] = deque(maxlen=check_size(size))

    def add(self, probabilities: np.ndarray) -> np.ndarray:
        """Takes the next result (classes,), NaN in a gap; returns the smoothed one, NaN in a gap."""
        self.recent.append(probabilities)
        return median(np.stack(self.recent)) if not np.isnan(probabilities).any() else probabilities


def centred_median(probabilities: np.ndarray, size: int = 9) -> np.ndarray:
    """Smooths a whole recording: the median of as many results before as after. A lasting change stays where it is.

    At both ends the results there are count.

    Args:
        probabilities: (results, classes) in 0–1, NaN in gaps.
        size: Integer from 1 to 99. How many results count. Of an even number one more before than after.

    Returns:
        (results, classes), float64; NaN in gaps.

    Example:

    >>> p = np.array([0, 0, 1, 0, 0, 1, 1, 1.0])
    >>> centred_median(np.stack([p, 1 - p], axis=1), 3)[:, 0].astype(int).tolist()
    [0, 0, 0, 0, 0, 1, 1, 1]
    """
    before, after = check_size(size) // 2, (size - 1) // 2
    smoothed = np.array(probabilities, "float64")
    for index, row in enumerate(probabilities):
        if not np.isnan(row).any():
            smoothed[index] = median(probabilities[max(0, index - before) : index + after + 1])
    return smoothed

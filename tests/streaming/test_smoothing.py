"""What median smoothing does to flickers, transitions and gaps."""

import numpy as np
import pytest
import scipy.ndimage

from videoswin_keras.streaming.smoothing import median, smooth
from videoswin_keras.streaming.timeline import Result


def one_hot(labels, classes=3, sure=0.8):
    rest = (1 - sure) / (classes - 1)
    return np.where(np.eye(classes, dtype=bool)[labels], sure, rest)


def smoothed_rows(probabilities, size, centred):
    """`smooth` on arrays (results, classes), in which rows of NaN are gaps."""
    results = [
        Result(index, index + 1, None if np.isnan(row).any() else tuple(row)) for index, row in enumerate(probabilities)
    ]
    smoothed = list(smooth(iter(results), size, centred))
    assert [(result.start, result.end, result.probabilities) for result in smoothed] == [
        (result.start, result.end, result.probabilities) for result in results
    ]
    gap = (np.nan,) * probabilities.shape[1]
    return np.array([gap if result.smoothed is None else result.smoothed for result in smoothed])


def centred_median(probabilities, size):
    return smoothed_rows(probabilities, size, centred=True)


def causal(probabilities, size):
    return smoothed_rows(probabilities, size, centred=False)


@pytest.mark.parametrize("size", [1, 3, 9, 99])
def test_scipy_computes_the_same(size):
    """Two classes: their medians sum to 1 as they are. Inside, where no end cuts the window."""
    p = np.random.default_rng(0).uniform(size=300)
    smoothed = centred_median(np.stack([p, 1 - p], axis=1), size)
    expected = scipy.ndimage.median_filter(p, size)
    inside = slice(size, 300 - size)
    np.testing.assert_allclose(smoothed[inside, 0], expected[inside], atol=1e-12)
    later = causal(np.stack([p, 1 - p], axis=1), size)
    np.testing.assert_allclose(later[size:, 0], expected[size - size // 2 : 300 - size // 2], atol=1e-12)


@pytest.mark.parametrize("size", [3, 5, 9, 15])
def test_flickers_shorter_than_half_the_size_vanish_and_longer_stay(size):
    half = size // 2
    for length, seen in ((half, False), (half + 1, True)):
        labels = np.zeros(60, int)
        labels[30 : 30 + length] = 1
        for smoothed in (centred_median, causal):
            assert (smoothed(one_hot(labels), size).argmax(1) == 1).any() == seen


@pytest.mark.parametrize("size", [3, 5, 9, 15])
def test_transitions_stay_in_place_or_come_half_the_size_late(size):
    labels = np.repeat([0, 2], 30)
    np.testing.assert_array_equal(centred_median(one_hot(labels), size).argmax(1), labels)
    late = causal(one_hot(labels), size).argmax(1)
    np.testing.assert_array_equal(late, np.repeat([0, 2], [30 + size // 2, 30 - size // 2]))


def test_results_are_probabilities():
    raw = np.random.default_rng(1).dirichlet(np.ones(5) * 0.1, size=50)
    for size in (1, 2, 4, 9):
        for smoothed in (centred_median(raw, size), causal(raw, size)):
            np.testing.assert_allclose(smoothed.sum(axis=1), 1)
            assert (smoothed >= 0).all()
    np.testing.assert_allclose(centred_median(raw, 1), raw)
    np.testing.assert_allclose(median(np.eye(3)), 1 / 3)  # all medians are zero: the mean


@pytest.mark.parametrize("size", [3, 9, 10, 99])
def test_nothing_beyond_a_gap_counts(size):
    """It may have been hours long: on either side the results are those of a recording of its own."""
    raw = np.random.default_rng(0).dirichlet(np.ones(3), size=40)
    raw[17] = np.nan
    for smooth_rows in (centred_median, causal):
        smoothed = smooth_rows(raw, size)
        np.testing.assert_allclose(smoothed[:17], smooth_rows(raw[:17], size))
        np.testing.assert_allclose(smoothed[18:], smooth_rows(raw[18:], size))


def test_gaps_stay_gaps_and_do_not_count():
    labels = np.repeat([0, 1], 10)
    raw = one_hot(labels)
    raw[[4, 10, 11]] = np.nan
    for smoothed in (centred_median(raw, 5), causal(raw, 5)):
        np.testing.assert_array_equal(np.isnan(smoothed).all(axis=1), np.isnan(raw).any(axis=1))
    assert centred_median(raw, 5)[12].argmax() == 1
    assert np.isnan(centred_median(np.full((3, 2), np.nan), 3)).all()
    assert list(smooth([], 3)) == []


@pytest.mark.parametrize("size", [0, -1, 100])
def test_sizes(size):
    with pytest.raises(ValueError, match="from 1"):
        list(smooth([], size))


@pytest.mark.parametrize("count", range(1, 8))
def test_recordings_shorter_than_the_size(count):
    """Against the definition, at both ends."""
    raw = np.random.default_rng(count).dirichlet(np.ones(3), size=count)
    for size in (1, 4, 5):
        before, after = size // 2, (size - 1) // 2
        expected = [median(raw[max(0, index - before) : index + after + 1]) for index in range(count)]
        np.testing.assert_allclose(centred_median(raw, size), expected)
        expected = [median(raw[max(0, index - size + 1) : index + 1]) for index in range(count)]
        np.testing.assert_allclose(causal(raw, size), expected)


@pytest.mark.parametrize("size", [3, 9])
def test_several_classes_at_once_are_smoothed_each_by_itself(size):
    """Three classes whose medians sum to anything, one of which is almost never there."""
    p = np.random.default_rng(0).uniform(size=(100, 3)) * (1.0, 0.5, 0.0)
    p[50, 2] = 1.0
    results = [Result(index, index + 1, tuple(row), multi_label=True) for index, row in enumerate(p)]
    smoothed = np.array([result.smoothed for result in smooth(results, size, centred=True)])
    inside = slice(size, 100 - size)
    np.testing.assert_allclose(smoothed[inside], scipy.ndimage.median_filter(p, (size, 1))[inside])
    nothing = [Result(index, index + 1, (0.0, 0.0), multi_label=True) for index in range(3)]
    assert [result.smoothed for result in smooth(nothing, size)] == [(0.0, 0.0)] * 3

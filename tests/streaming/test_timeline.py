"""Bouts and what they add up to, against counting second by second."""

import itertools

import numpy as np
import pytest
import scipy.stats

from videoswin_keras.streaming.timeline import Bout, Result, Timeline, bouts, summarise, timeline_of, transitions


def random_labels(seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(-1, 3, 40), rng.integers(1, 6, 40))
    return [None if label < 0 else int(label) for label in labels]


@pytest.mark.parametrize("seed", range(5))
def test_against_counting_second_by_second(seed):
    labels = random_labels(seed)
    one_hot = [None if label is None else tuple(np.eye(3)[label]) for label in labels]
    timeline = timeline_of(Result(index, index + 1, p, p) for index, p in enumerate(one_hot))
    assert timeline.bouts[0].start == 0
    assert timeline.bouts[-1].end == timeline.duration == len(labels)
    spread = [bout.label for bout in timeline.bouts for _ in range(int(bout.duration))]
    assert spread == labels
    assert all(one.label != following.label for one, following in itertools.pairwise(timeline.bouts))

    counts = np.zeros((3, 3), int)
    for one, following in itertools.pairwise(labels):
        if one is not None and following is not None and one != following:
            counts[one, following] += 1
    np.testing.assert_array_equal(transitions(timeline, 3), counts)

    known = sum(label is not None for label in labels)
    for index, summary in enumerate(summarise(timeline, 3)):
        assert summary.seconds == labels.count(index)
        assert summary.share == pytest.approx(labels.count(index) / known)
        assert summary.num_bouts == sum(bout.label == index for bout in timeline.bouts)
        assert summary.mean_bout * summary.num_bouts == pytest.approx(summary.seconds)
    assert sum(summary.share for summary in summarise(timeline, 3)) == pytest.approx(1)


def test_a_stretch_that_is_left_out_is_not_bridged():
    assert bouts([(0, 1, 2), (5, 6, 2)]) == [Bout(0, 1, 2), Bout(5, 6, 2)]


def test_nothing():
    assert bouts([]) == []
    assert summarise(timeline_of([]), 2)[0].longest_bout == 0
    assert summarise(Timeline([Bout(0, 5, None)], 5), 1)[0].share == 0
    assert not transitions(timeline_of([]), 2).any()


@pytest.mark.parametrize("seed", range(5))
def test_several_classes_at_once_against_counting_second_by_second(seed):
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.integers(0, 2, (40, 3)), rng.integers(1, 6, 40), axis=0)
    is_gap = np.repeat(rng.random(20) < 0.2, len(rows) // 20 + 1)[: len(rows)]
    scores = [None if gap else tuple(np.where(row, 0.5, 0.499)) for row, gap in zip(rows, is_gap, strict=True)]
    timeline = timeline_of(Result(index, index + 1, p, p, multi_label=True) for index, p in enumerate(scores))
    assert timeline.duration == len(rows)
    assert timeline.bouts == sorted(
        timeline.bouts, key=lambda bout: (bout.start, -1 if bout.label is None else bout.label)
    )
    for label, is_there in [(None, is_gap), *enumerate((rows.astype(bool) & ~is_gap[:, None]).T)]:
        changes = np.flatnonzero(np.diff(is_there, prepend=False, append=False))
        found = [(bout.start, bout.end) for bout in timeline.bouts if bout.label == label]
        assert found == [tuple(pair) for pair in changes.reshape(-1, 2)]
        if label is not None:
            assert summarise(timeline, 3)[label].share == pytest.approx(rows[~is_gap, label].mean())


def test_what_a_result_of_several_classes_at_once_says():
    several = Result(0, 1, (0.9, 0.5, 0.2), (0.6, 0.1, 0.7), multi_label=True)
    assert (several.labels, several.smoothed_labels) == ((0, 1), (0, 2))
    expected = np.mean([scipy.stats.entropy([p, 1 - p], base=2) for p in several.probabilities])
    assert several.uncertainty == pytest.approx(expected)
    assert Result(0, 1, (0.5, 0.5, 0.5), multi_label=True).uncertainty == pytest.approx(1)
    sure = Result(0, 1, (0.0, 0.0, 1.0), (0.0, 0.0, 0.0), multi_label=True)
    assert (sure.uncertainty, sure.labels, sure.smoothed_labels) == (0, (2,), ())
    assert Result(0, 1, None, multi_label=True).labels is None
    one = Result(0, 1, (0.4, 0.35, 0.25), (0.3, 0.3, 0.4))
    assert (one.labels, one.smoothed_labels) == ((0,), (2,))

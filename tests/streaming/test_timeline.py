"""Bouts and what they add up to, against counting second by second."""

import itertools

import numpy as np
import pytest

from videoswin_keras.streaming.timeline import Bout, bouts, summarise, transitions


def random_labels(seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(-1, 3, 40), rng.integers(1, 6, 40))
    return [None if label < 0 else int(label) for label in labels]


@pytest.mark.parametrize("seed", range(5))
def test_against_counting_second_by_second(seed):
    labels = random_labels(seed)
    timeline = bouts((index, index + 1, label) for index, label in enumerate(labels))
    assert timeline[0].start == 0
    assert timeline[-1].end == len(labels)
    spread = [bout.label for bout in timeline for _ in range(int(bout.duration))]
    assert spread == labels
    assert all(one.label != following.label for one, following in itertools.pairwise(timeline))

    counts = np.zeros((3, 3), int)
    for one, following in itertools.pairwise(labels):
        if one is not None and following is not None and one != following:
            counts[one, following] += 1
    np.testing.assert_array_equal(transitions(timeline, 3), counts)

    known = sum(label is not None for label in labels)
    for index, summary in enumerate(summarise(timeline, 3)):
        assert summary.seconds == labels.count(index)
        assert summary.share == pytest.approx(labels.count(index) / known)
        assert summary.num_bouts == sum(bout.label == index for bout in timeline)
        assert summary.mean_bout * summary.num_bouts == pytest.approx(summary.seconds)
    assert sum(summary.share for summary in summarise(timeline, 3)) == pytest.approx(1)


def test_a_stretch_that_is_left_out_is_not_bridged():
    assert bouts([(0, 1, 2), (5, 6, 2)]) == [Bout(0, 1, 2), Bout(5, 6, 2)]


def test_nothing():
    assert bouts([]) == []
    assert summarise([], 2)[0].longest_bout == 0
    assert summarise([Bout(0, 5, None)], 1)[0].share == 0
    assert not transitions([], 2).any()

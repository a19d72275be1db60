"""Sampling by time stamps against a search through all of them."""

import logging

import numpy as np
import pytest

from videoswin_keras.streaming.frames import Missing, Sampler, sample


def by_search(times, fps, longest_hold):
    """Which frame shows each moment, found by looking at all frames; None in a gap."""
    times = np.asarray(times) - times[0]
    found = []
    for moment in range(int(times[-1] * fps + 1e-6) + 1):
        candidates = np.flatnonzero(times <= moment / fps + 0.001)
        age = moment / fps - times[candidates[-1]]
        found.append(int(candidates[-1]) if age <= longest_hold else None)
    return found


@pytest.mark.parametrize("fps", [2, 4, 3.7])
@pytest.mark.parametrize("seed", range(5))
def test_against_a_search(fps, seed):
    """A jittering camera with outages, of a rate that has nothing to do with `fps`."""
    rng = np.random.default_rng(seed)
    steps = rng.uniform(0.02, 0.2, 300)
    steps[rng.integers(300, size=5)] += rng.uniform(1, 8, 5)
    times = 100 + np.cumsum(steps)
    assert list(sample(zip(times, range(300), strict=True), Sampler(fps, 2.0))) == by_search(times, fps, 2.0)


@pytest.mark.parametrize("rate", [25, 30, 30000 / 1001, 4])
def test_constant_rates(rate):
    """An hour of frames whose times are rounded to milliseconds, as Matroska has them: no drift."""
    times = np.round(np.arange(int(3600 * rate)) / rate, 3)
    shown = list(sample(zip(times, range(len(times)), strict=True), Sampler(4)))
    exact = np.floor(np.arange(len(shown)) / 4 * rate + 1e-6)
    assert abs(len(shown) - 4 * 3600) <= 1
    assert np.abs(np.array(shown) - exact).max() <= 1
    if rate == 4:
        assert shown == list(range(len(times)))


def test_a_clock_that_is_set_back():
    assert list(sample([(0.0, "a"), (1.0, "b"), (0.5, "wrong"), (2.0, "c")], Sampler(1))) == ["a", "b", "c"]


@pytest.mark.parametrize("jump", [1e9, -1e9, -3600.0, float("nan")])
def test_a_clock_that_is_set_goes_on(jump, caplog):
    """To another year, by an hour, to nonsense: the frame is the next one, and so are those after it."""
    times = [0.0, 1.0, 2.0, 2.5 + jump, 3.5 + jump, 4.5 + jump]
    with caplog.at_level(logging.ERROR):
        shown = list(sample(zip(times, "abcdef", strict=True), Sampler(1)))
    assert shown == list("abcdef")


def test_an_outage_of_hours_is_one_item():
    sampler = Sampler(fps=4)
    assert list(sampler.add(0.0, "a")) == []
    *held, missing = sampler.add(80_000.0, "b")
    assert held == ["a"] * 9
    assert missing == Missing(320_000 - 9)
    assert list(sampler.finish()) == ["b"]


def test_short_recordings():
    assert list(sample([], Sampler(4))) == []
    assert list(sample([(7.5, "only")], Sampler(4))) == ["only"]


@pytest.mark.parametrize(
    "wrong", [{"fps": value} for value in (0, -1, float("nan"), float("inf"), 1e-4)] + [{"fps": 4, "longest_hold": 0}]
)
def test_errors(wrong):
    with pytest.raises(ValueError, match="must be"):
        Sampler(**wrong)


def test_one_frame_is_kept():
    """Nothing grows with the recording."""
    import weakref

    class Frame:
        pass

    alive = []

    def frames():
        for index in range(50):
            frame = Frame()
            alive.append(weakref.ref(frame))
            yield index * 1.0, frame

    for _ in sample(frames(), Sampler(1)):
        assert sum(reference() is not None for reference in alive) <= 3

"""What is made ahead, and what happens to errors. That it is one item, no more: see tests/streaming/test_stream.py."""

import gc
import threading
import weakref

import pytest

from videoswin_keras.prefetch import at_once, prefetched


def test_the_next_item_is_made_while_one_is_in_use():
    is_made = threading.Event()

    def items():
        yield 0
        is_made.set()
        yield 1

    coming = prefetched(items())
    assert next(coming) == 0
    assert is_made.wait(60)
    assert list(coming) == [1]


def test_an_error_comes_in_its_place_and_holds_nothing():
    class Large:
        pass

    held = []

    def items():
        large = Large()
        held.append(weakref.ref(large))
        yield 0
        raise ValueError("the second")

    gc.disable()
    try:
        coming = prefetched(items())
        assert next(coming) == 0
        with pytest.raises(ValueError, match="the second"):
            next(coming)
        del coming
        assert held[0]() is None
    finally:
        gc.enable()


def test_what_cannot_be_iterated():
    with pytest.raises(TypeError, match="not iterable"):
        next(prefetched(3))


def test_the_thread_ends_when_closed():
    before = set(threading.enumerate())
    coming = prefetched(iter(int, 1))
    next(coming)
    assert set(threading.enumerate()) > before
    coming.close()
    assert set(threading.enumerate()) == before


def test_at_once_gives_what_is_there_and_waits_for_nobody():
    release = threading.Event()

    def slow():
        release.wait()
        yield "slow"

    def failing():
        yield "first"
        raise RuntimeError("broken")

    seen = {0: [], 1: [], 2: []}
    for ready in at_once([slow(), ["a", "b", "c"], failing()]):
        for number, item in ready.items():
            seen[number].append(item)
        if len(seen[1]) == 4 and len(seen[2]) == 2:  # both have ended, and the slow one has given nothing yet
            assert seen[0] == [] or release.is_set()
            release.set()
    assert seen[0] == ["slow", None]
    assert seen[1] == ["a", "b", "c", None]
    assert seen[2][0] == "first"
    assert str(seen[2][1]) == "broken"


def test_at_once_can_be_closed():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield 1

    items = at_once([endless()])
    next(items)
    items.close()
    assert len(taken) <= 3

"""What is made ahead, and what happens to errors. That it is one item, no more: see tests/streaming/test_stream.py."""

import gc
import threading
import weakref

import pytest

from videoswin_keras.prefetch import prefetched


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

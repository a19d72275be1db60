"""What is made ahead, in which order, and what happens to errors."""

import threading

import pytest

from videoswin_keras import prefetch
from videoswin_keras.prefetch import prefetched


def test_the_next_item_is_made_while_one_is_in_use():
    is_made = [threading.Event() for _ in range(3)]

    def items():
        for number, event in enumerate(is_made):
            event.set()
            yield number

    coming = prefetched(items())
    assert next(coming) == 0
    assert is_made[1].wait(60)
    assert not is_made[2].is_set()  # one ahead, no more: nothing asks for it before the next
    assert list(coming) == [1, 2]


def test_an_error_comes_in_its_place():
    def items():
        yield 0
        raise ValueError("the second")

    coming = prefetched(items())
    assert next(coming) == 0
    with pytest.raises(ValueError, match="the second"):
        next(coming)


def test_the_thread_ends_when_closed():
    coming = prefetched(iter(int, 1))
    next(coming)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "prefetch")
    coming.close()
    thread.join(60)
    assert not thread.is_alive()


def test_nobody_waits_for_what_nobody_wants(monkeypatch):
    monkeypatch.setattr(prefetch, "_LONGEST_WAIT", 0.0)
    is_over = threading.Event()

    def items():
        yield 0
        is_over.wait()

    coming = prefetch.prefetched(items())
    next(coming)
    coming.close()  # or this test never ends
    is_over.set()

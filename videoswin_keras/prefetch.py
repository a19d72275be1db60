"""The next item is made while the one before is in use."""

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")

_LONGEST_WAIT = 2.0  # seconds for a thread to end, when nobody wants what it makes


def prefetched(items: Iterable[Item]) -> Iterator[Item]:
    """Yields `items`, and takes the next of them in a thread of its own meanwhile; never more than one.

    An error in making an item is raised in its place. When this iterator is closed the thread ends, after the item it
    is at; nobody has to wait for that, after Ctrl-C for example.

    Example:

    >>> list(prefetched(range(3)))
    [0, 1, 2]
    """
    end = object()
    wanted: SimpleQueue[bool] = SimpleQueue()
    made: SimpleQueue[Any] = SimpleQueue()  # items, each with the error in making it

    def make() -> None:
        iterator = iter(items)
        while wanted.get():
            try:
                made.put((next(iterator, end), None))
            except BaseException as error:
                made.put((end, error))

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        wanted.put(True)
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is end:
                return
            wanted.put(True)
            yield item
    finally:
        wanted.put(False)
        thread.join(_LONGEST_WAIT)

"""The next item is made while the one before is in use."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")


def prefetched(items: Iterable[Item]) -> Iterator[Item]:
    """Yields `items`, and takes the next of them in a thread of its own meanwhile; never more than one.

    An error in making an item is raised in its place. Closing this iterator, or the end of the program, waits for the
    item that is being made, and loses it.

    Example:

    >>> list(prefetched(range(3)))
    [0, 1, 2]
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "prefetch") as thread:
        coming: Future[Any] = thread.submit(next, iterator, end)
        try:
            while (item := coming.result()) is not end:
                coming = thread.submit(next, iterator, end)
                yield item
        finally:
            del coming  # an error in it refers to this frame

"""Items that are made in other threads while those before are in use."""

import threading
from collections.abc import Iterable, Iterator, Sequence
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


def at_once(sources: Sequence[Iterable[Item]]) -> Iterator[dict[int, Item | Exception | None]]:
    """Yields what is there of several sources, each read in a thread of its own, as soon as anything is there.

    A source is never more than one item ahead. Closing this iterator waits for no thread: a source that waits for a
    camera ends when its camera is closed.

    Yields:
        By the number of each source that has something: its next item; None where it has ended; or the error with
        which it has ended.

    Example:

    >>> sorted(item for items in at_once(["ab", "c"]) for item in items.values() if item)
    ['a', 'b', 'c']
    """
    changed = threading.Condition()
    there: dict[int, Item | Exception | None] = {}
    is_closed = False

    def give(number: int, item: Item | Exception | None) -> bool:
        with changed:
            changed.wait_for(lambda: number not in there or is_closed)
            there[number] = item
            changed.notify_all()
            return not is_closed

    def read(number: int, source: Iterable[Item]) -> None:
        try:
            for item in source:
                if not give(number, item):
                    return
        except Exception as error:
            give(number, error)
        else:
            give(number, None)

    for number, source in enumerate(sources):
        threading.Thread(target=read, args=(number, source), name=f"source {number}", daemon=True).start()
    num_open = len(sources)
    try:
        while num_open:
            with changed:
                # With a timeout: without one Windows does not let Ctrl-C through.
                while not changed.wait_for(lambda: there, timeout=1.0):
                    pass
                ready = dict(there)
                there.clear()
                changed.notify_all()
            num_open -= sum(item is None or isinstance(item, Exception) for item in ready.values())
            yield ready
    finally:
        with changed:
            is_closed = True
            changed.notify_all()

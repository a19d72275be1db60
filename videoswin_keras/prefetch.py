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


def at_once(sources: Sequence[Iterable[Item]]) -> Iterator[dict[int, Item | None]]:
    """Yields what is there of several sources, each read in a thread of its own, as soon as anything is there.

    A source is never more than one item ahead. An error in one of them is raised. Closing this iterator waits for no
    thread: a source that waits for a camera ends when its camera is closed.

    Yields:
        The next item of each source that has one, by its number; None where a source has ended.

    Example:

    >>> sorted(item for items in at_once(["ab", "c"]) for item in items.values() if item)
    ['a', 'b', 'c']
    """
    changed = threading.Condition()
    there: dict[int, Item | None] = {}
    errors: list[BaseException] = []
    is_closed = False

    def give(number: int, item: Item | None) -> bool:
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
            give(number, None)
        except BaseException as error:
            with changed:
                errors.append(error)
                changed.notify_all()

    for number, source in enumerate(sources):
        threading.Thread(target=read, args=(number, source), name=f"source {number}", daemon=True).start()
    num_open = len(sources)
    try:
        while num_open:
            with changed:
                # With a timeout: without one Windows does not let Ctrl-C through.
                while not changed.wait_for(lambda: there or errors, timeout=1.0):
                    pass
                if errors:
                    raise errors[0]
                ready = dict(there)
                there.clear()
                changed.notify_all()
            num_open -= sum(item is None for item in ready.values())
            yield ready
    finally:
        with changed:
            is_closed = True
            changed.notify_all()

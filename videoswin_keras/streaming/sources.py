"""What is to be streamed: recordings, of files in their order with their clocks, and cameras."""

import functools
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from pathlib import Path

from videoswin_keras.addresses import identity, public_address
from videoswin_keras.streaming.clocks import LISTED, Start, add_seconds, find_starts, in_list, in_zone, seconds_after
from videoswin_keras.text import file_name, printable
from videoswin_keras.video.decode import VideoError, read_header


@dataclass(frozen=True)
class Source:
    """One recording, or one camera.

    Attributes:
        name: What it is called in its results.
        described: What it is, for people.
        paths: Its files, in order; none of a camera.
        starts: When each of them begins, or None.
        address: Of a camera.
    """

    name: str
    described: str
    paths: tuple[Path, ...] = ()
    starts: tuple[Start | None, ...] = ()
    address: str | None = None

    @property
    def folder(self) -> str:
        """The name of the folder of its results."""
        return file_name(self.name)


@dataclass(frozen=True)
class Clocks:
    """Where the starts of files are known from.

    Attributes:
        zone: Whose clocks names and tables mean, and results show.
        name_format: As `clocks.in_name` takes it.
        start: Of the first frame of a recording; the spaces between its files stay.
        listed: Starts by file, as `clocks.read_starts` returns them.
        created: Function that returns when a file was made by its own word, or None; each is opened once.
    """

    zone: tzinfo
    name_format: str | None = None
    start: datetime | None = None
    listed: dict[str, datetime] | None = None
    created: Callable[[Path], datetime | None] = field(default_factory=lambda: functools.cache(_created))

    def unmoved(self, paths: Sequence[Path]) -> list[Start | None]:
        """Returns the same without `start`."""
        return find_starts(paths, self.created, self.zone, self.name_format, self.listed)

    def of(self, paths: Sequence[Path]) -> tuple[Start | None, ...]:
        """Returns when the files of one recording begin, in their order; None where nothing says so.

        Raises:
            ValueError: if nothing that was asked for is found, or `start` belongs to a file without a place among the
                clocks of the others.
        """
        starts = self.unmoved(paths)
        if self.start is None:
            return tuple(starts)
        first, *others = starts
        if first is None and any(others):
            raise ValueError(
                f"--start is the time of {paths[0]}, and how long before the others that is is not known: their clocks "
                f"are, its own is not. Give a table of starts in its place (--start starts.csv)."
            )
        if first is None:
            return in_zone(self.start, self.zone, "--start"), *others
        shift = seconds_after(first.moment, self.start)
        moved = [
            start and replace(start, moment=add_seconds(start.moment, shift), source=f"{start.source}, and --start")
            for start in others
        ]
        return in_zone(self.start, self.zone, f"{first.source}, and --start"), *moved


def cameras(addresses: Sequence[str]) -> list[Source]:
    """Returns a source for each camera: the whole address counts, and none may be there twice."""
    sources = []
    for address in addresses:
        shown, own = public_address(address), identity(address)
        name = re.sub(r"\W+", "_", shown).strip("_")
        if [public_address(other) for other in addresses].count(shown) > 1:  # as its folder is told from others
            shown += f" ({own})"
        sources.append(Source(f"{name}-{own}", shown, address=address))
    if twice := _twice([source.name for source in sources]):
        raise ValueError(f"A camera is given twice: {twice}.")
    return sources


def one_recording(name: str, paths: Sequence[Path], clocks: Clocks, is_in_order: bool) -> Source:
    """Returns one source of several files.

    Args:
        name: Of its folder.
        paths: The files.
        clocks: Where their starts are known from. Files that are listed and are nowhere are added, to be missed aloud.
        is_in_order: Whether a person put them in order; else their clocks do, where all are known.
    """
    paths = list(paths) if is_in_order else _by_time(paths, clocks)
    starts = list(clocks.of(paths))
    for path, start in _listed_and_missing(paths, starts, clocks):
        later = [other is not None and seconds_after(start.moment, other.moment) > 0 for other in starts]
        place = later.index(True) if any(later) else len(paths)
        paths.insert(place, path)
        starts.insert(place, start)
    more = f" and {len(paths) - 1} more files" if len(paths) > 1 else ""
    return Source(printable(name), printable(paths[0].name) + more, tuple(paths), tuple(starts))


def _by_time(paths: Sequence[Path], clocks: Clocks) -> list[Path]:
    """Returns files in the order of their starts, if all are known; else as they are.

    In the hour that comes twice when clocks are put back, times do not tell which of two files was first. Where they
    fit the order of the table, or that in which the files were written, that does.
    """
    moments = _all_moments(paths, clocks)
    if moments is None:  # of containers in the wrong order nothing is known
        created = sorted(paths, key=lambda path: ((moment := clocks.created(path)) is None, moment))
        return list(paths) if _all_moments(created, clocks) is None else created
    orders = [sorted(paths, key=lambda path: path.stat().st_mtime_ns)]
    if clocks.listed is not None:
        places = {name: place for place, name in enumerate(clocks.listed)}
        orders.insert(0, sorted(paths, key=lambda path: in_list(path, places) or 0))
    for order in orders:
        in_order = _all_moments(order, clocks)
        if in_order is not None and all(one < following for one, following in itertools.pairwise(in_order)):
            return order
    return [paths[number] for number in sorted(range(len(paths)), key=moments.__getitem__)]


def _all_moments(paths: Sequence[Path], clocks: Clocks) -> list[float] | None:
    """Returns when files begin that were taken in this order, in seconds; None if one is not known."""
    moments = [start.moment.timestamp() for start in clocks.unmoved(paths) if start is not None]
    return moments if len(moments) == len(paths) else None


def single_recordings(paths: Sequence[Path], clocks: Clocks) -> Iterator[Source]:
    """Yields one source for each file.

    Raises:
        ValueError: if two would have the same folder.
    """
    folders = [path.resolve().parent.name for path in paths]
    for candidates in (
        [path.stem for path in paths],
        [path.name for path in paths],
        [f"{folder}_{path.name}" for folder, path in zip(folders, paths, strict=True)],
    ):
        names = list(map(printable, candidates))
        if not (twice := _twice(list(map(file_name, names)))):
            break
    else:
        raise ValueError(f"Two recordings would have the folder {twice}. Give them in two calls, each with its --out.")
    for name, path in zip(names, paths, strict=True):
        yield Source(name, printable(path.name), (path,), clocks.of([path]))


def _listed_and_missing(
    paths: Sequence[Path], starts: Sequence[Start | None], clocks: Clocks
) -> list[tuple[Path, Start]]:
    """Returns files that are listed and not there, with a start between those of the first and the last that are."""
    known = [start.moment.timestamp() for start in starts if start is not None]
    folders = {path.absolute().parent for path in paths}
    folder = Path(os.path.commonpath(folders))
    return [
        (folder / name, in_zone(moment, clocks.zone, LISTED))
        for name, moment in (clocks.listed or {}).items()
        if not any(in_list(path, {name: moment}) for path in paths)
        and min(known) < moment.timestamp() < max(known)
        and not any((parent / name).exists() for parent in {folder, *folders})
    ]


def _created(path: Path) -> datetime | None:
    try:
        return read_header(path).created
    except (OSError, VideoError):
        return None


def _twice(names: list[str]) -> str | None:
    """Returns a name that is there twice, where case does not count, as on macOS and Windows."""
    counts = Counter(name.casefold() for name in names)
    return next((name for name in names if counts[name.casefold()] > 1), None)

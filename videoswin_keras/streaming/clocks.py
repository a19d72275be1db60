"""When a video file begins, as a time of day with its zone: from a list, from its name, or from its container."""

import csv
import itertools
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

# Date and time as recorders put them into names: 20261120_213000, 2026-11-20T21.30.00Z, 20261120213000123, and without
# seconds only where hours and minutes are apart (2026-11-20_21-30), because 20261120_0012 may be the twelfth file.
_IN_A_NAME = re.compile(
    r"(?<!\d)(?P<year>20\d\d)(?P<dash>[-_.]?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)(?P<between>[T _.-]{0,3})"
    r"(?P<hour>\d\d)(?:[-_.:h]?(?P<minute>\d\d)[-_.:m]?(?P<second>\d\d)(?:[._]?\d{3})?"
    r"|(?P<colon>[-_.:h])(?P<minute_alone>\d\d)(?![ _.-]?[AaPp][Mm]|[A-Za-z]))"
    r"(?:[ _.-]?(?P<half>[AaPp])[Mm](?![A-Za-z]))?"
    r"(?P<zone>Z(?![A-Za-z\d])|[+-]\d\d:?\d\d)?(?!\d)"
)
_OFFSET = re.compile(r"Z|[+-](00:?00|(0[1-9]|1[0-4]):?(00|15|30|45))")  # of a zone; others are numbers
_FIRST_YEAR = 2005  # what recorders write before it is a clock that was not set
LISTED = "the table of starts"  # as a source
Value = TypeVar("Value")
_log = logging.getLogger(__name__)
# The directives of --name-format, as regular expressions; "%s" is seconds since 1970, which strptime lacks.
_DIRECTIVES = {
    **dict.fromkeys("ymdHIMS", r"\d{2}"),
    "Y": r"\d{4}",
    "j": r"\d{3}",
    "f": r"\d{1,6}",
    "s": r"\d{9,11}",
    "%": "%",
    "b": r"[^\W\d_]+",
    "B": r"[^\W\d_]+",
    "p": r"[APap][Mm]",
    "z": r"(?:Z|[+-]\d{2}:?\d{2})",
}


class LocalZone(tzinfo):
    """The zone of this machine, with the changes of its clocks: what the standard library has no object for."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """Returns the offset from UTC at a moment."""
        return None if moment is None else moment.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, moment: datetime | None) -> timedelta | None:
        """Returns None: not known."""
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        """Returns the zone's abbreviation at a moment."""
        return None if moment is None else moment.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, moment: datetime) -> datetime:
        """Returns a moment of UTC as one of this zone."""
        fixed = moment.replace(tzinfo=UTC).astimezone()
        local = fixed.replace(tzinfo=self)
        return local if local.utcoffset() == fixed.utcoffset() else local.replace(fold=1)

    def __str__(self) -> str:
        return "local"


def seconds_after(earlier: datetime, later: datetime) -> float:
    """Returns how many seconds lie between two moments. (Within one zone Python subtracts what the clocks show.)"""
    return (later.astimezone(UTC) - earlier.astimezone(UTC)) / timedelta(seconds=1)


def add_seconds(moment: datetime, seconds: float) -> datetime:
    """Returns the moment that many seconds later, by the clocks of its zone, which may be changed on the way."""
    return (moment.astimezone(UTC) + timedelta(seconds=seconds)).astimezone(moment.tzinfo)


def next_roll(moment: datetime, hours: float) -> datetime:
    """Returns the end of the stretch of some hours, counted from midnight, in which a moment lies; midnight is one.

    Example:

    >>> print(next_roll(datetime(2026, 11, 20, 21, 30, tzinfo=UTC), 24), next_roll(datetime(2026, 1, 1, tzinfo=UTC), 7))
    2026-11-21 00:00:00+00:00 2026-01-01 07:00:00+00:00
    """
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    following = (midnight + timedelta(days=1)).replace(fold=0)  # what the clocks show, however long the day is
    count = seconds_after(midnight, moment) // (3600 * hours) + 1
    return min(add_seconds(midnight, 3600 * hours * count), following, key=datetime.timestamp)


def read_zone(text: str | None) -> tzinfo:
    """Returns a time zone by its name: "Europe/Berlin", "UTC", "+01:00"; this machine's for None.

    Raises:
        ValueError: if there is no such zone.

    Example:

    >>> read_zone("+01:00").utcoffset(None)
    datetime.timedelta(seconds=3600)
    """
    if text is None or text == "local":
        return LocalZone()
    if match := re.fullmatch(r"(?:UTC)?([+-])(\d\d?):?(\d\d)?", text):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
        if offset < timedelta(days=1):
            return timezone(-offset if match[1] == "-" else offset)
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f'--zone must be a time zone such as "Europe/Berlin", "UTC" or "+01:00". Received: {text!r}. '
            f"(Names need the package tzdata where the system has no list of them, as on Windows.)"
        ) from error


def read_moment(text: str, zone: tzinfo) -> datetime:
    """Returns a date and time such as "2026-11-20 21:30" in a zone, unless it has an offset of its own ("+01:00").

    Raises:
        ValueError: if it is none.
    """
    moment = datetime.fromisoformat(text.strip())
    return moment.replace(tzinfo=zone) if moment.tzinfo is None else moment


def read_starts(path: str | Path, zone: tzinfo) -> dict[str, datetime]:
    """Reads when files begin from a table with the columns `file` and `start`, separated by comma, semicolon or tab.

    Raises:
        ValueError: if it is no such table, with the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The table of starts {path} cannot be read: {error}.") from error
    first = lines[0] if lines else ""
    rows = csv.DictReader(lines, delimiter=max(",;\t", key=first.count))
    if not {"file", "start"} <= {*(rows.fieldnames or ())}:
        raise ValueError(f"{path} must have the columns file and start in its first line. Received: {first!r}.")
    starts: dict[str, datetime] = {}
    for row in rows:
        try:
            name = str(Path(row["file"].strip()))
            moment = read_moment(row["start"], zone)
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(
                f'{path}, line {rows.line_num}: expected a file and a start such as "2026-11-20 21:30:00". '
                f"Received: {row.get('file')!r}, {row.get('start')!r}."
            ) from error
        if name in starts:
            raise ValueError(f"{path}, line {rows.line_num}: {name} is there twice.")
        starts[name] = moment
    return starts


def in_name(name: str, zone: tzinfo, name_format: str | None = None) -> datetime | None:
    """Returns the date and time in a file's name; None without one, or by a clock that was not set (before 2005).

    Args:
        name: The name.
        zone: What zone the name means, unless it ends in "Z" or says an offset.
        name_format: What to look for, in `strptime`'s directives (and "%s", seconds since 1970). Default: the usual
            ways to write date and time together, year first.

    Raises:
        ValueError: if the format does not give a date and an hour.

    Example:

    >>> print(in_name("NVR_ch1_20261120213000_20261120220000.mp4", UTC))
    2026-11-20 21:30:00+00:00
    >>> print(in_name("cam2 20-11-26 9h30.avi", UTC, "%d-%m-%y %Hh%M"))
    None
    >>> print(in_name("cam2 20-11-26 09h30.avi", UTC, "%d-%m-%y %Hh%M"))
    2026-11-20 09:30:00+00:00
    """
    if name_format is not None:
        return _formatted(name, zone, name_format)
    for match in _IN_A_NAME.finditer(name):
        parts = match.groupdict()
        is_without_seconds = parts["minute"] is None
        if int(parts["year"]) < _FIRST_YEAR or (is_without_seconds and not parts["dash"]):
            continue
        date = "-".join(parts[key] for key in ("year", "month", "day"))
        minute = parts["minute_alone"] if is_without_seconds else parts["minute"]
        # What looks like an offset may be a number, but for names in the form of ISO 8601.
        is_offset = _OFFSET.fullmatch(parts["zone"] or "") and (parts["zone"] == "Z" or "T" in parts["between"])
        offset, hour = parts["zone"] if is_offset else "", int(parts["hour"])
        if parts["half"]:
            hour = hour % 12 + 12 * (parts["half"] in "pP") if 1 <= hour <= 12 else 24
        try:
            moment = datetime.fromisoformat(f"{date} {hour:02}:{minute}:{parts['second'] or '00'}{offset}")
        except ValueError:
            continue
        return moment if offset else moment.replace(tzinfo=zone)
    return None


def check_name_format(name_format: str) -> None:
    """Raises ValueError if a format has unknown directives, or none for the date and the hour."""
    letters = re.findall("%(.?)", name_format)
    if unknown := [letter for letter in letters if letter not in _DIRECTIVES]:
        raise ValueError(f"--name-format has %{unknown[0]}, which is none of %{' %'.join(_DIRECTIVES)}.")
    is_date = {"m", "d"} <= {*letters} or {"b", "d"} <= {*letters} or {"B", "d"} <= {*letters} or "j" in letters
    is_whole = {"y", "Y"} & {*letters} and is_date and ("H" in letters or {"I", "p"} <= {*letters})
    if not (is_whole or "s" in letters):
        raise ValueError(
            f'--name-format must give the date and the hour, as "%Y%m%d_%H%M%S". Received: {name_format!r}.'
        )


def _formatted(name: str, zone: tzinfo, name_format: str) -> datetime | None:
    check_name_format(name_format)
    tokens = re.findall(r"%.|[^%]+", name_format)
    pattern = "".join(f"({_DIRECTIVES[token[1]]})" if token[0] == "%" else re.escape(token) for token in tokens)
    directives = [token[1] for token in tokens if token[0] == "%"]
    for match in re.finditer(rf"(?<!\d){pattern}(?!\d)", name):
        try:
            if "s" in directives:
                moment = datetime.fromtimestamp(int(match[1 + directives.index("s")]), UTC)
            else:
                moment = datetime.strptime(match[0], name_format)
        except ValueError:
            continue
        if moment.year >= _FIRST_YEAR:
            return moment.replace(tzinfo=zone) if moment.tzinfo is None else moment
    return None


@dataclass(frozen=True)
class Start:
    """When the first frame of a file was taken, and how that is known.

    Attributes:
        moment: With its zone.
        source: "its name", "its container", the name of a list; for the report.
        doubt: What clocks do not tell about it, as a sentence that goes on after the file's name; "" if nothing.
    """

    moment: datetime
    source: str
    doubt: str = ""


def in_list(path: Path, listed: dict[str, Value]) -> Value | None:
    """Returns what a table says about a file, of which it may give the name, or the path, or the end of that.

    Example:

    >>> print(in_list(Path("card/1/a.mp4"), {"1/a.mp4": datetime(2026, 11, 20, 21, 30)}))
    2026-11-20 21:30:00
    """
    ends = (Path(*path.parts[-count:]) for count in range(len(path.parts), 0, -1))
    return next((listed[str(end)] for end in ends if str(end) in listed), None)


def find_starts(
    paths: Sequence[Path],
    created: Callable[[Path], datetime | None],
    zone: tzinfo,
    name_format: str | None = None,
    listed: dict[str, datetime] | None = None,
) -> list[Start | None]:
    """Returns when each file of a recording begins; None where nothing says so.

    All come from the first of these that knows any: a list, the names, the containers. Clocks of different kinds are
    not mixed: a name is in local time, and what a camera writes into its files often is not. Creation times count only
    if each is later than that of the file before; else they are those of a copy.

    Args:
        paths: The files, in the order of the recording.
        created: Function that returns what a file's container says, or None.
        zone: Of the times in names, and of what is returned.
        name_format: As in `in_name`.
        listed: Starts by a file's name, or by its path as it was given.

    Raises:
        ValueError: if the list knows none of the files.
    """
    if listed is not None:
        known = [in_list(path, listed) for path in paths]
        if not any(known):
            raise ValueError(f"The table of starts lacks {paths[0]}. It has: {_some(listed)}.")
        for path, moment in zip(paths, known, strict=True):
            if moment is None:
                _log.warning("The table of starts lacks %s: it begins where the file before it ends.", path)
        return _resolved(known, zone, LISTED)
    named = [in_name(path.name, zone, name_format) for path in paths]
    if any(named):
        return _resolved(named, zone, "its name")
    if name_format is not None:
        raise ValueError(f"No file's name has {name_format!r}: {paths[0].name}, … Is --name-format right?")
    created_at = [created(path) for path in paths]
    moments = [moment if moment is not None and moment.year >= _FIRST_YEAR else None for moment in created_at]
    seen = [moment for moment in moments if moment is not None]
    if any(seconds_after(one, following) <= 0 for one, following in itertools.pairwise(seen)):
        return [None] * len(paths)
    return _resolved(moments, zone, "its container")


def in_zone(moment: datetime, zone: tzinfo, source: str) -> Start:
    """Returns a start by the clocks of a zone, with what they do not tell about the moment."""
    doubt = ""
    if moment.tzinfo is zone and not moment.fold:
        first, second = moment.utcoffset(), moment.replace(fold=1).utcoffset()
        assert first is not None
        assert second is not None
        if second < first:
            doubt = "begins at a time that comes twice that night: it is taken for the first"
        elif second > first:
            doubt = "begins at a time that clocks leave out that night: taken as if they were not put forward"
    elif moment.tzinfo is zone:
        source += ", after the clocks were put back"
    return Start(moment.astimezone(zone), source, doubt)


def _resolved(moments: Sequence[datetime | None], zone: tzinfo, source: str) -> list[Start | None]:
    """Returns starts by the clocks of a zone.

    A time that comes twice, where clocks are put back, is taken for its second coming if the file before is later; then
    those before it are certain.
    """
    starts: list[Start | None] = []
    before: datetime | None = None
    for moment in moments:
        if moment is None:
            starts.append(None)
            continue
        if before is not None and moment.tzinfo is zone and seconds_after(before, moment) <= 0:
            later = moment.replace(fold=1)
            moment = later if seconds_after(before, later) > 0 else moment
        if moment.fold:
            starts = [start and replace(start, doubt="") for start in starts]
        before = moment
        starts.append(in_zone(moment, zone, source))
    return starts


def _some(names: dict[str, datetime]) -> str:
    return ", ".join(list(names)[:3]) + (", …" if len(names) > 3 else "")

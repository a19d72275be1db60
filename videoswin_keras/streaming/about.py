"""What a recording is, beside its results: its name, its classes, its clock, its files, and what is wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from videoswin_keras.streaming.clocks import add_seconds
from videoswin_keras.streaming.timeline import THRESHOLD

UNSCORED, NONE = "unscored", "none"
# Kinds of problems.
LEFT_OUT, CUT_OFF, OVERLAP, DAMAGED, CLOCK = "left out", "cut off", "overlap", "damaged", "clock"
# Said in the header of every file of results.
MEANING = (
    "Each result stands for the seconds from its start to its end, counted from the first frame of the recording; the "
    "model saw the clip of {clip:g} s that ends there. Unscored: frames are missing in that clip."
)
_SEVERAL = (
    f" Several classes can be there at once, or none: a class is there if its probability is at least {THRESHOLD:g}."
)


@dataclass(frozen=True)
class FileSpan:
    """Where a file lies in a recording.

    Attributes:
        file: Its name.
        start: Float. Seconds of the recording at which it begins; negative for a first file without a frame there.
        end: Float. Seconds of the recording at which its last frame ends.
        until: Float. The same by the file's own word, if that is later: it broke off.
        source: How the start is known: "its name", "its container", "the end of the file before", …
    """

    file: str
    start: float
    end: float
    until: float
    source: str


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file of a recording.

    Attributes:
        file: Its name.
        kind: LEFT_OUT, CUT_OFF, OVERLAP, DAMAGED or CLOCK.
        what: A sentence that goes on after the name: "is left out: …".
        at: Float. Seconds of the recording at which it shows.
    """

    file: str
    kind: str
    what: str
    at: float


@dataclass(frozen=True)
class About:
    """What a recording is, beside its results.

    Attributes:
        name: What it is called.
        labels: Class names in index order.
        source: The files or the camera, as text.
        fps: Frames per second that were looked at.
        clip_frames: Frames of a clip.
        started: When its first frame was taken, with the zone whose clocks people read; None if it is not known.
        files: Where each file lies in the recording, in order; empty for a camera.
        problems: What is wrong with the files.
        multi_label: Whether the classes are there or not each by itself.

    Raises:
        ValueError: if a class is called "unscored", or with `multi_label` "none", or `started` has no zone.
    """

    name: str
    labels: tuple[str, ...]
    source: str
    fps: float
    clip_frames: int = 32
    started: datetime | None = None
    files: tuple[FileSpan, ...] = ()
    problems: tuple[Problem, ...] = ()
    multi_label: bool = False

    def __post_init__(self) -> None:
        if UNSCORED in self.labels:
            raise ValueError(f"No class may be called {UNSCORED!r}: that is what a gap is called in the files.")
        if self.multi_label and NONE in self.labels:
            raise ValueError(f"No class may be called {NONE!r}: the files say so where none of the classes is there.")
        if self.started is not None and self.started.tzinfo is None:
            raise ValueError(f"`started` must have a time zone. Received: {self.started!r}.")

    @property
    def meaning(self) -> str:
        """Which seconds a result stands for, in a few sentences."""
        return MEANING.format(clip=self.clip_frames / self.fps) + _SEVERAL * self.multi_label

    def label(self, index: int | None) -> str:
        """Returns the name of a class; "unscored" for None."""
        return UNSCORED if index is None else self.labels[index]

    def named(self, indices: Sequence[int] | None) -> str:
        """Returns the names of the classes that are there: "lying + eating", "none"; "unscored" for None."""
        return UNSCORED if indices is None else " + ".join(map(self.label, indices)) or NONE

    def moment(self, seconds: float) -> datetime | None:
        """Returns the moment that many seconds after the start, by the clocks of its zone; None if not known."""
        return None if self.started is None else add_seconds(self.started, seconds)

    def iso(self, seconds: float) -> str:
        """Returns that moment as "2026-11-20T22:05:09.250+01:00"; "" if it is not known."""
        moment = self.moment(seconds)
        return "" if moment is None else moment.isoformat(timespec="milliseconds")

    def clock(self, seconds: float) -> str:
        """Returns the time of day that many seconds after the start, or the time elapsed: "22:05:09", "1:05:09"."""
        moment = self.moment(seconds)
        if moment is not None:
            return f"{moment:%H:%M:%S}"
        minutes, second = divmod(int(abs(seconds)), 60)
        return f"{'-' if seconds <= -1 else ''}{minutes // 60}:{minutes % 60:02}:{second:02}"

    def when(self, seconds: float) -> str:
        """Returns date, time and offset that many seconds after the start, or the time elapsed."""
        moment = self.moment(seconds)
        return self.clock(seconds) if moment is None else moment.isoformat(" ", "seconds")

    def file_at(self, seconds: float) -> FileSpan | None:
        """Returns the file that shows a time of the recording: of an overlap the first. None where none does."""
        return next((span for span in self.files if span.start - 1e-6 <= seconds < span.end), None)


def length_of_time(seconds: float) -> str:
    """Returns "2 h 05 min", "3 min 20 s" or "7.5 s"."""
    if seconds < 60:
        return f"{seconds:.4g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"

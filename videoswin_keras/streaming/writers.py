"""The results of a recording in the formats that people go on with. Each function writes one file, whole or not at all.

Times are seconds from the first frame of the recording; stretches in which nothing is known are "unscored".
"""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from videoswin_keras import optional
from videoswin_keras.atomic import replacing
from videoswin_keras.streaming.timeline import Bout, Result

UNSCORED = "unscored"


@dataclass(frozen=True)
class About:
    """What a recording is, beside its results.

    Attributes:
        name: What it is called.
        labels: Class names in index order.
        source: The files or the camera, as text.
        fps: Frames per second that were looked at.
        started: The time of day of its first frame; None if it is not known.

    Raises:
        ValueError: if a class is called "unscored".
    """

    name: str
    labels: tuple[str, ...]
    source: str
    fps: float
    started: datetime | None = None

    def __post_init__(self) -> None:
        if UNSCORED in self.labels:
            raise ValueError(f"No class may be called {UNSCORED!r}: that is what a gap is called in the files.")

    def label(self, index: int | None) -> str:
        """Returns the name of a class; "unscored" for None."""
        return UNSCORED if index is None else self.labels[index]

    def clock(self, seconds: float) -> str:
        """Returns the time of day that many seconds after the start, or the time elapsed: "22:05:09", "1:05:09"."""
        if self.started is not None:
            return f"{self.started + timedelta(seconds=seconds):%H:%M:%S}"
        minutes, second = divmod(int(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def length_of_time(seconds: float) -> str:
    """Returns "2 h 05 min", "3 min 20 s" or "7.5 s"."""
    if seconds < 60:
        return f"{seconds:.4g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"


def write_csv(path: Path, results: Iterable[Result], about: About) -> None:
    """Writes one line per result: start, end, labels, uncertainty and the probability of each class, 0–1."""
    header = ["start_s", "end_s", "clock", "label", "smoothed_label", "uncertainty"]
    rows = (
        [
            _seconds(result.start),
            _seconds(result.end),
            about.clock(result.start),
            about.label(result.label),
            about.label(result.smoothed_label),
            "" if result.uncertainty is None else f"{result.uncertainty:.4f}",
            *([""] * len(about.labels) if result.probabilities is None else (f"{p:.6f}" for p in result.probabilities)),
        ]
        for result in results
    )
    _write_table(path, [*header, *(f"p({label})" for label in about.labels)], rows)


def write_jsonl(path: Path, results: Iterable[Result], about: About) -> None:
    """Writes one JSON object per line and result; null where nothing is known."""

    def rounded(values: tuple[float, ...] | None) -> list[float] | None:
        return None if values is None else [round(value, 6) for value in values]

    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for result in results:
            content = {
                "start": result.start,
                "end": result.end,
                "label": None if result.label is None else about.labels[result.label],
                "smoothed_label": None if result.smoothed_label is None else about.labels[result.smoothed_label],
                "uncertainty": None if result.uncertainty is None else round(result.uncertainty, 4),
                "probabilities": rounded(result.probabilities),
                "smoothed": rounded(result.smoothed),
            }
            file.write(json.dumps(content, ensure_ascii=False) + "\n")


def write_bouts(path: Path, timeline: Sequence[Bout], about: About) -> None:
    """Writes one line per bout of a smoothed label, and per stretch that is not scored."""
    rows = (
        [
            _seconds(bout.start),
            _seconds(bout.end),
            _seconds(bout.duration),
            about.clock(bout.start),
            about.label(bout.label),
        ]
        for bout in timeline
    )
    _write_table(path, ["start_s", "end_s", "duration_s", "clock", "label"], rows)


def write_boris(path: Path, timeline: Sequence[Bout], about: About) -> None:
    """Writes the bouts with the columns of BORIS's export "aggregated events", as state events.

    What is not scored is left out, so that the time budget has only behaviours.
    """
    total = timeline[-1].end if timeline else 0.0
    rows = (
        {
            "Observation id": about.name,
            "Observation date": "" if about.started is None else about.started.isoformat(" ", "seconds"),
            "Observation type": "Media file(s)",
            "Source": about.source,
            "Time offset (s)": "0",
            "Coding duration": _seconds(total),
            "Media duration (s)": _seconds(total),
            "FPS (frame/s)": f"{about.fps:g}",
            "Subject": "No focal subject",
            "Observation duration by subject by observation": _seconds(total),
            "Behavior": about.label(bout.label),
            "Behavior type": "STATE",
            "Start (s)": _seconds(bout.start),
            "Stop (s)": _seconds(bout.end),
            "Duration (s)": _seconds(bout.duration),
            "Media file name": about.source,
        }
        for bout in timeline
        if bout.label is not None
    )
    _write_table(path, BORIS_COLUMNS, ([row.get(column, "") for column in BORIS_COLUMNS] for row in rows))


# Of BORIS 8, menu Observations, Export events, Aggregated events; without modifiers and independent variables.
BORIS_COLUMNS = [
    "Observation id",
    "Observation date",
    "Description",
    "Observation type",
    "Source",
    "Time offset (s)",
    "Coding duration",
    "Media duration (s)",
    "FPS (frame/s)",
    "Subject",
    "Observation duration by subject by observation",
    "Behavior",
    "Behavioral category",
    "Behavior type",
    "Start (s)",
    "Stop (s)",
    "Duration (s)",
    "Media file name",
    "Image index start",
    "Image index stop",
    "Image file path start",
    "Image file path stop",
    "Comment start",
    "Comment stop",
]


def write_edf(path: Path, timeline: Sequence[Bout], about: About) -> None:
    """Writes the bouts as the annotations of an EDF+ file without signals: what sleep software takes as a hypnogram."""
    with optional.needed("Writing EDF+", "edfio"):
        import edfio

    def text(bout: Bout) -> str:  # control characters delimit annotations
        return "".join(character if character.isprintable() else " " for character in about.label(bout.label))

    annotations = [edfio.EdfAnnotation(bout.start, bout.duration, text(bout)) for bout in timeline]
    # EDF+ knows the dates from 1985 to 2084; without one edfio leaves it open.
    started = about.started if about.started and 1985 <= about.started.year <= 2084 else None
    recording = edfio.Recording(startdate=date(started.year, started.month, started.day)) if started else None
    begins = time(started.hour, started.minute, started.second) if started else None
    with replacing(path) as temporary:
        edfio.Edf([], annotations=annotations, recording=recording, starttime=begins).write(temporary)


def write_webvtt(path: Path, timeline: Sequence[Bout], about: About) -> None:
    """Writes the bouts as subtitles, so that a player shows the label over the video."""
    with optional.needed("Writing WebVTT", "webvtt"):
        import webvtt

    subtitles = webvtt.WebVTT()
    for bout in timeline:
        # What would be markup is written as what it looks like.
        text = about.label(bout.label).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        subtitles.captions.append(webvtt.Caption(_timestamp(bout.start), _timestamp(bout.end), text))
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        subtitles.write(file)


def _timestamp(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)

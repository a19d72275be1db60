"""The results of a recording in the formats that people go on with. Each function writes one file, whole or not at all.

Times are seconds from the first frame of the recording; stretches in which nothing is known are "unscored".
"""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, time
from pathlib import Path, PurePath
from typing import IO, Any

from videoswin_keras import optional
from videoswin_keras.atomic import make_own_folder, replacing
from videoswin_keras.streaming.about import NONE, About, FileSpan
from videoswin_keras.streaming.timeline import Bout, Result, Timeline
from videoswin_keras.text import file_name, printable, spreadsheet_safe, writable_json


def write_csv(path: Path, results: Iterable[Result], about: About) -> None:
    """Writes one line per result: where it is, labels, uncertainty and the probability of each class, 0–1.

    The first line, after a "#", says which seconds a result stands for; the second has the names of the columns.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        begin_csv(file, about).writerows(csv_row(result, about) for result in results)


def begin_csv(file: IO[str], about: About) -> Any:
    """Writes the first two lines of results.csv, and returns a `csv.writer` for the others."""
    columns = ["start_s", "end_s", "time", "clock", "file", "file_s", "label", "smoothed_label", "uncertainty"]
    return _begin_table(file, [*columns, *(spreadsheet_safe(f"p({label})") for label in about.labels)], about)


def csv_row(result: Result, about: About) -> list[str]:
    """Returns what results.csv says about a result."""
    probabilities = [""] * len(about.labels)
    if result.probabilities is not None:
        probabilities = [f"{probability:.6f}" for probability in result.probabilities]
    return [
        _seconds(result.start),
        _seconds(result.end),
        *_place(result.start, about),
        spreadsheet_safe(about.named(result.labels)),
        spreadsheet_safe(about.named(result.smoothed_labels)),
        "" if result.uncertainty is None else f"{result.uncertainty:.4f}",
        *probabilities,
    ]


def _place(seconds: float, about: About) -> list[str]:
    """Returns what a table says about a time: the moment with its zone, the clock, the file and the time in it."""
    span = about.file_at(seconds)
    in_file = ["", ""] if span is None else [spreadsheet_safe(span.file), _seconds(seconds - span.start)]
    return [about.iso(seconds), about.clock(seconds), *in_file]


def write_jsonl(path: Path, results: Iterable[Result], about: About) -> None:
    """Writes one JSON object per line: what the recording is, then each result; null where nothing is known.

    Of classes that are there or not each by itself, labels are lists of names.
    """

    def rounded(values: tuple[float, ...] | None) -> list[float] | None:
        return None if values is None else [round(value, 6) for value in values]

    def names(labels: tuple[int, ...] | None) -> str | list[str] | None:
        if labels is None:
            return None
        return [about.labels[label] for label in labels] if about.multi_label else about.named(labels)

    header = {
        "recording": about.name,
        "source": about.source,
        "started": about.iso(0.0) or None,
        "fps": about.fps,
        "clip_frames": about.clip_frames,
        "labels": about.labels,
        "meaning": about.meaning,
    }
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(writable_json(header) + "\n")
        for result in results:
            span = about.file_at(result.start)
            content = {
                "start": result.start,
                "end": result.end,
                "time": about.iso(result.start) or None,
                "file": None if span is None else span.file,
                "file_start": None if span is None else round(result.start - span.start, 6),
                "label": names(result.labels),
                "smoothed_label": names(result.smoothed_labels),
                "uncertainty": None if result.uncertainty is None else round(result.uncertainty, 4),
                "probabilities": rounded(result.probabilities),
                "smoothed": rounded(result.smoothed),
            }
            file.write(writable_json(content) + "\n")


def write_bouts(path: Path, timeline: Timeline, about: About) -> None:
    """Writes one line per bout of a smoothed label, and per stretch that is not scored; begins as `write_csv`."""
    columns = ["start_s", "end_s", "duration_s", "time", "clock", "file", "file_s", "label"]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        _begin_table(file, columns, about).writerows(
            [
                _seconds(bout.start),
                _seconds(bout.end),
                _seconds(bout.duration),
                *_place(bout.start, about),
                spreadsheet_safe(about.label(bout.label)),
            ]
            for bout in timeline.bouts
        )


def write_boris(path: Path, timeline: Timeline, about: About) -> None:
    """Writes the bouts with the columns of BORIS's export "aggregated events", as state events.

    What is not scored is left out, so that the time budget has only behaviours. Times are those of the recording; the
    media file of an event is the one in which it begins.
    """
    source = ";".join(span.file for span in about.files) or about.source
    durations = ";".join(_seconds(span.end - span.start) for span in about.files) or _seconds(timeline.duration)

    def row(bout: Bout) -> dict[str, str]:
        span = about.file_at(bout.start)
        return {
            "Observation id": spreadsheet_safe(about.name),
            "Observation date": about.iso(0.0),
            "Description": about.meaning,
            "Observation type": "Media file(s)",
            "Source": spreadsheet_safe(source),
            "Time offset (s)": "0",
            "Coding duration": _seconds(timeline.duration),
            "Media duration (s)": durations,
            "FPS (frame/s)": f"{about.fps:g}",
            "Subject": "No focal subject",
            "Observation duration by subject by observation": _seconds(timeline.duration),
            "Behavior": spreadsheet_safe(about.label(bout.label)),
            "Behavior type": "STATE",
            "Start (s)": _seconds(bout.start),
            "Stop (s)": _seconds(bout.end),
            "Duration (s)": _seconds(bout.duration),
            "Media file name": spreadsheet_safe(source if span is None else span.file),
        }

    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, BORIS_COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(row(bout) for bout in timeline.bouts if bout.label is not None)


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


def write_edf(path: Path, timeline: Timeline, about: About) -> None:
    """Writes the bouts as the annotations of an EDF+ file without signals: what sleep software takes as a hypnogram."""
    with optional.needed("Writing EDF+", "edfio"):
        import edfio

    annotations = [edfio.EdfAnnotation(b.start, b.duration, printable(about.label(b.label))) for b in timeline.bouts]
    if not annotations:  # the format must have one
        annotations = [edfio.EdfAnnotation(0.0, timeline.duration, NONE)]
    # EDF+ knows the dates from 1985 to 2084; without one edfio leaves it open.
    started = about.started if about.started and 1985 <= about.started.year <= 2084 else None
    recording = edfio.Recording(
        startdate=None if started is None else date(started.year, started.month, started.day),
        equipment_code="videoswin",
        additional=("labels_hold_from_onset_for_duration",),
    )
    begins = time(started.hour, started.minute, started.second, started.microsecond) if started else None
    with replacing(path) as temporary:
        edfio.Edf([], annotations=annotations, recording=recording, starttime=begins).write(temporary)


def write_webvtt(folder: Path, timeline: Timeline, about: About) -> None:
    """Writes the bouts as subtitles, so that a player shows the label over the video.

    Of one file, or a camera, as labels.vtt; of several files one by the name of each in the folder labels. Times are
    those of the file.
    """
    if len(about.files) < 2:
        inside = _inside(timeline, about.files[0]) if about.files else timeline.bouts
        _write_subtitles(folder / "labels.vtt", inside, about)
        return
    (folder / "labels.vtt").unlink(missing_ok=True)  # of when there was one file
    make_own_folder(folder / "labels")
    for name, span in _subtitle_names(about.files):
        _write_subtitles(folder / "labels" / name, _inside(timeline, span), about)


def _inside(timeline: Timeline, span: FileSpan) -> list[Bout]:
    """Returns what of the bouts lies in a file, in the time of that file."""
    return [
        Bout(max(bout.start - span.start, 0.0), min(bout.end, span.end) - span.start, bout.label)
        for bout in timeline.bouts
        if bout.end > span.start and bout.start < span.end
    ]


def _subtitle_names(files: Sequence[FileSpan]) -> Iterable[tuple[str, FileSpan]]:
    """Returns a file name for the subtitles of each file: the stem, or all of its name, with a number where needed."""
    names = [file_name(PurePath(span.file).stem, ".vtt") for span in files]
    for others in (
        [file_name(span.file, ".vtt") for span in files],
        [file_name(span.file, f"-{number}.vtt") for number, span in enumerate(files, start=1)],
    ):
        counts = Counter(map(str.casefold, names))  # as macOS and Windows compare them
        names = [other if counts[name.casefold()] > 1 else name for name, other in zip(names, others, strict=True)]
    return zip(names, files, strict=True)


def _write_subtitles(path: Path, bouts: Iterable[Bout], about: About) -> None:
    with optional.needed("Writing WebVTT", "webvtt"):
        import webvtt

    subtitles = webvtt.WebVTT()
    subtitles.header_comments.append(about.meaning)
    for bout in bouts:
        # What would be markup is written as what it looks like.
        text = printable(about.label(bout.label)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        subtitles.captions.append(webvtt.Caption(_timestamp(bout.start), _timestamp(bout.end), text))
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        subtitles.write(file)


def _timestamp(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _begin_table(file: IO[str], columns: Sequence[str], about: About) -> Any:
    file.write(f"# {about.meaning}\n")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    return writer

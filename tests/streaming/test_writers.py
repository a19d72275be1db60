"""Each format is read back by what its users read it with."""

import csv
import json
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import edfio
import mne
import numpy as np
import pandas
import pytest
import webvtt

from videoswin_keras.streaming import writers
from videoswin_keras.streaming.about import About, FileSpan
from videoswin_keras.streaming.timeline import Bout, Result, Timeline

LABELS = ("awake", "sleep, deep <3 & more", "große Ruhe")
BERLIN = ZoneInfo("Europe/Berlin")
BOUTS = [Bout(0.0, 8.0, 0), Bout(8.0, 36000.25, 1), Bout(36000.25, 36010.0, None), Bout(36010.0, 36012.125, 2)]
TIMELINE = Timeline(BOUTS, 36012.125)
RESULTS = [
    Result(0.0, 8.0, (0.75, 0.25, 0.0), (0.5, 0.5, 0.0)),
    Result(8.0, 10.0, (1 / 3, 1 / 3, 1 / 3), (0.0, 1.0, 0.0)),
    Result(10.0, 12.0, None),
]


@pytest.fixture(params=[None, datetime(2026, 11, 20, 22, 15, 30, tzinfo=BERLIN)])
def about(request):
    return About("night", LABELS, "night.mp4", 4.0, started=request.param)


def test_csv(tmp_path, about):
    writers.write_csv(tmp_path / "results.csv", iter(RESULTS), about)
    table = pandas.read_csv(tmp_path / "results.csv", skiprows=1)
    assert list(table.start_s) == [0, 8, 10]
    assert list(table.end_s) == [8, 10, 12]
    assert (
        list(table.clock)
        == (["0:00:00", "0:00:08", "0:00:10"], ["22:15:30", "22:15:38", "22:15:40"])[about.started is not None]
    )
    assert list(table.label) == ["awake", "awake", "unscored"]
    assert list(table.smoothed_label) == ["awake", LABELS[1], "unscored"]
    np.testing.assert_allclose(table.uncertainty, [0.5119, 1, np.nan], atol=1e-4)
    np.testing.assert_allclose(
        table[[f"p({label})" for label in LABELS]], [(0.75, 0.25, 0), (1 / 3,) * 3, (np.nan,) * 3], atol=1e-6
    )


def test_jsonl(tmp_path, about):
    writers.write_jsonl(tmp_path / "results.jsonl", iter(RESULTS), about)
    lines = (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()
    header, *rows = [json.loads(line) for line in lines]
    assert header["meaning"] == about.meaning
    assert header["labels"] == list(LABELS)
    assert rows[0] == {
        "start": 0.0,
        "end": 8.0,
        "time": "2026-11-20T22:15:30.000+01:00" if about.started else None,
        "file": None,
        "file_start": None,
        "label": "awake",
        "smoothed_label": "awake",
        "uncertainty": 0.5119,
        "probabilities": [0.75, 0.25, 0.0],
        "smoothed": [0.5, 0.5, 0.0],
    }
    time = {"time": "2026-11-20T22:15:40.000+01:00"} if about.started else {}
    assert rows[2] == dict.fromkeys(rows[0]) | {"start": 10.0, "end": 12.0} | time


def test_bouts(tmp_path, about):
    writers.write_bouts(tmp_path / "bouts.csv", TIMELINE, about)
    table = pandas.read_csv(tmp_path / "bouts.csv", skiprows=1)
    assert list(table.label) == [*LABELS[:2], "unscored", LABELS[2]]
    np.testing.assert_allclose(table.end_s - table.start_s, table.duration_s)
    np.testing.assert_allclose(table.duration_s, [8, 35992.25, 9.75, 2.125])


def test_boris(tmp_path, about):
    """The columns that BORIS 8.27 writes, with its types; times of state events in order."""
    writers.write_boris(tmp_path / "boris.csv", TIMELINE, about)
    table = pandas.read_csv(tmp_path / "boris.csv")
    assert list(table["Behavior"]) == list(LABELS)
    assert set(table["Behavior type"]) == {"STATE"}
    np.testing.assert_allclose(table["Stop (s)"] - table["Start (s)"], table["Duration (s)"])
    assert set(table["Observation id"]) == {"night"}
    assert list(table.columns[:2]) == ["Observation id", "Observation date"]
    if about.started:
        assert pandas.to_datetime(table["Observation date"])[0] == about.started
    with (tmp_path / "boris.csv").open(encoding="utf-8") as file:
        assert next(csv.reader(file)) == writers.BORIS_COLUMNS


def test_edf(tmp_path, about):
    if about.started:  # a camera seldom starts with a second
        about = replace(about, started=about.started.replace(microsecond=250_000))
    writers.write_edf(tmp_path / "annotations.edf", TIMELINE, about)
    annotations = mne.read_annotations(tmp_path / "annotations.edf")
    np.testing.assert_allclose(annotations.onset, [bout.start for bout in BOUTS])
    np.testing.assert_allclose(annotations.duration, [bout.duration for bout in BOUTS])
    assert list(annotations.description) == [about.label(bout.label) for bout in BOUTS]
    file = edfio.read_edf(tmp_path / "annotations.edf")
    if about.started:
        assert datetime.combine(file.startdate, file.starttime) == about.started.replace(tzinfo=None)


def test_edf_as_a_hypnogram(tmp_path, about):
    """As sleep scorers read it: one stage for each epoch of 30 seconds, taken at its middle."""
    writers.write_edf(tmp_path / "annotations.edf", TIMELINE, about)
    annotations = mne.read_annotations(tmp_path / "annotations.edf")
    stages = [
        annotations.description[np.searchsorted(annotations.onset, epoch * 30 + 15, "right") - 1]
        for epoch in range(1200)
    ]
    assert stages == [LABELS[1]] * 1200


def test_webvtt(tmp_path, about):
    writers.write_webvtt(tmp_path, TIMELINE, about)
    captions = webvtt.read(tmp_path / "labels.vtt").captions
    assert [caption.start for caption in captions] == ["00:00:00.000", "00:00:08.000", "10:00:00.250", "10:00:10.000"]
    assert captions[-1].end == "10:00:12.125"
    assert captions[1].raw_text == "sleep, deep &lt;3 &amp; more"


def test_a_player_reads_the_subtitles(tmp_path, about):
    """FFmpeg's reader, which most players have."""
    import av

    writers.write_webvtt(tmp_path, TIMELINE, about)
    with av.open(str(tmp_path / "labels.vtt")) as container:
        packets = [packet for packet in container.demux(subtitles=0) if packet.size]
        times = [float(packet.pts * packet.time_base) for packet in packets]
    assert times == [bout.start for bout in BOUTS]


def test_a_clock_that_was_never_set(tmp_path):
    """EDF+ has no date before 1985: none is better than no file."""
    writers.write_edf(
        tmp_path / "a.edf",
        Timeline([Bout(0.0, 5.0, 0)], 5.0),
        About("n", LABELS, "n", 4.0, started=datetime(1970, 1, 1, tzinfo=UTC)),
    )
    assert len(mne.read_annotations(tmp_path / "a.edf")) == 1


def test_names_that_would_delimit_annotations(tmp_path):
    about = About("night", ("a\x14b\tc",), "night.mp4", 4.0)
    writers.write_edf(tmp_path / "annotations.edf", Timeline([Bout(0.0, 5.0, 0)], 5.0), about)
    assert list(mne.read_annotations(tmp_path / "annotations.edf").description) == [r"a\x14b\tc"]


def test_nothing_to_write(tmp_path, about):
    for write in (writers.write_csv, writers.write_jsonl):
        write(tmp_path / write.__name__, [], about)
    for write in (writers.write_bouts, writers.write_boris):
        write(tmp_path / write.__name__, Timeline([], 0.0), about)
    writers.write_webvtt(tmp_path, Timeline([], 0.0), about)
    assert webvtt.read(tmp_path / "labels.vtt").captions == []
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_clock():
    about = About("night", LABELS, "night.mp4", 4.0, started=datetime(2026, 11, 20, 23, 59, 59, tzinfo=BERLIN))
    assert about.clock(2.5) == "00:00:01"
    assert About("night", LABELS, "night.mp4", 4.0).clock(36061.9) == "10:01:01"


HOSTILE = ("=HYPERLINK(1)", "+1", "@SUM(A1)", "-2", "line\n\nbreak --> 00:01", "\x1b[2Jgone", "<script>", "plain #1")
HOSTILE = (*HOSTILE, "\t=1", "\r=2", "a; @b", "＝3", "half\udc80")


FILES = (FileSpan("=a\n.mp4", 0.0, 99.0, 99.0, "its name"), FileSpan("=b.mp4", 99.0, 100.0, 100.0, "its name"))


def test_names_from_strangers_are_only_text(tmp_path):
    """No cell that a spreadsheet runs, no line or cue too many, no control character, no markup."""
    bouts = [Bout(float(start), start + 1.0, start) for start in range(len(HOSTILE))]
    results = [Result(bout.start, bout.end, tuple(np.eye(len(HOSTILE))[bout.label])) for bout in bouts]
    timeline = Timeline(bouts, float(len(HOSTILE)))
    about = About("=night\x07", HOSTILE, "@night.mp4", 4.0, files=FILES)
    writers.write_csv(tmp_path / "results.csv", results, about)
    writers.write_jsonl(tmp_path / "results.jsonl", results, about)
    writers.write_bouts(tmp_path / "bouts.csv", timeline, about)
    writers.write_boris(tmp_path / "boris.csv", timeline, about)
    writers.write_webvtt(tmp_path, timeline, about)
    writers.write_edf(tmp_path / "annotations.edf", timeline, about)
    for name, skipped in (("results.csv", 1), ("bouts.csv", 1), ("boris.csv", 0)):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert text.count("\n") == len(HOSTILE) + 1 + skipped
        assert "\x1b" not in text
        for row in csv.reader(text.splitlines()[skipped:]):
            cells = [part.lstrip(" ") for cell in row for part in cell.split(";")]  # as other countries separate them
            assert not [cell for cell in cells if cell[:1] in {*"=+-@＝", "\t", "\r"}]
    captions = webvtt.read(tmp_path / "labels" / "=a_n.vtt").captions
    assert [caption.start_in_seconds for caption in captions] == [bout.start for bout in bouts]
    assert captions[6].raw_text == "&lt;script&gt;"
    assert list(mne.read_annotations(tmp_path / "annotations.edf").description)[4:6] == [
        r"line\n\nbreak --> 00:01",
        r"\x1b[2Jgone",
    ]


def test_results_of_several_files_name_the_file_and_the_time_in_it(tmp_path):
    files = (
        FileSpan("a/1.mp4", 0.0, 8.0, 8.0, "its name"),
        FileSpan("b/1.mp4", 10.0, 12.0, 99.0, "its name"),
        FileSpan("c.mp4", 36005.0, 36020.0, 36020.0, "its name"),
    )
    about = About("night", LABELS, "1.mp4 and 2 more files", 4.0, files=files)
    writers.write_csv(tmp_path / "results.csv", RESULTS, about)
    table = pandas.read_csv(tmp_path / "results.csv", skiprows=1)
    assert list(table.file.fillna("")) == ["a/1.mp4", "", "b/1.mp4"]
    assert list(table.file_s[[0, 2]]) == [0.0, 0.0]
    writers.write_boris(tmp_path / "boris.csv", TIMELINE, about)
    table = pandas.read_csv(tmp_path / "boris.csv")
    assert list(table["Media file name"]) == ["a/1.mp4", "a/1.mp4;b/1.mp4;c.mp4", "c.mp4"]
    assert table["Media duration (s)"][0] == "8.000;2.000;15.000"
    writers.write_webvtt(tmp_path, TIMELINE, about)
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["a_1.mp4.vtt", "b_1.mp4.vtt", "c.vtt"]
    captions = webvtt.read(tmp_path / "labels" / "c.vtt").captions
    assert [(caption.start, caption.end, caption.raw_text) for caption in captions] == [
        ("00:00:00.000", "00:00:05.000", "unscored"),
        ("00:00:05.000", "00:00:07.125", LABELS[2]),
    ]


def test_every_file_says_which_seconds_a_result_stands_for(tmp_path, about):
    writers.write_csv(tmp_path / "results.csv", RESULTS, about)
    writers.write_jsonl(tmp_path / "results.jsonl", RESULTS, about)
    writers.write_bouts(tmp_path / "bouts.csv", TIMELINE, about)
    writers.write_boris(tmp_path / "boris.csv", TIMELINE, about)
    writers.write_webvtt(tmp_path, TIMELINE, about)
    for path in tmp_path.iterdir():
        assert "stands for the seconds from its start to its end" in path.read_text(encoding="utf-8"), path
        assert "clip of 8 s" in path.read_text(encoding="utf-8"), path


def test_a_night_in_which_the_clocks_are_put_back(tmp_path):
    about = About("night", LABELS, "n", 4.0, started=datetime(2026, 10, 25, 1, 30, tzinfo=BERLIN))
    results = [Result(1800.0 * k, 1800.0 * (k + 1), (1.0, 0.0, 0.0)) for k in range(6)]
    writers.write_csv(tmp_path / "results.csv", results, about)
    table = pandas.read_csv(tmp_path / "results.csv", skiprows=1)
    assert [clock[:5] for clock in table.clock] == ["01:30", "02:00", "02:30", "02:00", "02:30", "03:00"]
    assert [time[-6:] for time in table.time] == 3 * ["+02:00"] + 3 * ["+01:00"]
    assert about.clock(3 * 1800.0) == "02:00:00"


def test_of_an_overlap_the_first_file_is_named():
    """And of a file that lies in another the other."""
    places = (("a", 0, 8), ("b", 5, 20), ("c", 6, 9), ("d", 30, 40))
    files = tuple(FileSpan(name, start, end, 100.0, "x") for name, start, end in places)
    about = About("night", LABELS, "n", 4.0, files=files)
    named = [about.file_at(seconds) for seconds in (0, 5, 7.9, 8, 9.5, 19.9, 20, 29.9, 30, 40)]
    assert [span and span.file for span in named] == ["a", "a", "a", "b", "b", "b", None, None, "d", None]


def test_subtitles_of_one_file_are_in_its_time(tmp_path):
    """The recording begins with the first frame; the file has sound four seconds earlier."""
    span = FileSpan("night.mp4", -4.0, 40000.0, 40000.0, "its name")
    about = About("night", LABELS, "night.mp4", 4.0, files=(span,))
    writers.write_webvtt(tmp_path, TIMELINE, about)
    assert [caption.start for caption in webvtt.read(tmp_path / "labels.vtt")][:2] == ["00:00:04.000", "00:00:12.000"]
    assert about.clock(span.start) == "-0:00:04"


BARN = About("barn", ("lying", "eating", "at the wall"), "barn.mp4", 4.0, multi_label=True)
AT_ONCE = Timeline([Bout(0.0, 6.0, 0), Bout(0.0, 2.0, 2), Bout(4.0, 8.0, 1), Bout(8.0, 9.0, None)], 12.0)


def test_each_file_has_subtitles_of_its_own(tmp_path):
    """Whatever they are called: what replaces characters may make two names the same."""
    files = ["a.mp4", "a.mkv", "a.mp4.avi", "x\\y.mp4", "x_y.mp4", "X_Y.mp4", "b.mp4"]
    spans = tuple(FileSpan(name, start, start + 1, start + 1, "x") for start, name in enumerate(files))
    about = About("night", ("a",), "", 4.0, files=spans)
    writers.write_webvtt(tmp_path, Timeline([Bout(0, 7, 0)], 7.0), about)
    written = [path.name.casefold() for path in (tmp_path / "labels").iterdir()]
    assert len({*written}) == len(files)
    assert "b.vtt" in written


def test_several_classes_at_once(tmp_path):
    """Bouts overlap in every format; from 9 to 12 s no class is there."""
    writers.write_bouts(tmp_path / "bouts.csv", AT_ONCE, BARN)
    table = pandas.read_csv(tmp_path / "bouts.csv", skiprows=1)
    rows = list(zip(table.start_s, table.end_s, table.label, strict=True))
    assert rows == [(0, 6, "lying"), (0, 2, "at the wall"), (4, 8, "eating"), (8, 9, "unscored")]
    writers.write_edf(tmp_path / "annotations.edf", AT_ONCE, BARN)
    read = mne.read_annotations(tmp_path / "annotations.edf")
    found = sorted(zip(read.onset, read.onset + read.duration, read.description, strict=True))
    assert found == sorted(rows)
    writers.write_webvtt(tmp_path, AT_ONCE, BARN)
    captions = webvtt.read(tmp_path / "labels.vtt").captions
    assert [(c.start_in_seconds, c.end_in_seconds, c.raw_text) for c in captions] == rows
    writers.write_boris(tmp_path / "boris.csv", AT_ONCE, BARN)
    table = pandas.read_csv(tmp_path / "boris.csv")
    assert list(zip(table["Start (s)"], table["Stop (s)"], table["Behavior"], strict=True)) == rows[:3]
    assert set(table["Observation duration by subject by observation"]) == set(table["Media duration (s)"]) == {12.0}
    writers.write_edf(tmp_path / "annotations.edf", Timeline([], 12.0), BARN)
    (only,) = mne.read_annotations(tmp_path / "annotations.edf")
    assert (only["onset"], only["duration"], only["description"]) == (0, 12, "none")


def test_results_of_several_classes_at_once(tmp_path):
    rows = [((0.9, 0.1, 0.5), (0.2, 0.6, 0.1)), ((0.2, 0.2, 0.2), (0.2, 0.2, 0.2)), (None, None)]
    results = [Result(index, index + 1, *row, multi_label=True) for index, row in enumerate(rows)]
    writers.write_csv(tmp_path / "results.csv", results, BARN)
    table = pandas.read_csv(tmp_path / "results.csv", skiprows=1)
    assert list(table.label) == ["lying + at the wall", "none", "unscored"]
    assert list(table.smoothed_label) == ["eating", "none", "unscored"]
    writers.write_jsonl(tmp_path / "results.jsonl", results, BARN)
    header, *lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == [["lying", "at the wall"], [], None]
    assert [line["smoothed_label"] for line in lines] == [["eating"], [], None]
    assert "at least 0.5" in header["meaning"]


def test_names_of_classes_that_mean_something_else():
    with pytest.raises(ValueError, match="'unscored'"):
        About("night", ("up", "unscored"), "n", 4.0)
    with pytest.raises(ValueError, match="'none'"):
        About("night", ("up", "none"), "n", 4.0, multi_label=True)
    assert About("night", ("up", "none"), "n", 4.0).named((1,)) == "none"

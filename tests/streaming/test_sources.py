"""Which files a recording is of, in which order, and when they begin."""

import os
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from videoswin_keras.streaming.sources import Clocks, one_recording, single_recordings

START = datetime(2026, 11, 20, 21, 30, tzinfo=UTC)


@pytest.fixture
def card(tmp_path):
    """Two folders of files that hold nothing: only their names matter here."""
    for name in ("1/x.mp4", "1/y.mp4", "2/z.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_what_is_listed_and_there_is_not_missing(card):
    """Nor is it read if nobody gave it."""
    names = ("x.mp4", "y.mp4", "gone.mp4", "z.mp4", "later.mp4")
    listed = {name: START + timedelta(minutes=minute) for minute, name in enumerate(names)}
    source = one_recording("card", [card / "1/x.mp4", card / "2/z.mp4"], Clocks(UTC, listed=listed), True)
    assert [path.name for path in source.paths] == ["x.mp4", "gone.mp4", "z.mp4"]
    assert [start.moment - START for start in source.starts] == [timedelta(minutes=m) for m in (0, 2, 3)]


def test_a_start_that_is_given_leaves_no_doubt_about_a_name(card):
    name = card / "20261025_023000.mp4"
    name.touch()
    zone = ZoneInfo("Europe/Berlin")
    (start,) = Clocks(zone).of([name])
    assert "comes twice" in start.doubt
    (start,) = Clocks(zone, start=START).of([name])
    assert start.moment == START
    assert (start.doubt, start.source) == ("", "its name, and --start")
    (start,) = Clocks(zone, start=datetime(2026, 10, 25, 2, 30, tzinfo=zone)).of([card / "1/x.mp4"])
    assert "comes twice" in start.doubt


@pytest.mark.parametrize(
    "name",
    [
        "...mp4",
        "..mp4",
        "...",
        b"\xff.mp4",
        b"\xfe.mp4",
        "a\x1b[2J.mp4",
        "a\nb.mp4",
        251 * "x" + ".mp4",
        63 * "\U0001f416",
    ],
)
def test_results_stay_in_the_folder_that_is_named(tmp_path, name):
    """Whatever a file is called: its own folder lies in it, and can be made."""
    name = os.fsdecode(name)
    sources = [*single_recordings([tmp_path / name, tmp_path / "other.mp4"], Clocks(UTC))]
    sources.append(one_recording(name, [tmp_path / name], Clocks(UTC), True))
    for source in sources:
        (tmp_path / source.folder).mkdir(exist_ok=True)
        assert (tmp_path / source.folder).resolve().parent == tmp_path
        assert (source.name + source.folder).isprintable()


def test_names_that_are_no_text_are_told_apart(tmp_path):
    paths = [
        tmp_path / os.fsdecode(name)
        for name in (b"\xff.mp4", b"\xfe.mp4", 251 * b"x" + b"a.mp4", 251 * b"x" + b"b.mp4")
    ]
    assert len({source.folder for source in single_recordings(paths, Clocks(UTC))}) == 4


def test_a_folder_without_a_name(tmp_path):
    assert one_recording("", [tmp_path / "x.mp4"], Clocks(UTC), True).folder == "_"

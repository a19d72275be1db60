"""Which files a recording is of, in which order, and when they begin."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from videoswin_keras.streaming.sources import Clocks, one_recording

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

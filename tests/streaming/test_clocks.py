"""When files begin: names, lists, containers, and the nights in which the clocks change."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from videoswin_keras.streaming.clocks import Start, find_starts, in_name, read_moment, read_starts, read_zone

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    "name",
    [
        "20261120_213005.mp4",
        "2026-11-20_21-30-05.mkv",
        "2026-11-20 21.30.05.avi",
        "2026-11-20T21:30:05.ts",
        "20261120213005.dav",
        "PXL_20261120_213005123.mp4",
        "NVR_ch1_main_20261120213005_20261120223005.mp4",
        "barn 3_00_20261120213005.mp4",
        "2026.11.20-21.30.05-00.10.00[R][0@0][0].mp4",
        "20261120T203005Z.mp4",
        "sow12_2026-11-20_21h30m05.mp4",
        "2026-11-20T21-30-05+0100.mkv",
        "2026-11-20T15:30:05-05:00.mkv",
        "20261120_213005Zaun.mp4",
        "2026-11-20_21-30-05-0001.mp4",
        "cam_20261120T213005-0001.mp4",
        "2026-11-20 09.30.05 PM.mp4",
        "2026-11-20_09-30-05_pm.mp4",
    ],
)
def test_reads_the_usual_names(name):
    assert in_name(name, BERLIN) == datetime(2026, 11, 20, 21, 30, 5, tzinfo=BERLIN)


@pytest.mark.parametrize(
    "name",
    [
        "night.mp4",
        "20261120.mp4",
        "20261120_0012.mp4",
        "GH010042.MP4",
        "1234567890123456.mp4",
        "20261320_213005.mp4",
        "20000101_000012.mp4",
        "20261120_12-30fps.mp4",
        "20261120_00-12.mp4",
        "2026-11-20 13.30.05 pm.mp4",
    ],
)
def test_finds_no_time_where_there_is_none(name):
    assert in_name(name, BERLIN) is None


def test_reads_other_names_by_their_format():
    expected = datetime(2026, 11, 20, 21, 30, tzinfo=BERLIN)
    assert in_name("cam2_20.11.26-21h30_x.avi", BERLIN, "%d.%m.%y-%Hh%M") == expected
    assert in_name("front-1795206600.mp4", BERLIN, "%s") == datetime.fromtimestamp(1795206600, BERLIN)
    assert in_name("a 20 Nov 2026 09 PM.mp4", BERLIN, "%d %b %Y %I %p") == expected.replace(minute=0)
    assert in_name("20261120_203000+0000.mp4", BERLIN, "%Y%m%d_%H%M%S%z") == expected
    assert in_name("cam_1795206600_x.mp4", BERLIN, "cam_%s") == datetime.fromtimestamp(1795206600, BERLIN)
    assert in_name("other.avi", BERLIN, "%d.%m.%y-%Hh%M") is None
    assert in_name("01012000_0012.avi", BERLIN, "%d%m%Y_%H%M") is None  # a clock that was not set
    for wrong, message in (
        ("%H%M%S", "must give the date and the hour"),
        ("%Y%m%d_%I%M", "must give the date and the hour"),
        ("%Y%m%d_%Q", "has %Q"),
    ):
        with pytest.raises(ValueError, match=message):
            in_name("x.avi", BERLIN, wrong)


def test_the_hour_that_comes_twice_is_told_by_the_file_before():
    """2026-10-25: at 03:00 summer time it is 02:00 again."""
    names = ["20261025_013000", "20261025_023000", "20261025_020000", "20261025_023000", "20261025_030000"]
    starts = find_starts([Path(f"{name}.mp4") for name in names], lambda path: None, BERLIN)
    moments = [start.moment.astimezone(UTC) for start in starts]
    assert [moment - moments[0] for moment in moments] == [timedelta(minutes=m) for m in (0, 60, 90, 120, 150)]
    assert not any(start.doubt for start in starts)  # the order tells


@pytest.mark.parametrize(
    ("name", "expected", "said"),
    [
        ("20261025_023000", "2026-10-25 00:30", "begins at a time that comes twice that night"),
        ("20261025T003000Z", "2026-10-25 00:30", ""),
        ("20261025T023000+0200", "2026-10-25 00:30", ""),
        ("20260329_023000", "2026-03-29 01:30", "begins at a time that clocks leave out that night"),
        ("20261025_033000", "2026-10-25 02:30", ""),
    ],
)
def test_what_clocks_do_not_tell_is_said(name, expected, said):
    listed = {f"{name}.mp4": read_moment(f"{name[:8]} {name[9:]}", BERLIN)}
    for table, source in ((None, "its name"), (listed, "the table of starts")):
        (start,) = find_starts([Path(f"{name}.mp4")], lambda path: None, BERLIN, listed=table)
        assert start.moment.astimezone(UTC) == datetime.fromisoformat(f"{expected}+00:00")
        assert start.moment.tzinfo is BERLIN
        assert start.source == source
        assert start.doubt.startswith(said)
        assert bool(start.doubt) is bool(said)


def test_a_time_with_an_offset_is_never_moved():
    names = [Path("20261025T004000Z.mp4"), Path("20261025T003000Z.mp4")]
    moments = [start.moment.astimezone(UTC) for start in find_starts(names, lambda path: None, BERLIN)]
    assert moments == [datetime(2026, 10, 25, 0, minute, tzinfo=UTC) for minute in (40, 30)]


def test_sources_are_taken_in_order_and_never_mixed():
    named, plain = Path("20261120_213000.mp4"), Path("b.mp4")
    first, second = datetime(2026, 11, 20, 12, tzinfo=UTC), datetime(2026, 11, 20, 13, tzinfo=UTC)
    created = {named: first, Path("a.mp4"): first, plain: second}.get
    of_name = Start(datetime(2026, 11, 20, 21, 30, tzinfo=BERLIN), "its name")
    assert find_starts([named, plain], created, BERLIN) == [of_name, None]
    of_container = [Start(moment.astimezone(BERLIN), "its container") for moment in (first, second)]
    assert find_starts([Path("a.mp4"), plain], created, BERLIN) == of_container
    assert find_starts([plain, Path("a.mp4")], created, BERLIN) == [None, None]  # of a copy
    assert find_starts([plain, Path("a.mp4")], lambda path: first, BERLIN) == [None, None]
    assert find_starts([plain], lambda path: datetime(2000, 1, 1, tzinfo=UTC), BERLIN) == [None]  # it was not set
    listed = {"b.mp4": of_name.moment}
    assert find_starts([named, plain], created, BERLIN, listed=listed) == [
        None,
        Start(of_name.moment, "the table of starts"),
    ]
    with pytest.raises(ValueError, match=r"lacks 20261120_213000\.mp4"):
        find_starts([named], created, BERLIN, listed=listed)
    with pytest.raises(ValueError, match="Is --name-format right"):
        find_starts([plain], created, BERLIN, name_format="%Y-%m-%d-%H")


def test_a_table_of_starts(tmp_path):
    path = tmp_path / "starts.csv"
    path.write_text('\ufefffile;start;note\na.mp4;2026-11-20 21:30;x\n"b;1.mp4";2026-11-20T22:30:00+02:00;y\n')
    expected = {
        "a.mp4": datetime(2026, 11, 20, 21, 30, tzinfo=BERLIN),
        "b;1.mp4": datetime(2026, 11, 20, 20, 30, tzinfo=UTC),
    }
    assert read_starts(path, BERLIN) == expected
    moments = find_starts(
        [Path("card/a.mp4"), Path("card/2/c.mp4")],
        lambda path: None,
        BERLIN,
        listed=expected | {"2/c.mp4": expected["a.mp4"]},
    )
    assert [start.moment for start in moments] == [expected["a.mp4"]] * 2
    path.write_text("file,start\na.mp4,2026-11-20 21:30\na.mp4,2026-11-20 22:30\n")
    with pytest.raises(ValueError, match=r"line 3: a.mp4 is there twice"):
        read_starts(path, BERLIN)
    path.write_text("file,start\na.mp4,tonight\n")
    with pytest.raises(ValueError, match=r"line 2: expected .* Received: 'a.mp4', 'tonight'"):
        read_starts(path, BERLIN)
    path.write_text("a.mp4,2026-11-20 21:30\n")
    with pytest.raises(ValueError, match="must have the columns file and start"):
        read_starts(path, BERLIN)


def test_the_zone_of_this_machine_changes_its_clocks(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        zone, moment = read_zone(None), datetime(2026, 10, 24, 22, tzinfo=UTC)
        for hour in range(8):
            later = moment + timedelta(hours=hour / 2 + 1)
            assert later.astimezone(zone).isoformat() == later.astimezone(BERLIN).isoformat()
            assert later.astimezone(zone).astimezone(UTC) == later
    finally:
        monkeypatch.undo()
        time.tzset()


def test_zones_and_moments():
    assert read_zone("Europe/Berlin") == BERLIN
    assert read_moment("2026-11-20 21:30", read_zone("+01:00")) == datetime(2026, 11, 20, 20, 30, tzinfo=UTC)
    assert read_moment("2026-11-20T21:30:00-02:00", BERLIN) == datetime(2026, 11, 20, 23, 30, tzinfo=UTC)
    for wrong in ("Europe/Atlantis", "+30:00", "../etc/passwd"):
        with pytest.raises(ValueError, match="--zone must be a time zone"):
            read_zone(wrong)

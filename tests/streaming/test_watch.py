"""Several cameras at once, and a folder for each day."""

import itertools
import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas
import pytest
from test_camera import Script
from test_run import LABELS, SETTINGS, pictures, recurrent_model

from videoswin_keras.streaming.about import About
from videoswin_keras.streaming.camera import Camera
from videoswin_keras.streaming.journal import period_folder, periods
from videoswin_keras.streaming.run import Run
from videoswin_keras.streaming.stream import VideoStream
from videoswin_keras.streaming.timeline import Timeline, bouts
from videoswin_keras.streaming.watch import watch

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture(scope="module")
def model():
    return recurrent_model()


def camera(number, start, count=120, step=0.125):
    """Noise, a picture every eighth of a second, that is there all at once."""
    script, frames = Script(range(count), step=step), list(pictures(count, seed=number))
    script.now = start
    clocks = {"clock": lambda: script.now, "steady": lambda: script.now}
    camera = Camera("camera:0", fps=8, queue_size=10**6, wait=script.wait, **clocks)
    camera._read = lambda source: (lambda value=make: frames[int(value()[0, 0, 0])] for make in script.read(source))
    return camera


def run_of(stream, source, folder, resume=False):
    """A run whose camera has shown all that it will: a run says first how its pictures are to be prepared."""
    about = About(folder.name, LABELS, "camera:0", stream.fps, stream.clip_frames)
    run = Run(stream, source, folder, about, {"weights": "small"}, resume, save_every=1e-9, zone=BERLIN)
    filled(source)
    return run


def filled(source):
    source._run()
    source.close()
    return source


@pytest.mark.parametrize("counts", [(120,), (120, 120, 40), (17, 3)])
def test_cameras_at_once_give_what_each_gives_alone(model, tmp_path, counts):
    alone = VideoStream(model, **SETTINGS)
    stream = VideoStream(model, **SETTINGS, batch_size=len(counts))
    runs = []
    for number, count in enumerate(counts):
        runs.append(run_of(stream, camera(number, 1000.0 + number, count), tmp_path / f"camera{number}"))
    seen = {run.about.name: [] for run in runs}
    ended = []
    for run, result in watch(stream, runs, lambda run, error: ended.append(run) or run.finish()):
        seen[run.about.name].append(result)
    assert len(ended) == len(counts)
    for number, count in enumerate(counts):
        expected = list(alone(list(filled(camera(number, 1000.0 + number, count)).frames())))
        results = seen[f"camera{number}"]
        assert [(result.start, result.end) for result in results] == [(r.start, r.end) for r in expected]
        for result, other in zip(results, expected, strict=True):
            np.testing.assert_allclose(result.smoothed, other.smoothed, rtol=0, atol=2e-6)
        table = pandas.read_csv(tmp_path / f"camera{number}" / "results.csv", skiprows=1)
        assert table.time[0] == datetime.fromtimestamp(1000.125 + number, BERLIN).isoformat(timespec="milliseconds")


def test_a_folder_a_day_and_the_stream_goes_on(model, tmp_path):
    """The end of a day amid the stream: nothing is lost between."""
    stream = VideoStream(model, **SETTINGS)
    start = datetime(2026, 10, 24, 23, 59, 50, tzinfo=BERLIN).timestamp()
    whole = list(stream(list(filled(camera(0, start, 240)).frames())))
    run = run_of(stream, camera(0, start, 240), tmp_path / "2026-10-24_235950+0200")
    ended = []
    watched = watch(stream, [run], lambda run, error: ended.append(run) or run.finish(), roll=24)
    results = [result for _, result in watched]
    second = ended[1]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["2026-10-24_235950+0200", "2026-10-25_000000+0200"]
    assert second.about.started == datetime(2026, 10, 25, 0, 0, 0, 125_000, tzinfo=BERLIN)
    assert len(results) == len(whole)
    split = next(number for number, result in enumerate(results) if number and result.start < results[number - 1].start)
    offset = results[split - 1].end
    shifted = [(r.start + offset * (n >= split), r.end + offset * (n >= split)) for n, r in enumerate(results)]
    assert shifted == [(r.start, r.end) for r in whole]
    for result, other in zip(results, whole, strict=True):  # the memory and the window went on
        np.testing.assert_allclose(result.probabilities, other.probabilities, rtol=0, atol=2e-6)
    assert periods(tmp_path)[-1] == tmp_path / "2026-10-25_000000+0200"
    assert bouts((r.start, r.end, 0) for r in results[split:])[0].start == 0


def test_an_hour_that_comes_twice_has_two_folders(model, tmp_path):
    """Rolled each hour while the clocks are put back, a frame a minute."""
    stream = VideoStream(model, **SETTINGS | {"fps": 1 / 60}, longest_hold=90)
    start = datetime(2026, 10, 25, 1, 30, tzinfo=BERLIN).timestamp()
    run = run_of(stream, camera(0, start, 170, step=60), tmp_path / "2026-10-25_013000+0200")
    list(watch(stream, [run], lambda run, error: run.finish(), roll=1))
    names = [path.name for path in periods(tmp_path)]
    assert [(name[11:13], name[-5:]) for name in names] == [
        ("01", "+0200"),
        ("02", "+0200"),
        ("02", "+0100"),
        ("03", "+0100"),
    ]
    assert all((path / "report.html").exists() for path in periods(tmp_path))


@pytest.mark.parametrize("trouble", ["shows nothing", "fails", "cannot begin", "has no number"])
def test_a_camera_that_fails_ends_alone(model, tmp_path, trouble, monkeypatch):
    stream = VideoStream(model, **SETTINGS, batch_size=2)
    runs = [run_of(stream, camera(0, 1000.0, 120), tmp_path / "sound")]
    bad = camera(1, 1000.0, 0 if trouble == "shows nothing" else 20)
    runs.append(run_of(stream, bad, tmp_path / "bad"))
    if trouble == "fails":
        bad._error = RuntimeError("a bug of the driver")
    if trouble == "cannot begin":
        (runs[1].folder / "results_so_far.csv").mkdir()
    if trouble == "has no number":  # for the third clip of the second camera
        step, count = stream._step, iter(range(1000))

        def with_nan(after, tokens, states, batch_size=1):
            outputs = step(after, tokens, states, batch_size)
            if runs[1].state in states and next(count) == 2:
                outputs[states.index(runs[1].state)] = np.nan
            return outputs

        monkeypatch.setattr(stream, "_step", with_nan)
    ended = {}
    list(watch(stream, runs, lambda run, error: ended.update({run.about.name: error})))
    assert ended["sound"] is None
    assert runs[0].position == 14.5
    said = {
        "shows nothing": "No frame came",
        "fails": "a bug of the driver",
        "cannot begin": "Is a directory",
        "has no number": "The model gives nan for a clip that ends at 2.0 s",
    }
    assert said[trouble] in str(ended["bad"])


def test_what_was_lost_is_counted_on_after_a_stop(model, tmp_path):
    stream = VideoStream(model, **SETTINGS)
    for start, dropped, resume in ((1000.0, 7, False), (1020.0, 3, True)):
        source = camera(0, start, 80)
        run = run_of(stream, source, tmp_path / "camera", resume)
        source.dropped += dropped
        source.set_by -= 5.0 * (not resume)
        list(watch(stream, [run], lambda run, error: run.finish()))
    said = [problem.what for problem in run.about.problems]
    assert said[0] == "frames dropped: 10, outages: 2, since it was started"
    assert said[1].startswith("the clock was set by -5.0 s while it ran")


def test_folders_of_others_are_no_periods(tmp_path):
    for name in ("2026-10-25_000000+0200", "2026-10-24_235950+0200", "copy of monday"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.json").touch()
    assert [path.name for path in periods(tmp_path)] == ["2026-10-24_235950+0200", "2026-10-25_000000+0200"]


def test_a_period_without_results_leaves_nothing(model, tmp_path):
    """The camera is closed just after midnight."""
    stream, start = VideoStream(model, **SETTINGS), datetime(2026, 11, 20, 23, 59, 58, tzinfo=BERLIN).timestamp()
    for count in range(14, 24):
        folder = tmp_path / str(count) / "2026-11-20_235958+0100"
        run, ended = run_of(stream, camera(0, start, count), folder), []
        list(watch(stream, [run], lambda run, error, to=ended: to.append(error or run.finish()), roll=24))
        assert ended
        assert all(isinstance(end, Timeline) for end in ended)
        assert all((path / "report.html").exists() for path in periods(folder.parent))


def test_a_camera_that_was_stopped_goes_on_in_its_last_folder(model, tmp_path):
    stream = VideoStream(model, **SETTINGS)
    start = datetime(2026, 11, 20, 23, 59, 50, tzinfo=BERLIN).timestamp()
    run = run_of(stream, camera(0, start, 160), tmp_path / "2026-11-20_235950+0100")
    list(watch(stream, [run], lambda run, error: run.finish(), roll=24))
    assert periods(tmp_path)[-1].name == "2026-11-21_000000+0100"
    # Stopped at 00:00:10; on at 00:00:30: in the same folder, after a gap.
    again = run_of(stream, camera(1, start + 40, 80), periods(tmp_path)[-1], resume=True)
    assert again.position == pytest.approx(9.5, abs=1)
    list(watch(stream, [again], lambda run, error: run.finish(), roll=24))
    table = pandas.read_csv(tmp_path / "2026-11-21_000000+0100" / "results.csv", skiprows=1)
    assert (table.end_s.to_numpy()[:-1] == table.start_s.to_numpy()[1:]).all()
    gap = table[table.label == "unscored"]
    assert gap.end_s.max() - gap.start_s.min() == pytest.approx(20, abs=2)
    last = datetime.fromisoformat(table.time.iloc[-1]) + timedelta(
        seconds=table.end_s.iloc[-1] - table.start_s.iloc[-1]
    )
    assert last.timestamp() == pytest.approx(start + 50, abs=0.5)
    settings = json.loads((tmp_path / "2026-11-21_000000+0100" / "settings.json").read_text())
    assert settings["is_finished"]


@pytest.mark.parametrize("days", [0.01, 3])
def test_a_camera_is_back_after_days(model, tmp_path, days):
    stream, start = VideoStream(model, **SETTINGS), datetime(2026, 11, 20, 22, tzinfo=BERLIN).timestamp()
    for begin, resume in ((start, False), (start + days * 86400, True)):
        run = run_of(stream, camera(0, begin, 80), tmp_path / "camera", resume)
        list(watch(stream, [run], lambda run, error: run.finish()))
    table = pandas.read_csv(tmp_path / "camera" / "results.csv", skiprows=1)
    last = table.iloc[-1]
    moment = datetime.fromisoformat(last.time).timestamp() + last.end_s - last.start_s
    assert moment == pytest.approx(start + days * 86400 + 10, abs=0.5)
    assert last.smoothed_label in LABELS


def test_a_camera_whose_clock_is_set_by_days_goes_on(model, tmp_path, caplog):
    """A small computer without a clock of its own, until the network tells it the time."""
    stream, source = VideoStream(model, **SETTINGS), camera(0, 1000.0, 160)
    clock, calls = source._clock, iter(range(10**6))
    source._clock = lambda: clock() + (next(calls) > 80) * 3 * 86400.0
    with caplog.at_level("ERROR"):
        run = run_of(stream, source, tmp_path / "camera")
        results = [result for _, result in watch(stream, [run], lambda run, error: run.finish())]
    assert results[-1].end == pytest.approx(20, abs=0.5)
    assert None not in [result.label for result in results]


def test_files_and_console_show_the_same_clock_when_it_is_put_back(model, tmp_path):
    """From 02:59:50 summer time: ten seconds later it is 02:00:00."""
    stream = VideoStream(model, **SETTINGS)
    start = datetime(2026, 10, 25, 0, 59, 50, tzinfo=UTC).timestamp()
    run = run_of(stream, camera(0, start, 160), tmp_path / "camera")
    console = [run.about.clock(result.end) for _, result in watch(stream, [run], lambda run, error: run.finish())]
    assert (console[0], console[-1]) == ("02:59:51", "02:00:10")
    table = pandas.read_csv(tmp_path / "camera" / "results.csv", skiprows=1)
    moments = [datetime.fromisoformat(text) for text in table.time]
    assert all((two - one).total_seconds() == pytest.approx(0.5, abs=0.51) for one, two in itertools.pairwise(moments))
    assert {moment.utcoffset() for moment in moments} == {timedelta(hours=2), timedelta(hours=1)}
    assert next(clock for clock in table.clock if clock < "02:30") == "02:00:00"


def test_folders_of_periods_are_called_by_their_date(tmp_path):
    assert period_folder(tmp_path, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)).name == "2026-01-02_030405+0000"
    assert periods(tmp_path) == []

"""`videoswin stream`, as a user types it."""

import functools
import html
import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import av
import numpy as np
import pandas
import pytest
import webvtt
from test_camera import Script

from videoswin_keras.cli.main import main
from videoswin_keras.data.synthetic import MOTIONS, moving_shape
from videoswin_keras.streaming.camera import Camera
from videoswin_keras.streaming.journal import Journal
from videoswin_keras.streaming.run import Run
from videoswin_keras.video.decode import iter_frames
from videoswin_keras.video.encode import write_video

PICO = ["--weights", "pico_moving_shapes", "--fps", "8"]


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Forty seconds: a shape that moves left, turns, and grows."""
    path = tmp_path_factory.mktemp("night") / "night.mp4"
    clips = [moving_shape(motion, seed=10**6 + motion, frames=112, size=64) for motion in (0, 4, 6)]
    write_video(path, np.concatenate(clips), rate=8)
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("**/[!.]*") if path.is_file()}


def test_a_recording(night, tmp_path, capsys):
    start = ["--start", "2026-11-20 21:30"]
    assert main(["stream", str(night), *PICO, "--out", str(tmp_path / "out"), "--annotate", *start]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"night: 42 s, see {tmp_path / 'out' / 'night'}"
    bouts = pandas.read_csv(tmp_path / "out" / "night" / "bouts.csv", skiprows=1)
    assert list(bouts.label) == [MOTIONS[0], MOTIONS[4], MOTIONS[6]]
    np.testing.assert_allclose(bouts.start_s, [0, 14, 28], atol=1.5)
    assert bouts.clock[0] == "21:30:00"
    with av.open(str(tmp_path / "out" / "night" / "annotated.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 336

    before = contents(tmp_path / "out" / "night")
    assert main(["stream", str(night), *PICO, "--out", str(tmp_path / "out"), *start]) == 2
    assert "holds results already" in capsys.readouterr().err
    again = ["stream", str(night), *PICO, "--out", str(tmp_path / "out"), "--annotate", "--resume"]
    assert main([*again, *start]) == 0
    assert "done already" in capsys.readouterr().out
    assert main([*again, *start, "--smooth", "3"]) == 1
    assert "smooth: 9 there, 3 now" in capsys.readouterr().err
    assert contents(tmp_path / "out" / "night") == before


def test_ctrl_c_and_resume(night, tmp_path, capsys, monkeypatch):
    results = Run.results

    def interrupted(self):
        for count, result in enumerate(results(self)):
            if count == 20:
                raise KeyboardInterrupt
            yield result

    command = ["stream", str(night), *PICO, "--save-every", "1e-9", "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(Run, "results", interrupted)
    assert main([*command, str(tmp_path / "stopped")]) == 130
    assert "--resume goes on from there" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*command, str(tmp_path / "stopped"), "--resume"]) == 0
    assert "night: goes on at " in capsys.readouterr().err
    assert contents(tmp_path / "stopped" / "night") == contents(tmp_path / "whole" / "night")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_where_python_drops_the_exception(night, tmp_path, capsys, monkeypatch):
    """In a finalizer, as in a callback of the garbage collector."""
    results = Run.results

    class Interrupting:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def interrupted(self):
        for count, result in enumerate(results(self)):
            if count == 20:
                Interrupting()  # and gone at once
            yield result

    monkeypatch.setattr(Run, "results", interrupted)
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background has not
    try:
        assert main(["stream", str(night), *PICO, "--out", str(tmp_path)]) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert "--resume goes on from there" in capsys.readouterr().err


def test_a_folder_of_recordings_some_damaged(night, tmp_path, capsys):
    folder = tmp_path / "card"
    folder.mkdir()
    write_video(folder / "part10.mp4", moving_shape(1, seed=5, frames=40, size=64), rate=8)
    write_video(folder / "part2.mp4", moving_shape(0, seed=5, frames=3, size=(96, 64)), rate=8)  # three frames, upright
    (folder / "part3.mp4").touch()
    with av.open(str(folder / "part4.mp4"), "w") as sound:
        stream = sound.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), "float32"), format="fltp", layout="mono")
        frame.sample_rate = 44100
        sound.mux(stream.encode(frame))
        sound.mux(stream.encode(None))
    (folder / "part5.mp4").write_bytes(night.read_bytes()[:20_000])
    assert main(["stream", str(folder), *PICO, "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert [line.split(":")[0] for line in captured.out.splitlines() if not line.startswith(" ")] == ["part2", "part10"]
    assert "part3.mp4 is empty" in captured.err
    assert "part4.mp4 has no video stream; it holds audio" in captured.err
    assert "part5.mp4 is not a readable video" in captured.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["part10", "part2"]
    short = pandas.read_csv(tmp_path / "out" / "part2" / "results.csv", skiprows=1)
    assert list(short.end_s) == [0.375]


@pytest.fixture(scope="module")
def barn(tmp_path_factory):
    """A night of six files of 20 s, each a motion of its own, while the clocks are put back; with what goes wrong.

    The first begins at 02:59:30 summer time. The second is missing, the third unreadable, the fourth breaks off after
    half of its bytes, and the sixth begins 6 s before the end of the fifth.
    """
    folder = tmp_path_factory.mktemp("barn")
    begins = datetime(2026, 10, 25, 0, 59, 30, tzinfo=UTC)
    for number, (motion, second) in enumerate(zip((0, 1, 2, 3, 4, 6), (0, 20, 40, 60, 80, 94), strict=True)):
        moment = (begins + timedelta(seconds=second)).astimezone(ZoneInfo("Europe/Berlin"))
        path = folder / f"cam2_{moment:%Y-%m-%d_%H-%M-%S}.mkv"
        if number != 1:
            write_video(path, moving_shape(motion, seed=10**6 + motion, frames=160, size=64), rate=8)
        if number == 2:
            path.write_bytes(b"nothing")
        if number == 3:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return folder


NAMES = [f"cam2_2026-10-25_{clock}.mkv" for clock in ("02-59-30", "02-00-10", "02-00-30", "02-00-50", "02-01-04")]


def test_joined_files_keep_the_clock_of_the_barn(barn, tmp_path, capsys):
    """Files in the folder are in the order of time, not of their names: 02:00:10 comes after 02:59:30."""
    command = ["stream", str(barn), "--join", *PICO, "--zone", "Europe/Berlin", "--out", str(tmp_path)]
    assert main(command) == 1  # parts could not be read
    out = tmp_path / barn.name
    table = pandas.read_csv(out / "results.csv", skiprows=1)
    moments = [datetime.fromisoformat(text) for text in table.time]
    begins = datetime(2026, 10, 25, 2, 59, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    elapsed = [moment.timestamp() - begins.timestamp() for moment in moments]
    np.testing.assert_allclose(elapsed, table.start_s, atol=1e-3)
    assert table.end_s.iloc[-1] == pytest.approx(114, abs=0.2)
    # What the model says is what was to be seen then, but for seconds beside the changes.
    middle = (table.start_s + table.end_s) / 2
    for motion, start, end in ((0, 2, 18), (3, 63, 66), (4, 84, 98), (6, 104, 114)):
        labels = table.smoothed_label[(middle > start) & (middle < end)]
        assert (labels == MOTIONS[motion]).mean() > 0.8, (motion, list(labels))
    for start, end in ((23, 60), (75, 80)):
        assert set(table.smoothed_label[(table.end_s > start) & (table.start_s < end)]) == {"unscored"}
    # Each result names its file and the time in it.
    for file, start in zip(NAMES, (0, 40, 60, 80, 94), strict=True):
        rows = table[table.file == file]
        assert len(rows) > 5 or file == NAMES[1]
        np.testing.assert_allclose(rows.file_s, rows.start_s - start, atol=2e-3)
    # What went wrong is in the report, the settings and what is printed.
    outcome = json.loads((out / "settings.json").read_text())["outcome"]
    said = {problem["file"]: problem["what"] for problem in outcome["problems"]}
    assert list(said) == [NAMES[1], NAMES[2], NAMES[4]]
    assert "is left out" in said[NAMES[1]]
    assert "it says 20.0 s" in said[NAMES[2]]
    assert "overlaps the file before by 6 s" in said[NAMES[4]]
    page, printed = (out / "report.html").read_text(), capsys.readouterr()
    for file, what in said.items():
        assert f"{file} {what}" in printed.out
        assert printed.err.count(f"{file} {what}") <= 1
        assert html.escape(what) in page
    assert page.index("<img") < page.index("What went wrong") < page.index("How this was made")
    assert "02:00:10" in page
    boris = pandas.read_csv(out / "boris.csv")
    assert {NAMES[0], NAMES[3]} <= set(boris["Media file name"])
    captions = webvtt.read(out / "labels" / f"{NAMES[3].removesuffix('.mkv')}.vtt").captions
    assert (captions[0].start, captions[-1].end) == ("00:00:00.000", "00:00:20.000")
    assert main([*command, "--resume"]) == 1  # done already, and still not all could be read


def test_a_table_of_starts_and_a_file_of_it_that_is_missing(barn, tmp_path, capsys):
    rows = zip(NAMES, ("21:00:00", "21:01:00", "21:02:00", "21:03:00", "21:04:00"), strict=True)
    listed = [f"{name},2026-11-20 {clock}" for name, clock in rows]
    # The second is nowhere; the third is there, and was not asked for.
    lines = ["file,start", listed[0], "gone.mkv,2026-11-20 21:00:40", *listed[2:]]
    (tmp_path / "starts.csv").write_text("\n".join(lines))
    files = [str(barn / name) for name in (NAMES[0], NAMES[3], NAMES[4])]
    command = [
        "stream",
        *files,
        "--join",
        *PICO,
        "--start",
        str(tmp_path / "starts.csv"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(command) == 1
    assert "gone.mkv is left out: No video file" in capsys.readouterr().out
    (out,) = (tmp_path / "out").iterdir()
    spans = json.loads((out / "settings.json").read_text())["outcome"]["recordings"]
    assert [(span["file"], span["start"]) for span in spans] == [(NAMES[0], 0), (NAMES[3], 180), (NAMES[4], 240)]
    assert {span["source"] for span in spans} == {"the table of starts"}


def test_files_apart_have_their_own_clocks(barn, tmp_path):
    files = [str(barn / name) for name in (NAMES[0], NAMES[3])]
    assert main(["stream", *files, *PICO, "--zone", "+01:00", "--out", str(tmp_path)]) == 0
    for name in (NAMES[0], NAMES[3]):
        table = pandas.read_csv(tmp_path / name.removesuffix(".mkv") / "results.csv", skiprows=1)
        assert table.time[0] == f"{name[5:15]}T{name[16:24].replace('-', ':')}.000+01:00"


def test_start_moves_all_clocks_and_keeps_their_distances(barn, tmp_path):
    command = ["stream", str(barn), "--join", *PICO, "--zone", "UTC", "--out", str(tmp_path), "--name-format"]
    assert main([*command, "cam2_%Y-%m-%d_%H-%M-%S", "--start", "2026-11-20 21:30"]) == 1
    outcome = json.loads((tmp_path / barn.name / "settings.json").read_text())["outcome"]
    # In UTC 02:00:10 is the first, which cannot be read, and 02:59:30 the last.
    assert outcome["started"] == "2026-11-20T21:30:20.000+00:00"
    assert [span["start"] for span in outcome["recordings"]] == [0, 20, 34, 3540]


def test_files_by_hand_keep_their_order(night, tmp_path, capsys, caplog):
    for name in ("b", "a"):
        (tmp_path / f"{name}.mp4").write_bytes(night.read_bytes())
    files = [str(tmp_path / "b.mp4"), str(tmp_path / "a.mp4")]
    assert main(["stream", *files, "--join", *PICO, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("b: 1 min 24 s, see")
    bouts = pandas.read_csv(tmp_path / "out" / "b" / "bouts.csv", skiprows=1)
    assert list(bouts.label) == 2 * [MOTIONS[0], MOTIONS[4], MOTIONS[6]]
    assert list(bouts.file) == 3 * ["b.mp4"] + 3 * ["a.mp4"]


def test_a_time_lapse_is_scored(tmp_path, capsys):
    """A picture every 5 s: at 0.2 per second all is scored; at 4 per second it is refused."""
    pictures = moving_shape(0, seed=10**6, frames=60, size=64)
    write_video(tmp_path / "lapse.mp4", pictures, rate=Fraction(1, 5))
    command = ["stream", str(tmp_path / "lapse.mp4"), "--weights", "pico_moving_shapes", "--out"]
    assert main([*command, str(tmp_path / "a"), "--fps", "4"]) == 2
    assert "--fps 4 is more than 4 times the 0.2 frames per second" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "b"), "--fps", "0.2"]) == 0
    table = pandas.read_csv(tmp_path / "b" / "lapse" / "results.csv", skiprows=1)
    assert set(table.label) == {MOTIONS[0]}
    assert main([*command, str(tmp_path / "c"), "--fps", "0.2", "--hold", "2"]) == 0
    table = pandas.read_csv(tmp_path / "c" / "lapse" / "results.csv", skiprows=1)
    assert table.end_s.iloc[-1] == 300


def test_a_table_in_its_order_tells_which_hour_is_meant(barn, tmp_path):
    """While the clocks are put back; the files lie in a folder, and say nothing about when they were written."""
    folder = tmp_path / "card"
    folder.mkdir()
    clocks = {"c.mkv": "02:59:30", "a.mkv": "02:00:30", "b.mkv": "02:00:50"}
    for name, other in zip(clocks, (NAMES[0], NAMES[3], NAMES[4]), strict=True):
        (folder / name).write_bytes((barn / other).read_bytes())
        os.utime(folder / name, (0, 0))
    table = "\n".join(["file,start", *(f"{name},2026-10-25 {clock}" for name, clock in clocks.items())])
    (tmp_path / "starts.csv").write_text(table)
    command = [
        "stream",
        str(folder),
        "--join",
        *PICO,
        "--zone",
        "Europe/Berlin",
        "--start",
        str(tmp_path / "starts.csv"),
    ]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    spans = json.loads((tmp_path / "out" / "card" / "settings.json").read_text())["outcome"]["recordings"]
    assert [(span["file"], span["start"]) for span in spans] == [("c.mkv", 0), ("a.mkv", 60), ("b.mkv", 80)]


def test_what_it_has_written_is_no_recording(barn, tmp_path, capsys):
    """Results beside the videos; the annotated video is asked for afterwards, and its first second has a fraction."""
    (tmp_path / "a.mkv").write_bytes((barn / NAMES[0]).read_bytes())
    command = ["stream", str(tmp_path), *PICO, "--start", "2026-11-20 21:30:15.5", "--zone", "UTC", "--out"]
    assert main([*command, str(tmp_path / "results")]) == 0
    assert main([*command, str(tmp_path / "results"), "--resume", "--annotate"]) == 0
    assert (tmp_path / "results" / "a" / "annotated.mp4").exists()
    assert main([*command, str(tmp_path / "others")]) == 0
    assert [path.name for path in (tmp_path / "others").iterdir()] == ["a"]
    assert main([*command, str(tmp_path / "results"), "--resume", "--annotate"]) == 0
    assert "done already" in capsys.readouterr().out
    table = pandas.read_csv(tmp_path / "others" / "a" / "results.csv", skiprows=1)
    assert table.time[0] == "2026-11-20T21:30:15.500+00:00"


def test_an_annotated_video_of_less_does_not_stay(tmp_path, capsys):
    """Of a file that has grown since, and was gone on with without one."""
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.ts", moving_shape(0, seed=10**6, frames=80, size=64), rate=8)
    (tmp_path / "night").mkdir()
    night, whole = tmp_path / "night" / "night.ts", (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    video = tmp_path / "out" / "night" / "annotated.mp4"
    command = ["stream", str(night), *PICO, "--out", str(tmp_path / "out"), "--resume"]
    night.write_bytes((tmp_path / "a.ts").read_bytes())
    assert main([*command, "--annotate"]) == 0
    less = sum(1 for _ in iter_frames(video))
    night.write_bytes(whole)
    main(command)
    assert not video.exists()
    main([*command, "--annotate"])
    assert sum(1 for _ in iter_frames(video)) == pytest.approx(2 * less, abs=2)


def test_damage_is_said_once(barn, tmp_path, capsys):
    assert main(["stream", str(barn / NAMES[2]), *PICO, "--annotate", "--out", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("breaks off") == 1
    (out,) = tmp_path.iterdir()
    assert "breaks off" in (out / "report.html").read_text()


def test_the_picture_changes_its_size(tmp_path):
    """In mid-file, as a stream that was recorded while the camera was set anew."""
    for name, size in (("a", (64, 64)), ("b", (96, 128))):
        write_video(tmp_path / f"{name}.h264", moving_shape(0, seed=10**6, frames=50, size=size), rate=25)
    joined = (tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes()
    (tmp_path / "both.h264").write_bytes(joined)
    command = ["stream", str(tmp_path / "both.h264"), "--weights", "pico_moving_shapes", "--fps", "25", "--annotate"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    results = pandas.read_csv(tmp_path / "out" / "both" / "results.csv", skiprows=1)
    assert results.end_s.max() == 4.0
    assert (results.label == MOTIONS[0]).mean() > 0.7


@pytest.mark.parametrize("stop", ["at the end", "by a signal"])
def test_a_camera(tmp_path, monkeypatch, capsys, stop):
    pictures = moving_shape(0, seed=10**6, frames=112, size=64)
    script = Script(range(112), step=0.125)

    def read(source):
        for index in range(112):
            script.now += 0.125
            yield lambda index=index: pictures[index]
        if stop == "by a signal":
            os.kill(os.getpid(), signal.SIGTERM)

    settings = {"read": read, "clock": lambda: script.now, "wait": lambda seconds: stop == "at the end"}
    monkeypatch.setattr(Camera, "__init__", functools.partialmethod(Camera.__init__, queue_size=1000, **settings))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["stream", "rtsp://user:secret@10.0.0.7/1", *PICO, "--out", str(tmp_path)]) == 0
    assert signal.getsignal(signal.SIGTERM) == before
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert "moving left" in lines[5]
    assert "s behind" in lines[5]
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("rtsp_10_0_0_7_1-")
    assert not any(b"secret" in content for content in contents(folder).values())
    assert "secret" not in captured.out + captured.err
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["source"] == "rtsp://10.0.0.7/1"


def test_a_camera_for_some_hours(tmp_path, monkeypatch):
    def endless(source):
        while True:
            yield lambda: np.zeros((64, 64, 3), "uint8")

    monkeypatch.setattr(Camera, "__init__", functools.partialmethod(Camera.__init__, read=endless))
    assert main(["stream", "camera:0", *PICO, "--out", str(tmp_path), "--hours", "0.0001"]) == 0
    (folder,) = tmp_path.iterdir()
    assert pandas.read_csv(folder / "results.csv", skiprows=1).end_s.max() < 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.mp4"], "No video file at absent.mp4"),
        (["{empty}"], "no video files in the folder"),
        (["{video}", "--fps", "0"], "`fps`"),
        (["{video}", "--fps", "900"], "--fps 900 is more than 4 times"),
        (["{video}", "{video}", "--join"], "A file is given twice"),
        (["{video}", "--stride", "17"], "`stride` must not exceed `clip_frames`"),
        (["{video}", "--smooth", "100"], "from 1 (none) to 99"),
        (["{video}", "--batch-size", "0"], "`batch_size` must be at least 1"),
        (["{video}", "--save-every", "0"], "--save-every must be positive"),
        (["{video}", "--hold", "inf"], "--hold must be positive and finite"),
        (["{video}", "--classes", "{video}"], "--classes must be a text file"),
        (["{video}", "--classes", "{gaps}"], "No class may be called 'unscored'"),
        (["{video}", "--classes", "{names}"], "8 classes, but the list of class names has 2"),
        (["{video}", "--start", "tonight"], "--start must be a date and time"),
        (["{video}", "{video}", "--start", "2026-11-20"], "--start with a date and time is for one recording"),
        (["{video}", "{video}"], "Two recordings would have the folder"),
        (["{video}", "--hours", "1"], "--hours is for a camera"),
        (["camera:0", "--hours", "0"], "--hours must be positive"),
        (["camera:0", "--join"], "--join is for recordings, not for a camera"),
        (["camera:0", "--input-rate", "4"], "--input-rate is for recordings, not for a camera"),
        (
            ["htp://x/y", "--hours", "1"],
            "htp://x/y is no address of a camera: those begin with http://, https://, rtmp",
        ),
        ([""], "A path is empty"),
        (["{video}", "--start", "starts.csv"], "Received: 'starts.csv', and there is no such file"),
        (["camera:0", "{video}"], "Cameras, or files, but not both"),
        (["{video}", "--device", "foo"], "--device foo"),
        (["{video}", "--weights", "{video}"], "is not a checkpoint"),
        (["{video}", "--out", "{names}"], "cannot be written to"),
        (["{video}", "--out", "{names}/below"], "cannot be written to"),
    ],
)
def test_errors(arguments, message, night, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "gaps.txt").write_text("\n".join(["unscored", *MOTIONS[1:]]))
    places = {name: tmp_path / f"{name}.txt" for name in ("names", "gaps")}
    places |= {"video": night, "empty": tmp_path / "empty"}
    arguments = [argument.format(**places) for argument in arguments]
    assert main(["stream", *PICO, "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_name_of_dots_and_an_out_like_an_address(tmp_path, monkeypatch, capsys):
    """A file has its own folder in --out, and FFmpeg writes to a file."""
    monkeypatch.chdir(tmp_path)
    write_video("...mp4", moving_shape(0, seed=5, frames=24, size=64), rate=8)
    assert main(["stream", "...mp4", *PICO, "--out", "http:/127.0.0.1/x", "--annotate"]) == 0
    assert capsys.readouterr().out.startswith(f"..: 3 s, see {Path('http:/127.0.0.1/x/__')}")
    assert len(list(iter_frames("http:/127.0.0.1/x/__/annotated.mp4"))) == 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["...mp4", "http:"]
    assert [path.name for path in (tmp_path / "http:/127.0.0.1/x").iterdir()] == ["__"]


def test_a_full_disk_is_said_and_nothing_is_lost(night, tmp_path):
    """The disk takes files of 60,000 bytes."""
    command = ["stream", str(night), *PICO, "--save-every", "1e-9", "--out"]
    limited = f"""
import os, resource, sys
from videoswin_keras.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
code = main({[*command, str(tmp_path / "full")]!r})
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)  # backends write on the way out
"""
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    result = subprocess.run([sys.executable, "-c", limited], env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert f"There is no room left to write {tmp_path / 'full' / 'night'}" in result.stderr
    assert "Make room there" in result.stderr
    assert main([*command, str(tmp_path / "whole")]) == 0
    assert main([*command, str(tmp_path / "full"), "--resume"]) == 0
    assert contents(tmp_path / "full" / "night") == contents(tmp_path / "whole" / "night")


def test_cameras_that_differ_only_after_the_question_mark_are_two(tmp_path, monkeypatch, capsys):
    """Also by a stream's number, and by the host where an "@" stands in the path."""
    monkeypatch.setattr(Camera, "__init__", functools.partialmethod(Camera.__init__, **scripted(40, 0)))
    addresses = [f"rtsp://user:secret@10.0.0.7/live?channel={number}" for number in (1, 2)]
    addresses += [f"rtsp://10.0.0.{number}/stream@1" for number in (8, 9)]
    assert main(["stream", *addresses, *PICO, "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.iterdir())) == 4
    names = sorted(path.name.rpartition("-")[0] for path in tmp_path.iterdir())
    assert names == 2 * ["rtsp_10_0_0_7_live"] + ["rtsp_10_0_0_8_stream_1", "rtsp_10_0_0_9_stream_1"]
    lines = capsys.readouterr().out.splitlines()
    shown = {line.partition("  ")[0] for line in lines if "behind" in line}
    assert len(shown) == 4  # each line says which it is of
    assert "rtsp://10.0.0.8/stream@1" in shown
    assert not any("secret" in name for name in shown)
    assert sum(line.startswith("rtsp://10.0.0.8/stream@1  ") for line in lines) >= 3
    assert main(["stream", addresses[0], addresses[0], *PICO, "--out", str(tmp_path / "twice")]) == 2
    assert "A camera is given twice" in capsys.readouterr().err
    (damaged,) = tmp_path.glob("rtsp_10_0_0_9*")
    (damaged / "settings.json").write_text("[]")
    monkeypatch.setattr(Camera, "__init__", functools.partialmethod(Camera.__init__, **scripted(40, 60)))
    assert main(["stream", *addresses[2:], *PICO, "--out", str(tmp_path), "--resume"]) == 1
    assert "is damaged" in capsys.readouterr().err
    (other,) = tmp_path.glob("rtsp_10_0_0_8*")
    assert pandas.read_csv(other / "results.csv", skiprows=1).end_s.iloc[-1] > 60


def test_a_camera_that_was_stopped_goes_on(tmp_path, monkeypatch, capsys):
    command = ["stream", "camera:0", *PICO, "--out", str(tmp_path)]
    for start, more in ((0, []), (60, ["--resume"])):
        with monkeypatch.context() as patch:
            patch.setattr(Camera, "__init__", functools.partialmethod(Camera.__init__, **scripted(40, start)))
            assert main([*command, *more]) == 0
            if not more:
                assert main(command) == 2
                assert "Go on with them (--resume)" in capsys.readouterr().err
    (folder,) = tmp_path.iterdir()
    table = pandas.read_csv(folder / "results.csv", skiprows=1)
    assert table.end_s.iloc[-1] == pytest.approx(65, abs=0.5)
    assert "goes on in" in capsys.readouterr().err


def scripted(count, start):
    """Arguments of a camera that shows a moving shape, eight pictures a second, from some seconds on."""
    pictures = moving_shape(0, seed=10**6, frames=count, size=64)

    def read(source):
        for index in range(count):
            clock.now = start + 0.125 * (index + 1)
            yield lambda index=index: pictures[index]

    clock = threading.local()  # each camera is read in a thread of its own
    now = lambda: 1_795_206_600.0 + getattr(clock, "now", start)  # noqa: E731
    return {"read": read, "clock": now, "steady": now, "wait": lambda seconds: True, "queue_size": 1000}


def test_a_night_that_is_still_being_recorded_is_gone_on_with(barn, tmp_path, capsys):
    """A folder of files with clocks, of which another arrives."""
    folder = tmp_path / "card"
    folder.mkdir()
    command = ["stream", str(folder), "--join", *PICO, "--zone", "Europe/Berlin", "--out"]
    for name in (NAMES[3], NAMES[4]):
        (folder / name).write_bytes((barn / name).read_bytes())
        assert main([*command, str(tmp_path / "out"), "--resume"]) in {0, 1}
    assert "goes on at" in capsys.readouterr().err
    main([*command, str(tmp_path / "whole")])
    of_grown, of_whole = contents(tmp_path / "out" / "card"), contents(tmp_path / "whole" / "card")
    del of_grown["settings.json"], of_whole["settings.json"]
    assert of_grown == of_whole


def test_a_camera_gets_a_folder_a_day(tmp_path, monkeypatch, capsys):
    start = datetime(2026, 11, 20, 23, 59, 50, tzinfo=UTC).timestamp() - 1_795_206_600.0
    command = ["stream", "camera:0", *PICO, "--zone", "UTC", "--roll", "24h", "--out", str(tmp_path)]
    monkeypatch.setattr(Camera, "__init__", functools.partialmethod(Camera.__init__, **scripted(160, start)))
    assert main(command) == 0
    (camera,) = tmp_path.iterdir()
    assert sorted(path.name for path in camera.iterdir()) == ["2026-11-20_235950+0000", "2026-11-21_000000+0000"]
    assert all((path / "report.html").exists() for path in camera.iterdir())
    assert main([*command, "--resume"]) == 0
    assert "goes on in" in capsys.readouterr().err


def test_an_old_folder_does_not_stop_a_camera(tmp_path, monkeypatch, capsys):
    """Of earlier days one was never finished, and one is damaged."""
    start = datetime(2026, 11, 20, 23, 59, 50, tzinfo=UTC).timestamp() - 1_795_206_600.0
    command = ["stream", "camera:0", *PICO, "--zone", "UTC", "--roll", "24h", "--out", str(tmp_path)]
    monkeypatch.setattr(Camera, "__init__", functools.partialmethod(Camera.__init__, **scripted(160, start)))
    journal_finish = Journal.finish
    monkeypatch.setattr(Journal, "finish", lambda self, write, outcome: write())  # killed before it says so
    assert main(command) == 0
    monkeypatch.setattr(Journal, "finish", journal_finish)
    (camera,) = tmp_path.iterdir()
    first, second = sorted(camera.iterdir())
    (first / "report.html").unlink()
    capsys.readouterr()
    assert main(command) == 2
    assert "2026-11-20_235950+0000 holds results already" in capsys.readouterr().err
    (camera / "2026-11-19_000000+0000").mkdir()
    (camera / "2026-11-19_000000+0000" / "settings.json").write_text("{}")
    assert main([*command, "--resume"]) == 1
    captured = capsys.readouterr()
    assert "2026-11-19_000000+0000 failed" in captured.err
    assert (first / "report.html").exists()
    assert f"goes on in {second}" in captured.err

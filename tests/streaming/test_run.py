"""Recordings and a camera from frames to files: whole, stopped, killed, and with parts that cannot be read."""

import itertools
import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas
import pytest
from test_camera import Script

from videoswin_keras import VideoSwinT
from videoswin_keras.streaming.about import About
from videoswin_keras.streaming.recording import Recording
from videoswin_keras.streaming.run import Run
from videoswin_keras.streaming.stream import VideoStream
from videoswin_keras.video.decode import VideoError
from videoswin_keras.video.encode import write_video

LABELS = ("up", "down", "asleep")
SETTINGS = {"fps": 8, "clip_frames": 8, "stride": 4, "smooth": 5, "short_side": 32, "crop": 32}
FILES = {
    "results.csv",
    "results.jsonl",
    "bouts.csv",
    "boris.csv",
    "annotations.edf",
    "labels.vtt",
    "report.png",
    "report.html",
    "settings.json",
}


def recurrent_model():
    model = VideoSwinT(
        (None, None, None, 3),
        num_classes=3,
        memory={"stages": (2,), "num_tokens": 3, "memory_length": 4},
        embed_dim=8,
        depths=(1, 1),
        num_heads=(1, 2),
        window_size=(2, 3, 3),
        include_rescaling=True,
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.4, weight.shape) for weight in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def model():
    return recurrent_model()


def pictures(count, seed=0):
    """Noise that changes its colour now and then."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        if index % 40 == 0:
            colour = rng.integers(0, 200, 3)
        yield (colour + rng.integers(0, 50, (32, 48, 3))).astype("uint8")


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    path = tmp_path_factory.mktemp("night") / "night.mp4"
    write_video(path, pictures(600), rate=16)
    return path


def run_of(model, source, folder, resume=False, **settings):
    centred = isinstance(source, Recording)
    stream = VideoStream(model, **{**SETTINGS, "centred": centred, "batch_size": 3 if centred else 1, **settings})
    about = About("night", LABELS, "night.mp4", stream.fps)
    return Run(stream, source, folder, about, {"weights": "small"}, resume, save_every=1e-9)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("**/[!.]*") if path.is_file()}


def test_whole(model, night, tmp_path):
    run = run_of(model, Recording([night]), tmp_path / "out")
    results = list(run.results())
    stream = VideoStream(model, **SETTINGS, centred=True, batch_size=3)
    expected = list(stream(Recording([night]).frames()))
    assert [result.smoothed_label for result in results] == [result.smoothed_label for result in expected]
    assert results[-1].end == 300 / 8
    timeline = run.finish()
    assert len(timeline.bouts) > 2
    assert set(contents(tmp_path / "out")) == FILES
    _, *rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(
        [row["smoothed"] for row in rows], [result.smoothed for result in expected], rtol=0, atol=2e-6
    )


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """One that leaves less than a stride at its end."""
    path = tmp_path_factory.mktemp("uneven") / "night.mp4"
    write_video(path, pictures(150), rate=16)
    return path


@pytest.mark.parametrize("stop", [0, 1, 10, 15, 16, 17, 18])
def test_stopped_and_resumed(model, uneven, tmp_path, stop):
    night = uneven
    whole, stopped = (
        run_of(model, Recording([night]), tmp_path / "0"),
        run_of(model, Recording([night]), tmp_path / "1"),
    )
    results = list(whole.results())
    whole.finish()
    list(itertools.islice(stopped.results(), stop))
    resumed = run_of(model, Recording([night]), tmp_path / "1", resume=True)
    late = list(resumed.results())
    assert late == results[len(results) - len(late) :]
    assert late[-1:] == results[-1:]
    resumed.finish()
    assert contents(tmp_path / "0") == contents(tmp_path / "1")
    assert run_of(model, Recording([night]), tmp_path / "1", resume=True).is_finished
    (tmp_path / "1" / "bouts.csv").unlink()
    again = run_of(model, Recording([night]), tmp_path / "1", resume=True)
    assert not again.is_finished  # what is missing is written again
    list(again.results())
    again.finish()
    assert contents(tmp_path / "0") == contents(tmp_path / "1")


@pytest.mark.one_backend
def test_twenty_kills(model, night, tmp_path):
    """SIGKILL at random moments, while it starts, computes, saves, or writes the files: the same files, to the byte.

    Of two files, between which 12.5 s are missing.
    """
    (tmp_path / "night").mkdir()
    (tmp_path / "night" / "20261120_213000.mp4").write_bytes(night.read_bytes())
    write_video(tmp_path / "night" / "20261120_213050.mp4", pictures(200, seed=1), rate=16)
    model.save(tmp_path / "model.keras")
    (tmp_path / "classes.txt").write_text("\n".join(LABELS))
    options = ["--classes", str(tmp_path / "classes.txt"), "--fps", "8", "--frames", "8", "--stride", "4"]
    command = ["stream", str(tmp_path / "night"), "--join", "--weights", str(tmp_path / "model.keras"), *options]
    command += ["--out", "{out}", "--resume", "--save-every", "0.05", "--annotate"]
    script = Path(__file__).with_name("killed.py")
    # One thread: a fork has no others.
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(script), "20", str(tmp_path), *command], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("20 kills"), result.stdout
    whole, *others = sorted(path for path in tmp_path.iterdir() if path.name.isdigit())
    assert others
    for other in others:
        assert contents(other / "night") == contents(whole / "night")
    labels = {"20261120_213000.vtt", "20261120_213050.vtt"}
    assert set(contents(whole / "night")) == FILES - {"labels.vtt"} | labels | {"annotated.mp4"}


def test_files_as_one_recording(model, night, tmp_path):
    """`--join` keeps memory, window and smoother; apart, each file begins anew. Stopped in the second file."""
    write_video(tmp_path / "second.mp4", pictures(300, seed=1), rate=16)
    paths = [night, tmp_path / "second.mp4"]
    joined = list(run_of(model, Recording(paths), tmp_path / "0").results())
    assert joined[-1].end == 450 / 8
    stopped = run_of(model, Recording(paths), tmp_path / "1")
    list(itertools.islice(stopped.results(), 85))
    late = list(run_of(model, Recording(paths), tmp_path / "1", resume=True).results())
    assert late == joined[-len(late) :]
    apart = list(run_of(model, Recording(paths[1:]), tmp_path / "2").results())
    assert [result.probabilities for result in apart[:20]] != [result.probabilities for result in joined[75:95]]


@pytest.mark.parametrize("kind", ["a longer file", "another file", "a longer file with damage"])
def test_a_recording_that_has_grown_is_gone_on_with(model, night, tmp_path, kind, caplog):
    """Finished, grown, resumed: the same files as of one that was read when it was whole."""
    parts = [tmp_path / "a.ts", tmp_path / "b.ts"]
    for number, part in enumerate(parts):
        write_video(part, pictures(150, seed=number), rate=16)
    files = [part.read_bytes() for part in parts]
    if kind == "a longer file":
        paths, first = [tmp_path / "grown.ts"], [tmp_path / "grown.ts"]
        paths[0].write_bytes(files[0])
    elif kind == "a longer file with damage":  # in which reading jumps to where it goes on
        paths, first = [tmp_path / "grown.mkv"], [tmp_path / "grown.mkv"]
        write_video(paths[0], pictures(600), rate=16)
        content = bytearray(paths[0].read_bytes())
        content[len(content) // 5 : len(content) // 5 + 2000] = bytes(2000)
        files = [bytes(content[: len(content) // 2]), bytes(content[len(content) // 2 :])]
        paths[0].write_bytes(files[0])
    else:
        paths, first = parts, parts[:1]
    with caplog.at_level(logging.ERROR):
        run = run_of(model, Recording(first), tmp_path / "out")
        early = list(run.results())
        run.finish()
        assert run_of(model, Recording(first), tmp_path / "out", resume=True).is_finished
        if kind.startswith("a longer file"):
            paths[0].write_bytes(files[0] + files[1])
        again = run_of(model, Recording(paths), tmp_path / "out", resume=True)
        assert not again.is_finished
        assert 0 < again.position < early[-1].end
        list(again.results())
        again.finish()
        whole = run_of(model, Recording(paths), tmp_path / "whole")
        list(whole.results())
        whole.finish()
    of_again, of_whole = contents(tmp_path / "out"), contents(tmp_path / "whole")
    assert again.about == whole.about
    del of_again["settings.json"], of_whole["settings.json"]  # which tells how the files were when it began
    assert of_again == of_whole


def test_rejects_files_that_are_not_those_of_before(model, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        write_video(tmp_path / f"{name}.mp4", pictures(40, seed), rate=16)
    paths = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    list(run_of(model, Recording(paths), tmp_path / "out").results())
    with pytest.raises(ValueError, match=r"The files are others: a.mp4 there, b.mp4 now"):
        run_of(model, Recording(paths[::-1]), tmp_path / "out", resume=True)
    with pytest.raises(ValueError, match=r"The files are others: b.mp4 there, nothing now"):
        run_of(model, Recording(paths[:1]), tmp_path / "out", resume=True)
    content = paths[0].read_bytes()
    for other in (content[:-1], content[: len(content) // 2] + bytes(len(content))):
        paths[0].write_bytes(other)
        with pytest.raises(ValueError, match=r"is another file than it was|has grown since, and"):
            run_of(model, Recording(paths), tmp_path / "out", resume=True)


def test_results_can_be_read_while_it_runs(model, night, tmp_path):
    run = run_of(model, Recording([night]), tmp_path / "out")
    results = run.results()
    seen = list(itertools.islice(results, 30))
    table = pandas.read_csv(tmp_path / "out" / "results_so_far.csv", skiprows=1)
    assert len(table) >= 30
    np.testing.assert_allclose(table.end_s[:30], [result.end for result in seen])
    assert set(table.file) == {"night.mp4"}
    results.close()
    run = run_of(model, Recording([night]), tmp_path / "out", resume=True)
    list(run.results())
    so_far = (tmp_path / "out" / "results_so_far.csv").read_bytes()
    run.finish()
    assert (tmp_path / "out" / "results.csv").read_bytes() == so_far
    assert not (tmp_path / "out" / "results_so_far.csv").exists()


def test_a_stop_keeps_all_that_was_computed(model, night, tmp_path):
    run = run_of(model, Recording([night]), tmp_path / "out")
    run.save_every = 3600.0
    results = run.results()
    list(itertools.islice(results, 41))
    results.close()
    assert run_of(model, Recording([night]), tmp_path / "out", resume=True).position >= 41 / 2


def test_a_camera(model, tmp_path):
    """Live: results as they come, an outage as a gap, the same files; taken up again later, with a gap between."""
    frames = list(pictures(400))
    script = Script(range(100), [], range(100, 200), step=0.125)
    script.wait = lambda seconds, wait=script.wait: wait(20.0)
    camera = script.camera(fps=8, queue_size=1000)
    camera._read = lambda source: (lambda value=make: frames[int(value()[0, 0, 0])] for make in script.read(source))
    run = run_of(model, camera, tmp_path / "out")
    camera._run()
    camera.close()
    results = list(run.results())
    assert [result.end for result in results[:3]] == [1.0, 1.5, 2.0]
    assert all(one.end == following.start for one, following in itertools.pairwise(results))
    unscored = [result for result in results if result.probabilities is None]
    assert sum(result.end - result.start for result in unscored) == pytest.approx(40, abs=3)

    script = Script(range(100), step=0.125)
    script.now = 1000 + 200.0
    camera = script.camera(fps=8, queue_size=1000)
    camera._read = lambda source: (lambda value=make: frames[int(value()[0, 0, 0])] for make in script.read(source))
    run = run_of(model, camera, tmp_path / "out", resume=True)
    camera._run()
    camera.close()
    more = list(run.results())
    assert more[0].start == results[-1].start  # what was left at the first end is part of the gap
    assert more[-1].end > 200
    timeline = run.finish()
    assert len(timeline.gaps) == 2
    assert run.about.started == datetime.fromtimestamp(1000.125, UTC)
    assert set(contents(tmp_path / "out")) == FILES


def test_a_clock_that_was_set_back_between_two_runs_is_said(model, tmp_path):
    for now, resume in [(1000.0, False), (900.0, True)]:
        script = Script(range(100), step=0.125)
        script.now = now
        camera = script.camera(fps=8, queue_size=1000)
        run = run_of(model, camera, tmp_path / "out", resume)
        camera._run()
        camera.close()
        results = list(run.results())
        run.finish()
    assert results[-1].end == pytest.approx(25.0, abs=1.0)
    assert "the clock was set back by 112.5 s" in [problem.what for problem in run.about.problems][-1]
    assert "the clock was set back" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_nothing_to_see(model, tmp_path):
    (tmp_path / "empty.mp4").touch()
    run = run_of(model, Recording([tmp_path / "empty.mp4"]), tmp_path / "out")
    with pytest.raises(VideoError, match="is empty"):
        list(run.results())
    assert not (tmp_path / "out").exists()
    camera = Script([]).camera()
    camera._run()
    camera.close()
    run = run_of(model, camera, tmp_path / "out")
    with pytest.raises(VideoError, match="No frame came from"):
        list(run.results())
    assert not (tmp_path / "out").exists()

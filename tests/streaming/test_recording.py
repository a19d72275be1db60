"""One file, or several as one time line."""

import logging

import numpy as np
import pytest

from videoswin_keras.streaming.recording import Recording
from videoswin_keras.video.decode import VideoError
from videoswin_keras.video.encode import write_video


@pytest.fixture
def files(tmp_path):
    """Three files of 10, 20 and 30 frames at 10 per second, each frame of its own grey."""
    paths, grey = [], iter(range(20, 240, 3))
    for number, count in enumerate((10, 20, 30)):
        paths.append(tmp_path / f"part{number}.mp4")
        write_video(paths[-1], [np.full((32, 32, 3), next(grey), "uint8") for _ in range(count)], rate=10)
    return paths


def read(recording, after=None):
    return [(time, round(float(picture().mean()))) for time, picture in recording.frames(after)]


def test_files_follow_each_other(files):
    frames = read(Recording(files))
    np.testing.assert_allclose([time for time, _ in frames], np.arange(60) / 10, atol=1e-9)
    assert np.abs(np.array([grey for _, grey in frames]) - np.arange(20, 200, 3)).max() <= 2


@pytest.mark.parametrize("count", [1, 3])
def test_frames_after_a_time(files, count):
    whole = read(Recording(files[-count:]))
    for index in (0, 8, 9, 10, 11, 28, 29):
        assert read(Recording(files[-count:]), whole[index][0]) == whole[index + 1 :]


def test_a_part_that_cannot_be_read_is_left_out(files, tmp_path, caplog):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    recording = Recording([files[0], broken, files[1]])
    with caplog.at_level(logging.ERROR):
        assert read(recording) == read(Recording(files[:2]))
    assert list(recording.damaged) == [broken]
    assert Recording([files[0], broken, files[1]]).duration() == pytest.approx(3.0)
    for paths in ([broken], [broken, tmp_path / "absent.mp4"]):
        with caplog.at_level(logging.ERROR), pytest.raises(VideoError):
            read(Recording(paths))


def test_a_file_that_breaks_off_is_said(tmp_path, caplog):
    """Matroska: the header says a minute, and two thirds of the bytes are gone."""
    rng = np.random.default_rng(0)
    frames = (rng.integers(0, 256, (64, 64, 3), "uint8") for _ in range(600))
    write_video(tmp_path / "whole.mkv", frames, rate=10)
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 3])
    whole, cut = Recording([tmp_path / "whole.mkv"]), Recording([tmp_path / "cut.mkv"])
    assert len(read(whole)) == 600
    assert not whole.damaged
    with caplog.at_level(logging.ERROR):
        assert 100 < len(read(cut)) < 300
    assert "it says 60.0 s" in cut.damaged[tmp_path / "cut.mkv"]


def test_files_put_together(tmp_path, caplog):
    """`cat a.ts b.ts`: the times begin anew in the middle; they go on, and reading on from a time gives the same."""
    for name, greys in (("a", range(20, 80, 3)), ("b", range(80, 140, 3))):
        write_video(tmp_path / f"{name}.ts", [np.full((32, 32, 3), grey, "uint8") for grey in greys], rate=5)
    (tmp_path / "both.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with caplog.at_level(logging.ERROR):
        frames = read(Recording([tmp_path / "both.ts"]))
        times = np.array([time for time, _ in frames])
        assert len(frames) == 40
        np.testing.assert_allclose(np.diff(times), 0.2, atol=0.01)
        for index in (5, 19, 20, 30):
            assert read(Recording([tmp_path / "both.ts"]), frames[index][0]) == frames[index + 1 :]


@pytest.mark.parametrize("paths", ["night.mp4", []])
def test_errors(paths):
    with pytest.raises(ValueError, match="a list of at least one file"):
        Recording(paths)


def test_duration(files):
    assert Recording(files).duration() == pytest.approx(6.0)
    assert Recording(files[:1]).duration() == pytest.approx(1.0)

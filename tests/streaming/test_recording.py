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
    assert list(recording.skipped) == [broken]
    assert Recording([files[0], broken, files[1]]).duration() == pytest.approx(3.0)
    for paths in ([broken], [broken, tmp_path / "absent.mp4"]):
        with caplog.at_level(logging.ERROR), pytest.raises(VideoError):
            read(Recording(paths))


def test_duration(files):
    assert Recording(files).duration() == pytest.approx(6.0)
    assert Recording(files[:1]).duration() == pytest.approx(1.0)

"""Writing videos: what is read back, and what is refused."""

import cv2
import numpy as np
import pytest

from videoswin_keras.video.decode import iter_frames
from videoswin_keras.video.encode import write_video


def test_a_frame_that_is_none_is_a_gap(tmp_path):
    frames = [np.full((32, 48, 3), 40 * number, "uint8") for number in range(5)]
    write_video(tmp_path / "gap.mkv", [*frames[:2], None, *frames[3:]], rate=2.5)
    read = list(iter_frames(tmp_path / "gap.mkv"))
    np.testing.assert_allclose([time for time, _ in read], [0, 0.4, 1.2, 1.6], atol=2e-3)
    np.testing.assert_allclose([frame.mean() for _, frame in read], [0, 40, 120, 160], atol=4)


@pytest.mark.parametrize(
    ("frames", "message"), [([], "no frames"), ([None], "no frames"), ([np.zeros((32, 33, 3), "uint8")], "even sides")]
)
def test_what_is_refused_leaves_nothing(frames, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "never.mp4", frames)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["http:/127.0.0.1", "12:30", "pipe:1", "concat:a|b", "%d"])
def test_a_path_is_never_an_address(folder, tmp_path, monkeypatch):
    """A relative one, which FFmpeg would take for one: nothing is sent anywhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder).mkdir(parents=True)
    write_video(f"{folder}/video.mp4", [np.zeros((32, 48, 3), "uint8")] * 3)
    assert len(list(iter_frames(f"{folder}/video.mp4"))) == 3


@pytest.mark.parametrize("name", ["img%d.png", "img%03d.png", "img*.png", "img%%d.png", "a:b.png", "file:x.png"])
def test_a_name_is_never_a_pattern(name, tmp_path, monkeypatch):
    """What is read is that file, and not the pictures beside it."""
    monkeypatch.chdir(tmp_path)
    for other in ("img1.png", "img001.png", "img%d.png", "b.png", "x.png", "img2.png"):
        cv2.imwrite(other, np.zeros((8, 8, 3), "uint8"))
    (tmp_path / name).write_bytes(cv2.imencode(".png", np.full((8, 8, 3), 255, "uint8"))[1].tobytes())
    assert [frame.min() for _, frame in iter_frames(name)] == [255]

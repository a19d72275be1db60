"""Writing videos: what is read back, and what is refused."""

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

"""Reading from start to end, or from a time on: every frame carries its number."""

import gc
import logging
import re
import tracemalloc
from dataclasses import replace
from itertools import islice

import av
import numpy as np
import pytest

from videoswin_keras.video import container, decode, reading
from videoswin_keras.video.encode import write_video

LONG_GROUPS = {"options": {"bf": "3", "g": "250"}}  # as barn cameras write them
FORMATS = {
    "h264.mp4": LONG_GROUPS,
    "h264.mkv": LONG_GROUPS,
    "open.mp4": {"options": {"bf": "3", "g": "60", "x264-params": "open-gop=1"}},
    "open.mkv": {"options": {"bf": "3", "g": "60", "x264-params": "open-gop=1"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "60", "deadline": "realtime", "cpu-used": "8"}},
    "h264.ts": LONG_GROUPS,
    "h264.avi": LONG_GROUPS,
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "stream.h264": LONG_GROUPS,
}


@pytest.fixture
def count(monkeypatch):
    """Counts the frames that come out of the decoder."""
    count, decoded = [0], reading.decoded

    def counting(*arguments, **settings):
        for frame in decoded(*arguments, **settings):
            count[0] += 1
            yield frame

    monkeypatch.setattr(reading, "decoded", counting)
    return count


def decoded_frames(path, after=None):
    return [(seconds, picture()) for seconds, _, picture in decode.iter_lazy_frames(path, after)]


@pytest.mark.parametrize("name", FORMATS)
def test_frames_after_a_time_are_those_of_reading_all(numbered_video, name):
    """To the pixel: what was left out before leaves no trace."""
    path = numbered_video(name, 1000, **FORMATS[name])
    whole = decoded_frames(path)
    for number in (0, 3, 310, 700, 998, 999):
        after = decoded_frames(path, whole[number][0])
        assert [seconds for seconds, _ in after] == [seconds for seconds, _ in whole[number + 1 :]]
        for (_, one), (_, other) in zip(after, whole[number + 1 :], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("name", "jumps"), [("h264.mp4", True), ("h264.mkv", True), ("h264.ts", False)])
def test_what_can_be_jumped_over_is(numbered_video, count, name, jumps):
    path = numbered_video(name, 2000, options={"g": "25"})
    assert len(decoded_frames(path, 75.0)) < 130
    assert (count[0] < 500) == jumps


def test_a_jump_that_lands_late_or_fails_is_not_made(numbered_video, number_of, jumping, monkeypatch):
    path = numbered_video("clip.mp4", 1000, **LONG_GROUPS)
    expected = [number_of(picture) for _, picture in decoded_frames(path, 30.0)]

    def fails(container, target, stream):
        raise av.error.OSError(5, "no jumps here")

    def lands_late(container, target, stream):
        container.seek(target + 15 * 12800, stream=stream)

    open_file = container.open_video
    for seek in (fails, lands_late):
        opened = []

        def open_jumping(path, input_rate, seek=seek, opened=opened):
            video = open_file(path, input_rate)
            opened.append(video)
            return replace(video, container=jumping(video.container, seek)) if len(opened) == 1 else video

        monkeypatch.setattr(container, "open_video", open_jumping)
        assert [number_of(picture) for _, picture in decoded_frames(path, 30.0)] == expected
        assert len(opened) == 2


def test_nothing_after_the_end(numbered_video):
    path = numbered_video("clip.mp4", 20)
    assert decoded_frames(path, 100.0) == []


def test_streaming_holds_one_frame(numbered_video):
    path = numbered_video("stream.mp4", 200, width=640, height=480, options={"preset": "ultrafast"})
    frame_bytes = 640 * 480 * 3
    tracemalloc.start()
    try:
        for _, frame in decode.iter_frames(path):
            assert frame.nbytes == frame_bytes
        assert tracemalloc.get_traced_memory()[1] < 4 * frame_bytes
    finally:
        tracemalloc.stop()


def test_frames_leave_no_garbage(numbered_video):
    """Not even what Python would find later: it may look for it after hours."""
    path = numbered_video("clip.mp4", 200)
    gc.collect()
    gc.disable()
    try:
        for _ in decode.iter_frames(path):
            pass
        assert gc.collect() < 50
    finally:
        gc.enable()


def test_streaming_can_stop(numbered_video, number_of, count):
    frames = decode.iter_frames(numbered_video("stream.mp4", 200))
    assert [number_of(frame) for _, frame in islice(frames, 3)] == [0, 1, 2]
    frames.close()
    assert count == [3]


def test_a_damaged_time_is_not_believed(tmp_path, caplog):
    """One frame of a transport stream says that it is shown three hours later: a bit of its time has flipped."""
    greys = range(20, 220, 5)
    write_video(tmp_path / "whole.ts", [np.full((32, 32, 3), grey, "uint8") for grey in greys], rate=5)
    content = bytearray((tmp_path / "whole.ts").read_bytes())
    starts = [match.start() for match in re.finditer(b"\x00\x00\x01\xe0", content)]
    assert len(starts) == len(greys)
    content[starts[20] + 9] ^= 2  # bit 30 of 33, in ticks of 1/90,000 s
    (tmp_path / "damaged.ts").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        times = [[time for time, _ in decode.iter_frames(tmp_path / name)] for name in ("whole.ts", "damaged.ts")]
        np.testing.assert_allclose(decode.probe(tmp_path / "damaged.ts").times, times[1])
    assert len(times[1]) == len(greys)
    np.testing.assert_allclose(times[1], times[0], atol=0.5)
    assert "has a frame whose time is damaged" in caplog.text

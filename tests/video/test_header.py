"""What a file says about itself: how long it is, when it was made, its rate, its size."""

import logging
from datetime import UTC, datetime
from fractions import Fraction

import av
import numpy as np
import pytest

from videoswin_keras.streaming.about import CUT_OFF, DAMAGED
from videoswin_keras.streaming.recording import Recording
from videoswin_keras.video import decode, header

# Files that keep saying how long they were when they are cut off: settings of the container, of the video.
STATING = {
    "fast.mp4": {"container_options": {"movflags": "faststart"}},
    "clip.mkv": {},
    "clip.avi": {"codec": "mpeg4"},
    "h264.avi": {},
    "motion.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "clip.flv": {},
    "clip.mxf": {"codec": "mpeg2video"},
}
# Files whose length FFmpeg measures.
MEASURED = {
    "clip.ts": {},
    "clip.mpg": {"codec": "mpeg2video"},
    "clip.nut": {"codec": "mpeg4"},
    "clip.ogv": {"codec": "libvpx", "options": {"deadline": "realtime"}},
    "clip.wmv": {"codec": "wmv2"},
    "clip.gif": {"codec": "gif", "pixels": "rgb8"},
    "stream.h264": {},
}


def frames_read(path):
    recording = Recording([path])
    return sum(1 for _ in recording.frames()), recording.problems


@pytest.mark.parametrize("name", STATING)
def test_a_file_that_was_cut_off_is_told_from_a_whole_one(name, numbered_video, caplog):
    path = numbered_video(name, 500, **STATING[name])
    count, damaged = frames_read(path)
    assert count == 500
    assert not damaged
    assert decode.read_header(path).duration == pytest.approx(20, abs=0.2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert decode.read_header(path).end == pytest.approx(20, abs=0.2)
    with caplog.at_level(logging.ERROR):
        count, damaged = frames_read(path)
    assert 100 < count < 400
    assert [problem.kind for problem in damaged if problem.kind != DAMAGED] == [CUT_OFF]


def test_a_few_seconds_that_are_missing_are_said(numbered_video, caplog):
    """Of four minutes, by an end that is that of the pictures."""
    path = numbered_video("fast.mp4", 500, rate=Fraction(2), **STATING["fast.mp4"])
    assert decode.read_header(path).is_end_exact
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.993)])
    with caplog.at_level(logging.ERROR):
        count, damaged = frames_read(path)
    assert 490 < count < 497  # less than a fiftieth
    assert CUT_OFF in [problem.kind for problem in damaged]


def test_each_part_of_an_avi_counts(tmp_path):
    """There is one for each gigabyte; here they are of a few bytes, the last of an odd number."""
    first, second = (b"RIFF" + len(part).to_bytes(4, "little") + part for part in (b"AVI ....", b"AVIX..."))
    path = tmp_path / "large.avi"
    for content, is_cut in ((first + second, False), (first + second + b"\0", False), (first + second[:-3], True)):
        path.write_bytes(content)
        assert header._is_cut_riff(path) is is_cut


@pytest.mark.parametrize("name", MEASURED)
def test_what_ffmpeg_measures_is_no_word_of_the_file(name, numbered_video, caplog):
    path = numbered_video(name, 500, **MEASURED[name])
    assert decode.read_header(path).end is None
    count, damaged = frames_read(path)
    assert count == 500
    assert not damaged


def write_long_last(path, seconds):
    """Five frames of a tenth of a second, the last of which lasts longer."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        packets = []
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * number, "uint8"), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        packets[-1].duration = round(seconds / packets[-1].time_base)
        for packet in packets:
            output.mux(packet)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv"])
def test_a_last_frame_that_lasts_long_counts(name, tmp_path, caplog):
    path = tmp_path / name
    write_long_last(path, 30)
    index = decode.probe(path)
    assert index.num_frames == 5
    assert index.duration == pytest.approx(30.4, abs=0.01)
    assert not index.is_constant
    assert index.frames_at(np.arange(index.num_slots(10)), 10).tolist() == [0, 1, 2, 3, *[4] * 300]
    last = list(decode.iter_lazy_frames(path))[-1]
    assert last.seconds + last.duration == pytest.approx(30.4, abs=0.01)
    assert frames_read(path) == (5, [])


def tagged(path, source, created):
    """A copy of a video, with this time of creation."""
    with av.open(str(source)) as given, av.open(str(path), "w") as output:
        output.metadata["creation_time"] = created
        stream = output.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    return path


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2024-05-06T07:08:09.000000Z", datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)),
        ("2024-05-06T07:08:09+02:00", datetime(2024, 5, 6, 5, 8, 9, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", None),
        ("1904-01-01T00:00:00Z", None),
    ],
)
def test_when_it_was_recorded(name, written, read, tmp_path, numbered_video):
    path = tagged(tmp_path / f"tagged_{name}", numbered_video(name, 3), written)
    assert decode.read_header(path).created == read


def test_a_time_of_creation_that_cannot_be_read(tmp_path, numbered_video):
    plain = numbered_video("clip.nut", 3)
    assert decode.read_header(plain).created is None
    path = tagged(tmp_path / "tagged.nut", plain, "yesterday")
    with av.open(str(path)) as container:
        assert container.metadata["creation_time"] == "yesterday"
    assert decode.read_header(path).created is None


def test_size_and_rate(numbered_video, tmp_path):
    header = decode.read_header(numbered_video("turned.mp4", 50, rotation=(90, False), rate=Fraction(30000, 1001)))
    assert (header.width, header.height) == (48, 64)
    assert header.rate == Fraction(30000, 1001)
    assert header.duration == pytest.approx(50 * 1001 / 30000, abs=0.01)
    assert not header.is_rate_guessed
    with pytest.raises(FileNotFoundError):
        decode.read_header(tmp_path / "missing.mp4")

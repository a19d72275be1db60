"""Bare streams, which have no times: their rate is stated, given, or guessed and said to be."""

import logging

import numpy as np
import pytest

from videoswin_keras.video import decode, protocols

# At 10 frames per second. H.264, HEVC and MPEG-2 state it; motion JPEG and AV1 do not.
STATING = {
    "stream.h264": {"codec": "libx264"},
    "stream.hevc": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "stream.m4v": {"codec": "mpeg4", "format": "m4v"},
}
GUESSED = {
    "stream.mjpeg": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "unstated.h264": {"codec": "libx264"},
}


def without_timing(data):
    """Takes the clock out of a stream of H.264 at 10 frames per second: the flag before it says no, its bits go."""
    start = data.index(b"\x00\x00\x01\x67") + 3
    end = data.index(b"\x00\x00\x01", start)
    stored = data[start:end].rstrip(b"\x00")
    unit = stored.replace(b"\x00\x00\x03", b"\x00\x00")
    bits = "".join(f"{byte:08b}" for byte in unit)
    timing = f"1{1:032b}{20:032b}"
    place = bits.index(timing)
    body = bits[:place] + "0" + bits[place + len(timing) + 1 :]  # and the flag that its rate is fixed
    body = body.rstrip("0")
    body += "0" * (-len(body) % 8)
    unit = bytes(int(body[k : k + 8], 2) for k in range(0, len(body), 8))
    assert b"\x00\x00" not in unit  # nothing in it has to be kept from looking like a start code
    return data.replace(stored, unit)


@pytest.fixture
def stream(numbered_video):
    """A function (name) that writes a stream of 50 frames, 5 seconds, and returns its path."""

    def write(name):
        path = numbered_video(name, 50, rate=10, **{**STATING, **GUESSED}[name])
        if name == "unstated.h264":
            path.write_bytes(without_timing(path.read_bytes()))
        return path

    return write


def seconds_of(path, **settings):
    return [seconds for seconds, _ in decode.iter_frames(path, **settings)]


@pytest.mark.parametrize("name", STATING)
def test_a_stated_rate_counts(name, stream, caplog):
    path = stream(name)
    index = decode.probe(path)
    assert (index.num_frames, index.rate, index.duration) == (50, 10, pytest.approx(5))
    np.testing.assert_allclose(seconds_of(path), np.arange(50) / 10)
    header = decode.read_header(path)
    assert (header.rate, header.is_rate_guessed) == (10, False)
    assert not caplog.records


@pytest.mark.parametrize("name", GUESSED)
def test_a_guessed_rate_is_said_once(name, stream, caplog):
    path = stream(name)
    with caplog.at_level(logging.WARNING):
        index = decode.probe(path)
        times = seconds_of(path)
        decode.read_frames(path, index, [3])
    assert index.rate == 25
    np.testing.assert_allclose(times, np.arange(50) / 25)
    assert decode.read_header(path).is_rate_guessed
    (record,) = caplog.records
    assert "25 per second is FFmpeg's guess" in record.getMessage()
    assert "--input-rate" in record.getMessage()


@pytest.mark.parametrize("name", [*STATING, *GUESSED])
def test_a_given_rate_counts(name, stream, number_of, caplog):
    path = stream(name)
    index = decode.probe(path, input_rate=12.5)
    assert (index.num_frames, index.rate, index.duration) == (50, 12.5, pytest.approx(4))
    times = seconds_of(path, input_rate=12.5)
    np.testing.assert_allclose(times, np.arange(50) / 12.5)
    np.testing.assert_allclose(index.times, times)
    lazy = list(decode.iter_lazy_frames(path, after=2.0, input_rate=12.5))
    assert [number_of(frame.picture()) for frame in lazy] == list(range(26, 50))
    assert lazy[-1].seconds + lazy[-1].duration == pytest.approx(4)
    assert number_of(decode.read_frames(path, index, [30])[30]) == 30
    header = decode.read_header(path, input_rate=12.5)
    assert (header.rate, header.is_rate_guessed) == (12.5, False)
    torchvision = protocols.get("torchvision", clip_frames=8, crop=16, rate=5.0)
    clips = torchvision.views(path, input_rate=10).clips
    np.testing.assert_array_equal(np.diff(clips[0]), 2)
    assert not caplog.records


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.ts"])
def test_a_file_with_times_takes_no_rate(name, numbered_video):
    path = numbered_video(name, 5)
    for read in (decode.probe, decode.iter_frames, decode.read_header):
        with pytest.raises(ValueError, match=r"has times of its own.* Received: 10"):
            read(path, input_rate=10)


@pytest.mark.parametrize("rate", [0, -1, 1e6])
def test_rates_are_checked(rate, stream):
    with pytest.raises(ValueError, match="`input_rate` must be from"):
        decode.probe(stream("stream.h264"), input_rate=rate)

"""Files in which a packet is not one frame, or says something about it that PyAV does not know."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps
from test_damaged import damaged, rewritten

from videoswin_keras.video import decode

DATA = Path(__file__).parents[1] / "data" / "video"
# Grey of frame k: 0 to 227 in 40 frames, or 10 + 5k.
RAMPS = {
    "fields.mkv": np.linspace(0, 227, 40),  # H.264 in separate fields: two packets a frame, each with a time
    "fields.mts": np.linspace(0, 227, 40),
    "pairs.mts": np.linspace(0, 227, 40),  # the second of the two without a time
    "packed.avi": 10 + 5 * np.arange(45),  # MPEG-4: a packet holds a picture and the one shown before it
}


def grey(picture):
    return float(picture.mean())


@pytest.mark.parametrize("name", RAMPS)
def test_packets_that_are_not_one_frame(name, caplog):
    path, levels = DATA / name, RAMPS[name]
    index = decode.probe(path)
    assert index.num_frames == len(levels)
    assert index.rate == 25
    assert index.is_constant
    assert index.duration == pytest.approx(len(levels) / 25)
    np.testing.assert_allclose(index.times, np.arange(len(levels)) / 25, atol=1e-9)
    for wanted in (range(len(levels)), [31], [39, 12, 13]):
        frames = decode.read_frames(path, index, wanted)
        for number, picture in frames.items():
            assert grey(picture) == pytest.approx(levels[number], abs=2)
    streamed = list(decode.iter_frames(path))
    np.testing.assert_allclose([seconds for seconds, _ in streamed], index.times)
    np.testing.assert_allclose([grey(picture) for _, picture in streamed], levels, atol=2)
    assert not caplog.records


@pytest.mark.parametrize(("name", "count"), [("exif_mjpeg.avi", 20), ("exif.jpg", 1), ("plain.tiff", 1)])
def test_side_data_that_pyav_does_not_know(name, count):
    index = decode.probe(DATA / name)
    assert index.num_frames == count
    frames = decode.read_frames(DATA / name, index, range(count))
    assert [grey(picture) for picture in frames.values()] == pytest.approx([127] * count, abs=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_and_mirrors(orientation, tmp_path):
    """As Pillow, which is by another hand, turns it."""
    pixels = np.zeros((48, 64, 3), "uint8")
    pixels[:16, :16] = 255
    picture = Image.fromarray(pixels)
    tags = picture.getexif()
    tags[0x112] = orientation
    path = tmp_path / "turned.jpg"
    picture.save(path, exif=tags)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    index = decode.probe(path)
    assert (index.height, index.width) == expected.shape[:2]
    frame = decode.read_frames(path, index, [0])[0]
    assert np.abs(frame.astype(int) - expected).mean() < 2


def piece_of_stream(path, pictures, first, has_sound=False):
    """Writes a transport stream whose pictures begin with number `first`, at 25 per second; returns its bytes."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg2video", rate=25, options={"qmin": "1", "qmax": "1"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        sound = output.add_stream("mp2", rate=48000) if has_sound else None
        for number, picture in enumerate(pictures, start=first):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        for number in range(40 if sound else 0):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1152), "int16"), format="s16", layout="mono")
            samples.sample_rate, samples.pts = 48000, 1152 * number
            output.mux(sound.encode(samples))
        if sound:
            output.mux(sound.encode(None))
    return path.read_bytes()


def test_a_stream_that_begins_late(tmp_path, numbered, number_of):
    """Three pieces of a transport stream, the one in the middle with sound, after more than FFmpeg looks at first."""
    noise = np.random.default_rng(0)
    pictures = [numbered(k, 320, 240) ^ noise.integers(0, 64, (240, 320, 3), "uint8") for k in range(160)]
    path = tmp_path / "late.ts"
    parts = [(0, 120, False), (120, 140, True), (140, 160, False)]
    path.write_bytes(
        b"".join(
            piece_of_stream(tmp_path / "part.ts", pictures[begin:end], begin, has_sound)
            for begin, end, has_sound in parts
        )
    )
    index = decode.probe(path)
    assert index.num_frames == 160
    assert [number_of(frame) for frame in decode.read_frames(path, index, range(160)).values()] == list(range(160))
    assert [number_of(frame) for _, frame in decode.iter_frames(path)] == list(range(160))


def test_times_that_begin_anew_go_on(tmp_path, numbered, number_of):
    """`cat a.ts b.ts`: frames of the two halves are not mixed, and reading from start to end says the same."""
    pictures = [numbered(k, 320, 240) for k in range(100)]
    path = tmp_path / "both.ts"
    halves = (piece_of_stream(tmp_path / "part.ts", pictures[begin : begin + 50], 0) for begin in (0, 50))
    path.write_bytes(b"".join(halves))
    index = decode.probe(path)
    np.testing.assert_allclose(np.diff(index.times), 0.04, atol=1e-6)
    for wanted in (range(100), [70], [10, 95]):
        frames = decode.read_frames(path, index, wanted)
        assert {number: number_of(frame) for number, frame in frames.items()} == {k: k for k in wanted}
    np.testing.assert_allclose([seconds for seconds, _ in decode.iter_frames(path)], index.times)


def test_damage_does_not_shift_times_in_an_avi(numbered_video, number_of, caplog):
    """H.264 in AVI has no times; a frame that does not decode keeps its place all the same."""
    path = rewritten(numbered_video("clip.avi", 40, options={"g": "1"}), damaged(20))
    streamed = [(round(seconds * 25), number_of(picture)) for seconds, picture in decode.iter_frames(path)]
    assert streamed == [(number, number) for number in range(40) if number != 20]
    frames = decode.read_frames(path, decode.probe(path), range(40))
    assert [number_of(frame) for frame in frames.values()] == [19 if k == 20 else k for k in range(40)]
    assert "1 of 40 wanted frames are damaged" in caplog.text

"""Reading real files: every frame carries its number, so that it can be told whichever way it was reached."""

import math
import struct
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition

from videoswin_keras.video import container, decode, reading

LONG = {"options": {"bf": "3", "g": "12"}}  # groups of 12 frames, three B-frames between others
FORMATS = {
    "h264.mp4": LONG,
    "h264.mkv": LONG,
    "h264.mov": LONG,
    "h264.flv": LONG,
    "h264.ts": LONG,
    "open.mp4": {"options": {"bf": "3", "g": "12", "x264-params": "open-gop=1"}},
    "open.ts": {"options": {"bf": "3", "g": "12", "x264-params": "open-gop=1"}},
    "h264.avi": LONG,
    "stream.h264": LONG,
    "xvid.avi": {"codec": "mpeg4", "options": {"g": "12"}},
    "xvid_b.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "12", "deadline": "realtime"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12", "deadline": "realtime", "cpu-used": "8"}},
    "stream.mjpeg": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "ffv1.mkv": {"codec": "ffv1"},
}


@pytest.fixture
def decoded_frames(monkeypatch):
    """Counts the frames that come out of the decoder."""
    count = [0]
    decoded = reading.decoded

    def counting(*args, **settings):
        for frame in decoded(*args, **settings):
            count[0] += 1
            yield frame

    monkeypatch.setattr(reading, "decoded", counting)
    return count


def numbers_read(path, wanted, number_of):
    frames = decode.read_frames(path, decode.probe(path), wanted)
    return {number: number_of(frame) for number, frame in frames.items()}


# Every kind of file


@pytest.mark.parametrize("name", FORMATS)
def test_formats(numbered_video, number_of, caplog, name):
    path = numbered_video(name, 70, **FORMATS[name])
    index = decode.probe(path)
    assert index.num_frames == 70
    assert index.is_constant
    assert index.rate == 25
    assert index.duration == pytest.approx(2.8)
    assert (index.width, index.height, index.rotation) == (64, 48, 0)
    np.testing.assert_allclose(index.times - index.times[0], np.arange(70) / 25, atol=0.0015)
    assert numbers_read(path, range(70), number_of) == {number: number for number in range(70)}
    for number in (0, 1, 11, 12, 33, 47, 48, 69):  # alone, from wherever it is reached
        assert numbers_read(path, [number], number_of) == {number: number}
    assert numbers_read(path, [60, 5, 33, 5, 34], number_of) == {5: 5, 33: 33, 34: 34, 60: 60}
    streamed = list(decode.iter_frames(path))
    assert [number_of(frame) for _, frame in streamed] == list(range(70))
    np.testing.assert_allclose([seconds for seconds, _ in streamed], index.times)
    assert ["FFmpeg's guess" in record.getMessage() for record in caplog.records] == [True] * (name == "stream.mjpeg")


def test_frames_reached_by_seeking_are_those_of_decoding_on(numbered_video):
    for name, options in (("long.mp4", {"bf": "3", "g": "250"}), ("short.mp4", {"bf": "3", "g": "6"})):
        path = numbered_video(name, 300, options=options)
        with av.open(str(path)) as container:
            expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        frames = decode.read_frames(path, decode.probe(path), [0, 1, 120, 122, 251, 252, 299])
        for number, frame in frames.items():
            np.testing.assert_array_equal(frame, expected[number])


def test_b_frames_are_stored_out_of_order(numbered_video):
    """What makes the tests above mean something."""
    with av.open(str(numbered_video("b.mp4", 30, **LONG))) as container:
        pts = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert pts != sorted(pts)


# How much is decoded and held


def test_one_clip_of_a_long_video(numbered_video, number_of, decoded_frames):
    path = numbered_video("long.mp4", 3000, options={"g": "50", "preset": "ultrafast", "bf": "2"})
    index = decode.probe(path)
    assert decoded_frames == [1]
    alive, most, shrunk = [0], [0], []

    def gone():
        alive[0] -= 1

    def shrink(frame):
        alive[0] += 1
        weakref.finalize(frame, gone)
        most[0] = max(most[0], alive[0])
        shrunk.append(frame.shape)
        return frame[::8, ::8].copy()

    wanted = range(1500, 1564, 2)
    decoded_frames[0] = 0
    frames = decode.read_frames(path, index, wanted, shrink)
    assert list(frames) == list(wanted)
    assert {frame.shape for frame in frames.values()} == {(6, 8, 3)}
    assert shrunk == [(48, 64, 3)] * 32  # only what is wanted is converted
    assert most[0] <= 2  # whole frames at a time
    assert alive == [0]
    assert decoded_frames[0] <= 64 + 50 + 3
    decoded_frames[0] = 0
    frames = decode.read_frames(path, index, [10, 700, 2990])
    assert [number_of(frame) for frame in frames.values()] == [10, 700, 2990]
    assert decoded_frames[0] <= 3 * 53


def test_neighbouring_frames_are_read_in_one_go(numbered_video, decoded_frames, monkeypatch):
    path = numbered_video("intra.mp4", 120, options={"g": "1"})
    index = decode.probe(path)
    opened = []
    open_file = container.open_video
    monkeypatch.setattr(container, "open_video", lambda path: opened.append(path) or open_file(path))
    decoded_frames[0] = 0
    decode.read_frames(path, index, range(40, 80, 2))
    assert len(opened) == 1
    assert decoded_frames == [39]


# Time lines


@pytest.mark.parametrize("name", ["ntsc.mp4", "ntsc.mkv"])
def test_ntsc_is_constant(numbered_video, name):
    """Matroska rounds times to milliseconds, and 30000/1001 frames per second fall on none."""
    index = decode.probe(numbered_video(name, 100, rate=Fraction(30000, 1001)))
    assert index.is_constant
    assert index.rate == Fraction(30000, 1001)
    assert index.num_slots() == 100
    assert index.frames_at(np.arange(100)).tolist() == list(range(100))
    # ⌊100 · 15 / 29.97⌋ slots of 1.998 frames, as torchvision: floor(len(pts) · 15 / fps), floor(k · fps / 15).
    assert index.num_slots(15) == 50
    assert index.frames_at(np.arange(50), 15).tolist() == [int(k * 30000 / 1001 / 15) for k in range(50)]


@pytest.mark.parametrize("rate", [24, 25, 30, 50, 60])
def test_other_rates_of_constant_video(numbered_video, rate):
    index = decode.probe(numbered_video("constant.mkv", 61, rate=rate))
    assert index.is_constant
    assert index.frames_at(np.arange(61), rate).tolist() == list(range(61))
    for slots_per_second in (15, 12.5, 2 * rate):
        per_slot = rate / Fraction(slots_per_second)
        count = math.ceil(61 / per_slot) if per_slot.denominator == 1 else math.floor(61 / per_slot)  # as torchvision
        assert index.num_slots(slots_per_second) == count
        expected = [int(slot * rate / Fraction(slots_per_second)) for slot in range(count)]
        assert index.frames_at(np.arange(count), slots_per_second).tolist() == expected


@pytest.mark.parametrize(("name", "clock"), [("variable.mp4", 1000), ("variable.mkv", 1000), ("variable.webm", 1000)])
def test_variable_rate(numbered_video, number_of, name, clock):
    """Half a second at 20 frames per second, a second of one still, then 10 frames per second."""
    times = [*range(0, 500, 50), *range(1500, 2500, 100)]
    codec = {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}} if name.endswith("webm") else {}
    path = numbered_video(name, 20, times=times, clock=clock, rate=20, **codec)
    index = decode.probe(path)
    assert not index.is_constant
    np.testing.assert_allclose(index.times, np.array(times) / 1000)
    assert index.duration == pytest.approx(2.5, abs=0.08)  # the last frame's duration is the encoder's guess
    assert index.num_slots() == 20
    assert float(index.rate) == pytest.approx(20 / index.duration, rel=1e-3)
    # Slots of 0.1 seconds: every second frame of the first part, the still frame 9 until 1.5 seconds, then each.
    shown = index.frames_at(np.arange(24), 10)
    assert shown.tolist() == [0, 2, 4, 6, 8, *[9] * 10, *range(10, 19)]
    assert [number_of(frame) for _, frame in decode.iter_frames(path)] == list(range(20))
    assert numbers_read(path, [9, 10, 19], number_of) == {9: 9, 10: 10, 19: 19}
    # Against the definition, slot by slot, at the video's own rate.
    for slot in range(index.num_slots()):
        moment = slot / float(index.rate) + 0.5 * float(index.tick)
        assert index.frames_at(slot) == max(k for k in range(20) if times[k] / 1000 <= moment)


def test_jitter_is_constant_and_a_gap_is_not(numbered_video):
    rng = np.random.default_rng(0)
    jitter = [40 * k + int(rng.integers(-7, 8)) for k in range(1, 61)]
    assert decode.probe(numbered_video("jitter.mkv", 60, times=jitter, clock=1000)).is_constant
    gap = [40 * (k + (k >= 30)) for k in range(60)]
    index = decode.probe(numbered_video("gap.mkv", 60, times=gap, clock=1000))
    assert not index.is_constant
    assert index.frames_at(np.arange(index.num_slots(25)), 25).tolist() == [*range(30), 29, *range(30, 60)]


def test_slots_allow_for_rounded_times(numbered_video):
    """Frame 2 of 30 per second is due at 66.67 ms and stored as 67; slot 1 of 15 per second must still show it."""
    times = [round(k * 1000 / 30) for k in range(20)] + [2000]
    index = decode.probe(numbered_video("rounded.mkv", 21, times=times, clock=1000, rate=30))
    assert not index.is_constant
    assert index.frames_at(np.arange(10), 15).tolist() == list(range(0, 20, 2))


def test_frames_dropped_from_an_avi(numbered_video, number_of):
    """AVI marks a repeated frame by an empty packet, which is no frame."""
    times = [0, 1, 4, 5, 9, 10]
    path = numbered_video("drops.avi", 6, times=times, clock=25, codec="mpeg4")
    index = decode.probe(path)
    np.testing.assert_allclose(index.times, np.array(times) / 25)
    assert numbers_read(path, range(6), number_of) == {number: number for number in range(6)}
    assert index.frames_at(np.arange(11), 25).tolist() == [0, 1, 1, 1, 2, 3, 3, 3, 3, 4, 5]


def test_late_start_is_kept(numbered_video, number_of):
    path = numbered_video("late.mkv", 10, times=[3000 + 40 * k for k in range(10)], clock=1000)
    index = decode.probe(path)
    assert index.times[0] == pytest.approx(3)
    assert index.is_constant
    assert index.duration == pytest.approx(0.4)
    assert index.frames_at(np.arange(6), 15).tolist() == [0, 1, 3, 5, 6, 8]
    assert numbers_read(path, [0, 9], number_of) == {0: 0, 9: 9}


def test_edit_list(numbered_video, number_of):
    """An edit list that shows frames 5 to 34 of 40 leaves 30, though the keyframe before them must be decoded."""
    path = numbered_video("edited.mp4", 40, **LONG)
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 12
    duration, start = struct.unpack(">Ii", data[entry : entry + 8])
    data[entry : entry + 8] = struct.pack(">Ii", duration - 400, start + 5 * 512)  # milliseconds; 1/12800 seconds
    path.write_bytes(data)
    index = decode.probe(path)
    assert index.num_frames == 30
    assert index.is_constant
    assert numbers_read(path, range(30), number_of) == {number: number + 5 for number in range(30)}
    assert numbers_read(path, [29], number_of) == {29: 34}
    assert [number_of(frame) for _, frame in decode.iter_frames(path)] == list(range(5, 35))


@pytest.mark.parametrize("num_frames", [1, 3])
@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "xvid.avi", "stream.h264", "h264.mkv"])
def test_tiny_videos(numbered_video, number_of, name, num_frames):
    path = numbered_video(name, num_frames, **FORMATS[name])
    index = decode.probe(path)
    assert (index.num_frames, index.num_slots(), index.is_constant) == (num_frames, num_frames, True)
    assert index.duration > 0
    assert index.num_slots(15) == max(1, num_frames * 15 // 25)
    assert numbers_read(path, range(num_frames), number_of) == {number: number for number in range(num_frames)}


def test_slots_are_checked(numbered_video):
    index = decode.probe(numbered_video("clip.mp4", 10))
    assert index.frames_at(np.zeros((0, 2), int)).shape == (0, 2)
    for slots in ([-1], [10], [[3, 12]]):
        with pytest.raises(ValueError, match="slots 0 to 9"):
            index.frames_at(np.array(slots))
    with pytest.raises(ValueError, match=r"`rate` must be from 0\.001 to 1000"):
        index.num_slots(0)


# Pictures


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation(numbered_video, numbered, container, degrees, mirrored):
    path = numbered_video(f"turned.{container}", 2, rotation=(degrees, mirrored), options={"qp": "1"})
    index = decode.probe(path)
    expected = np.rot90(numbered(1), degrees // 90)
    if mirrored:
        expected = expected[:, ::-1]
    else:
        assert index.rotation == degrees
    assert (index.height, index.width) == expected.shape[:2]
    for frame in (decode.read_frames(path, index, [1])[1], list(decode.iter_frames(path))[1][1]):
        assert frame.shape == expected.shape
        assert frame.flags.c_contiguous
        # Edges of the blocks may be soft; nothing else may differ.
        assert (np.abs(frame.astype(int) - expected) > 40).mean() < 0.02


def test_rotation_of_a_phone(numbered_video, numbered):
    """A phone held upright writes this matrix: x to −y, y to x, which is a quarter turn clockwise (QuickTime)."""
    path = numbered_video("phone.mp4", 2, options={"qp": "1"})
    upright = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30)
    data = path.read_bytes()
    track = data.index(b"tkhd")
    assert upright in data[track : track + 100]
    path.write_bytes(data[:track] + data[track:].replace(upright, turned, 1))
    index = decode.probe(path)
    assert (index.width, index.height, index.rotation) == (48, 64, 270)
    frame = decode.read_frames(path, index, [1])[1]
    expected = numbered(1).transpose(1, 0, 2)[:, ::-1]  # what was at the left is at the top, what was up is right
    assert (np.abs(frame.astype(int) - expected) > 40).mean() < 0.02


def test_portrait(numbered_video, number_of):
    path = numbered_video("portrait.mp4", 20, width=48, height=96)
    index = decode.probe(path)
    assert (index.width, index.height) == (48, 96)
    assert numbers_read(path, [19], number_of) == {19: 19}


@pytest.mark.parametrize(("width", "height"), [(35, 27), (33, 64), (130, 49)])
def test_odd_sizes(numbered_video, number_of, width, height):
    path = numbered_video("odd.webm", 3, width=width, height=height, **FORMATS["vp9.webm"])
    index = decode.probe(path)
    assert (index.width, index.height) == (width, height)
    frame = decode.read_frames(path, index, [2])[2]
    assert frame.shape == (height, width, 3)
    assert frame.dtype == np.uint8
    assert number_of(frame) == 2


@pytest.mark.parametrize(("matrix", "red", "blue"), [(1, 0.2126, 0.0722), (5, 0.299, 0.114), (None, 0.299, 0.114)])
@pytest.mark.parametrize("is_full", [False, True])
def test_colours(tmp_path, matrix, red, blue, is_full):
    """Y = 120, U = 90, V = 170 by the definitions of BT.709 and BT.601, in both ranges."""
    path = tmp_path / "colour.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame(64, 48, "yuv420p")
        for plane, value in zip(frame.planes, (120, 90, 170), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        if matrix:
            frame.colorspace = stream.codec_context.colorspace = matrix
        frame.color_range = stream.codec_context.color_range = 2 if is_full else 1
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    y, u, v = (120 / 255, -38 / 255, 42 / 255) if is_full else (104 / 219, -38 / 224, 42 / 224)
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    expected = 255 * np.array([r, (y - red * r - blue * b) / (1 - red - blue), b])
    frame = decode.read_frames(path, decode.probe(path), [0])[0]
    assert np.abs(frame - expected).max() < 2


# Files that are no videos


def test_missing(tmp_path):
    for read in (decode.probe, decode.iter_frames):
        for path in (tmp_path / "missing.mp4", tmp_path):
            with pytest.raises(FileNotFoundError, match=f"No video file at {path}. Is the path right"):
                read(path)


def write_sound(path, with_cover):
    with av.open(str(path), "w") as output:
        sound = output.add_stream("aac", rate=16000)
        cover = output.add_stream("mjpeg", rate=1) if with_cover else None
        if cover:
            cover.width, cover.height, cover.pix_fmt, cover.disposition = 64, 48, "yuvj420p", Disposition.attached_pic
            picture = av.VideoFrame(64, 48, "yuvj420p")
            picture.pts = 0
            output.mux(cover.encode(picture) + cover.encode(None))
        for number in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), "float32"), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * number
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))


@pytest.mark.parametrize("with_cover", [False, True])
def test_sound_only(tmp_path, with_cover):
    path = tmp_path / "sound.mp4"
    write_sound(path, with_cover)
    for read in (decode.probe, decode.iter_frames):
        with pytest.raises(decode.VideoError, match=f"{path} has no video stream; it holds audio"):
            read(path)


NO_VIDEOS = {
    "empty.mp4": (b"", "is empty"),
    "text.mp4": (b"not a video\n" * 100, "is not a readable video"),
    "text.txt": (b"FFmpeg would draw this\n" * 100, r"is a text or a list of files \(tty\)"),
    "list.m3u8": (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n", "is "),
    "list.ffconcat": (b"ffconcat version 1.0\nfile other.ts\n", r"is a text or a list of files \(concat\)"),
    "noise.mp4": (np.random.default_rng(0).bytes(5000), "is not a readable video"),
    "zeros.mkv": (bytes(5000), "is not a readable video"),
    "subtitles.srt": (b"1\n00:00:01,000 --> 00:00:02,000\nHello\n", "has no video stream; it holds subtitle"),
}


@pytest.mark.parametrize("name", NO_VIDEOS)
def test_no_videos(tmp_path, numbered_video, name):
    numbered_video("other.ts", 30)
    content, message = NO_VIDEOS[name]
    path = tmp_path / name
    path.write_bytes(content)
    for read in (decode.probe, decode.iter_frames):
        with pytest.raises(decode.VideoError, match=f"{name} {message}"):
            read(path)


def test_conversion_is_advised_only_where_ffmpeg_cannot_decode(tmp_path, numbered_video):
    path = numbered_video("clip.mov", 5, codec="qtrle", pixels="rgb24")
    path.write_bytes(path.read_bytes().replace(b"rle ", b"zzzz"))
    with pytest.raises(decode.VideoError, match=r"FFmpeg has no decoder here.* convert it with `ffmpeg -i clip\.mov"):
        decode.probe(path)
    for name, content in (("noise.mp4", b"\x01\x02\x03" * 999), ("cut.mkv", b"\x1a\x45\xdf\xa3\x01\x00\x00")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(decode.VideoError, match="was it copied completely") as error:
            decode.probe(tmp_path / name)
        assert "convert" not in str(error.value)


def test_playlist_names_itself(tmp_path, numbered_video):
    numbered_video("other.ts", 30)
    path = tmp_path / "list.m3u8"
    path.write_bytes(NO_VIDEOS["list.m3u8"][0])
    with pytest.raises(decode.VideoError, match="hls"):
        decode.probe(path)


def test_names_and_tags(numbered_video, number_of, tmp_path, monkeypatch):
    """A name that looks like an address, and a title in no known encoding."""
    path = numbered_video("plain.mp4", 3)
    (tmp_path / "12:30.mp4").write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert numbers_read("12:30.mp4", [2], number_of) == {2: 2}
    tagged = tmp_path / "tagged.mp4"
    with av.open(str(path)) as source, av.open(str(tagged), "w") as output:
        output.metadata["title"] = "ABCDEFGH"
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    assert b"ABCDEFGH" in tagged.read_bytes()
    tagged.write_bytes(tagged.read_bytes().replace(b"ABCDEFGH", b"\xff\xfe\xfaDEFGH"))
    assert numbers_read(tagged, [2], number_of) == {2: 2}

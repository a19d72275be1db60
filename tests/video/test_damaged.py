"""Files that are cut off, damaged, or jump elsewhere than asked for: every frame carries its number."""

import logging
from dataclasses import replace

import av
import numpy as np
import pytest
from test_decode import FORMATS, LONG, numbers_read

from videoswin_keras.video import container, decode


def rewritten(path, change, shown_with=None):
    """Copies a video packet by packet; `change(number, bytes)` returns the bytes to store instead.

    `shown_with` gives some packets the time of another.
    """
    times = []
    copy = path.with_name(f"changed_{path.name}")
    with av.open(str(path)) as source, av.open(str(copy), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                changed = av.Packet(change(number, bytes(packet)))
                times.append(packet.pts)
                changed.pts = times[(shown_with or {}).get(number, number)]
                changed.dts, changed.time_base = min(changed.pts, packet.dts), packet.time_base
                changed.duration, changed.is_keyframe, changed.stream = packet.duration, packet.is_keyframe, stream
                output.mux(changed)
    return copy


def damaged(*numbers):
    return lambda number, data: bytes(len(data)) if number in numbers else data


def test_truncated(numbered_video, number_of):
    path = numbered_video("clip.mp4", 60)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])  # the table at the end is gone
    with pytest.raises(decode.VideoError, match=r"its index \(moov\) is missing: the recording was cut off") as error:
        decode.probe(path)
    assert "convert" not in str(error.value)
    for name, settings in (("fast.mp4", {"container_options": {"movflags": "faststart"}}), ("clip.mkv", {})):
        path = numbered_video(name, 60, width=128, height=96, options={"g": "12", "bf": "0"}, **settings)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        index = decode.probe(path)
        assert 12 < index.num_frames < 60
        last = index.num_frames - 2  # the very last packet may be cut
        assert numbers_read(path, [0, last], number_of) == {0: 0, last: last}


def test_damaged_frame_is_replaced(numbered_video, number_of, caplog):
    path = rewritten(numbered_video("clip.mkv", 40, codec="mjpeg", pixels="yuvj420p"), damaged(20, 21, 30))
    index = decode.probe(path)
    assert index.num_frames == 40
    with caplog.at_level(logging.WARNING):
        assert numbers_read(path, range(40), number_of) == {
            number: {20: 19, 21: 19, 30: 29}.get(number, number) for number in range(40)
        }
    (record,) = caplog.records
    assert "3 of 40 wanted frames are damaged" in record.getMessage()
    caplog.clear()
    # Reached by a jump that lands on a damaged frame: from further back then.
    assert numbers_read(path, [21], number_of) == {21: 19}
    assert numbers_read(path, [22], number_of) == {22: 22}
    assert "1 of 1 wanted frames are damaged" in caplog.text
    assert [number_of(frame) for _, frame in decode.iter_frames(path)] == [
        number for number in range(40) if number not in (20, 21, 30)
    ]


def test_damaged_ends(numbered_video, number_of, caplog):
    path = rewritten(numbered_video("clip.mkv", 10, codec="mjpeg", pixels="yuvj420p"), damaged(0, 1, 9))
    assert numbers_read(path, [0, 1, 2, 9], number_of) == {0: 2, 1: 2, 2: 2, 9: 8}
    assert "3 of 4 wanted frames are damaged" in caplog.text
    assert numbers_read(path, [0], number_of) == {0: 2}


def test_damaged_group(numbered_video, number_of):
    """The keyframe of a middle group is gone: what follows it decodes wrongly or not, the rest is not touched."""
    path = rewritten(numbered_video("clip.mp4", 60, options={"g": "20", "bf": "0"}), damaged(20))
    frames = numbers_read(path, range(60), number_of)
    assert len(frames) == 60
    for number in [*range(20), *range(40, 60)]:
        assert frames[number] == number
    assert numbers_read(path, [45], number_of) == {45: 45}


def test_nothing_decodes(numbered_video):
    path = numbered_video("clip.mkv", 10, codec="mjpeg", pixels="yuvj420p")
    index = decode.probe(path)
    path = rewritten(path, damaged(*range(10)))
    with pytest.raises(decode.VideoError, match=f"No frame of {path} can be decoded"):
        decode.probe(path)
    with pytest.raises(decode.VideoError, match=r"Of 2 wanted frames .* 2 cannot be decoded"):
        decode.read_frames(path, index, [3, 4])
    with pytest.raises(decode.VideoError, match=f"No frame of {path} can be decoded"):
        list(decode.iter_frames(path))


def test_hidden_frames_of_vp8_are_not_counted(numbered_video, number_of):
    """VP8 keeps reference pictures that are never shown in packets of their own."""

    def hide(number, data):
        return bytes([data[0] & ~0x10]) + data[1:] if number in (5, 14) else data

    path = rewritten(numbered_video("clip.webm", 20, **FORMATS["vp8.webm"]), hide)
    shown = [number for number in range(20) if number not in (5, 14)]
    assert decode.probe(path).num_frames == 18
    assert numbers_read(path, range(18), number_of) == dict(enumerate(shown))


def test_one_time_for_all(numbered_video, number_of):
    """Times that say nothing: the frames are counted, at the rate the file states."""
    path = numbered_video("clip.mkv", 20, codec="ffv1", clock=25)
    index = decode.probe(rewritten(path, lambda number, data: data, dict.fromkeys(range(20), 0)))
    assert not index.is_timed
    assert index.num_frames == 20
    np.testing.assert_allclose(index.times, np.arange(20) / float(index.rate))
    read = decode.read_frames(path.with_name("changed_clip.mkv"), index, range(20))
    assert [number_of(frame) for frame in read.values()] == list(range(20))


# Files that jump badly


def fails(container, pts, stream):
    raise av.error.OSError(5, "no jumps here")


def too_late(container, pts, stream):
    container.seek(pts + 30 * 512, stream=stream)


def to_the_start(container, pts, stream):
    container.seek(0, stream=stream)


@pytest.mark.parametrize("seek", [fails, too_late, to_the_start])
def test_bad_jumps_cost_time_not_truth(numbered_video, number_of, jumping, monkeypatch, caplog, seek):
    path = numbered_video("clip.mp4", 200, **LONG)
    index = decode.probe(path)
    open_file = container.open_video

    def open_jumping(path):
        video = open_file(path)
        return replace(video, container=jumping(video.container, seek))

    monkeypatch.setattr(container, "open_video", open_jumping)
    wanted = [3, 60, 61, 150, 199]
    assert [number_of(frame) for frame in decode.read_frames(path, index, wanted).values()] == wanted
    assert not caplog.records


@pytest.mark.parametrize("name", ["h264.mp4", "h264.ts", "h264.mkv", "mpeg2.mpg"])
def test_wrong_keyframes(numbered_video, number_of, caplog, name):
    """An index whose keyframes are none, or cannot be jumped to: times in MPEG program streams change with a jump."""
    path = numbered_video(name, 120, **FORMATS[name])
    right = decode.probe(path)
    for keyframes in (np.arange(120), np.arange(0, 120, 12)):
        index = replace(right, keyframes=keyframes)
        for number in (7, 49, 59, 60, 61, 119):
            assert number_of(decode.read_frames(path, index, [number])[number]) == number
    assert not caplog.records


def test_program_streams_are_read_from_the_start(numbered_video):
    index = decode.probe(numbered_video("mpeg2.mpg", 70, **FORMATS["mpeg2.mpg"]))
    assert index.is_timed
    assert index.keyframes.size == 0


def test_equal_times(numbered_video, number_of):
    """Two frames of one time are two frames: the ones after them keep their numbers."""
    path = rewritten(numbered_video("clip.mkv", 20, codec="ffv1", clock=25), lambda number, data: data, {8: 7})
    index = decode.probe(path)
    assert index.num_frames == 20
    assert index.times[7] == index.times[8]
    read = numbers_read(path, range(20), number_of)
    assert {number: read[number] for number in range(20) if number != 8} == {k: k for k in range(20) if k != 8}
    assert [number_of(frame) for _, frame in decode.iter_frames(path)] == list(range(20))


def test_wanted_frames_are_checked(numbered_video):
    path = numbered_video("clip.mp4", 10)
    index = decode.probe(path)
    assert decode.read_frames(path, index, []) == {}
    for wanted in ([-1], [3, 10]):
        with pytest.raises(ValueError, match="has the frames 0 to 9"):
            decode.read_frames(path, index, wanted)
    with pytest.raises(FileNotFoundError):
        decode.read_frames("missing.mp4", index, [0])

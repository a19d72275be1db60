"""Every container and coding that FFmpeg here can write and read: what is read is what FFmpeg decodes from the start.

Frame k is grey of level 16 + 5k, so the level tells which frame came.
"""

from fractions import Fraction

import av
import numpy as np
import pytest

from videoswin_keras.video import decode

COUNT = 40
LEVELS = 16 + 5 * np.arange(COUNT)
NEAR = 2.4  # less than half a step
X264 = {"preset": "ultrafast", "g": "12"}
X265 = "log-level=none:keyint=12:bframes=3:b-adapt=0"
VPX = {"g": "12", "cpu-used": "8"}
# Encoder, pixels, options; and the size where not 64 × 48.
CODINGS = {
    "h264 closed": ("libx264", "yuv420p", {**X264, "x264-params": "b-adapt=0:bframes=3"}),
    "h264 open": ("libx264", "yuv420p", {**X264, "x264-params": "b-adapt=0:bframes=3:open-gop=1"}),
    "h264 intra": ("libx264", "yuv420p", {**X264, "g": "1"}),
    "h264 interlaced": ("libx264", "yuv420p", {**X264, "x264-params": "interlaced=1"}),
    "hevc open": ("libx265", "yuv420p", {"preset": "ultrafast", "x265-params": X265}),
    "hevc closed": ("libx265", "yuv420p", {"preset": "ultrafast", "x265-params": f"{X265}:open-gop=0"}),
    "mpeg4": ("mpeg4", "yuv420p", {"g": "12"}),
    "mpeg4 b": ("mpeg4", "yuv420p", {"g": "12", "bf": "2"}),
    "mpeg2": ("mpeg2video", "yuv420p", {"g": "12"}),
    "mpeg2 b": ("mpeg2video", "yuv420p", {"g": "12", "bf": "2"}),
    "mpeg1 b": ("mpeg1video", "yuv420p", {"g": "12", "bf": "2"}),
    "mjpeg": ("mjpeg", "yuvj420p", {}),
    "vp8": ("libvpx", "yuv420p", {**VPX, "deadline": "realtime"}),
    "vp8 hidden": ("libvpx", "yuv420p", {**VPX, "deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "12"}),
    "vp9": ("libvpx-vp9", "yuv420p", {**VPX, "deadline": "realtime"}),
    "vp9 hidden": ("libvpx-vp9", "yuv420p", {**VPX, "deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "12"}),
    "av1": ("libsvtav1", "yuv420p", {"g": "12", "preset": "12"}),
    "ffv1": ("ffv1", "yuv420p", {}),
    "prores": ("prores_ks", "yuv422p10le", {}),
    "dnxhr": ("dnxhd", "yuv422p", {"profile": "dnxhr_lb"}, (256, 120)),
    "huffyuv": ("huffyuv", "yuv422p", {}),
    "utvideo": ("utvideo", "yuv420p", {}),
    "raw": ("rawvideo", "yuv420p", {}),
    "flv1": ("flv", "yuv420p", {}),
    "wmv1": ("wmv1", "yuv420p", {}),
    "wmv2": ("wmv2", "yuv420p", {}),
    "msmpeg4": ("msmpeg4", "yuv420p", {}),
    "h263": ("h263", "yuv420p", {}, (128, 96)),
    "gif": ("gif", "gray", {}),
    "png": ("png", "rgb24", {}),
    "apng": ("apng", "rgb24", {}),
    "jpeg2000": ("jpeg2000", "yuv420p", {}),
    "qtrle": ("qtrle", "rgb24", {}),
    "cinepak": ("cinepak", "rgb24", {}),
    "svq1": ("svq1", "yuv410p", {}),
    "snow": ("snow", "yuv420p", {}),
    "cineform": ("cfhd", "yuv422p10le", {}),
}
# Muxer, options.
CONTAINERS = {
    **{
        name: (name, {}) for name in ("mp4", "mov", "3gp", "f4v", "matroska", "webm", "avi", "flv", "asf", "ogg", "mxf")
    },
    **{name: (name, {}) for name in ("nut", "h264", "hevc", "m4v", "mjpeg", "mpeg2video", "mpeg1video", "ivf", "gif")},
    **{name: (name, {}) for name in ("apng", "yuv4mpegpipe", "obu", "wtv", "rm", "swf", "mpeg", "vob", "h263")},
    "ts": ("mpegts", {}),
    "m2ts": ("mpegts", {"mpegts_m2ts_mode": "1"}),
    "fragments": ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
}


def ramp(pixels, size):
    for number, level in enumerate(LEVELS):
        grey = np.full((size[1], size[0], 3), level, "uint8")
        frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format=pixels)
        frame.pts, frame.time_base = number, Fraction(1, 25)
        yield frame


def write(path, coding, muxer, muxer_options):
    """Returns whether FFmpeg writes this coding into this container."""
    codec, pixels, options, *size = coding
    width, height = size[0] if size else (64, 48)
    try:
        with av.open(str(path), "w", format=muxer, container_options=muxer_options) as output:
            stream = output.add_stream(codec, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, pixels
            for frame in ramp(pixels, (width, height)):
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def decoded_by_ffmpeg(path):
    """Returns times (or None) and levels as FFmpeg decodes them from the start; None if it cannot."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if stream.codec_context is None:  # no decoder, which PyAV 17 does not survive
                return None
            frames = [(frame.time, level(frame.to_ndarray(format="rgb24"))) for frame in container.decode(stream)]
    except (av.error.FFmpegError, IndexError):
        return None
    return ([time for time, _ in frames], np.array([level for _, level in frames])) if frames else None


def level(picture):
    return float(picture.mean())


def check(path, container, times, levels):
    index = decode.probe(path)
    assert index.num_frames == len(levels)
    streamed = list(decode.iter_frames(path))
    np.testing.assert_allclose([level(picture) for _, picture in streamed], levels, atol=NEAR)
    np.testing.assert_allclose([seconds for seconds, _ in streamed], index.times)
    own = index.times - index.times[0]
    if not index.is_timed:  # a bare stream
        np.testing.assert_allclose(own, np.arange(COUNT) / float(index.rate))
    elif container in ("avi", "asf", "mxf"):  # FFmpeg takes one frame's time for another's
        np.testing.assert_allclose(own, np.arange(COUNT) / 25, atol=0.041)
    else:  # of some frames FFmpeg does not know the time, or one that is earlier than that of the frame before
        latest = np.maximum.accumulate([-np.inf if time is None else time for time in times])
        known = [k for k, time in enumerate(times) if time == latest[k] and (k == 0 or time > latest[k - 1])]
        np.testing.assert_allclose(own[known], [times[k] - times[known[0]] for k in known], atol=1e-3)
        assert len(known) == COUNT or container in ("mpeg", "vob")
    shuffled = np.random.default_rng(0).permutation(len(levels))
    for wanted in (shuffled, *([number] for number in (25, 13))):
        for number, picture in decode.read_frames(path, index, wanted).items():
            assert level(picture) == pytest.approx(levels[number], abs=NEAR)


def test_every_container_and_coding(tmp_path, caplog):
    ran, wrong = [], {}
    for coding in CODINGS:
        for container, (muxer, options) in CONTAINERS.items():
            path = tmp_path / "video"
            expected = decoded_by_ffmpeg(path) if write(path, CODINGS[coding], muxer, options) else None
            if expected is None:
                continue
            ran.append((coding, container))
            try:
                check(path, container, *expected)
            except (AssertionError, ValueError) as error:
                wrong[coding, container] = str(error)[:300]
    assert not wrong
    assert len(ran) >= 300
    assert "damaged" not in caplog.text

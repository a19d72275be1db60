"""Which stream of a file is the video, and the shape in which its pixels are meant."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from videoswin_keras.video import decode


def circle_video(path, width, height, pixel, rotation=None, codec="libx264"):
    """Two frames of a circle that is one once pixels are shown in their shape, in a picture of these stored sides."""
    shown_width = width * pixel
    y, x = np.mgrid[:height, :width]
    radius = 0.4 * min(shown_width, height)
    is_inside = ((x - width / 2) * float(pixel)) ** 2 + (y - height / 2) ** 2 < float(radius) ** 2
    picture = np.repeat(np.where(is_inside, 235, 20)[..., None], 3, axis=-1).astype("uint8")
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.sample_aspect_ratio = pixel
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def sides(picture):
    """Width and height of the circle."""
    is_inside = picture[..., 1] > 127
    return int(is_inside.any(axis=0).sum()), int(is_inside.any(axis=1).sum())


WIDE = (Fraction(64, 45), (256, 144))  # 16:9, which is all that MPEG-2 could say
SHAPES = [WIDE, (Fraction(8, 9), (180, 162)), (Fraction(4, 3), (240, 144))]


@pytest.mark.parametrize(
    ("name", "codec", "pixel", "size"),
    [(name, "libx264", *shape) for name in ("clip.mp4", "clip.mkv", "clip.ts") for shape in SHAPES]
    + [("dvd.mpg", "mpeg2video", *WIDE), ("clip.avi", "mpeg4", *WIDE)],
)
def test_a_circle_stays_a_circle(name, codec, pixel, size, tmp_path):
    path = tmp_path / name
    circle_video(path, 180, 144, pixel, codec=codec)
    index = decode.probe(path)
    assert (index.width, index.height) == size
    header = decode.read_header(path)
    assert (header.width, header.height) == (index.width, index.height)
    for frame in (decode.read_frames(path, index, [1])[1], list(decode.iter_frames(path))[1][1]):
        assert frame.shape == (index.height, index.width, 3)
        width, height = sides(frame)
        assert width == pytest.approx(height, abs=3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_circle_stays_a_circle(degrees, tmp_path):
    path = tmp_path / "turned.mp4"
    circle_video(path, 180, 144, Fraction(64, 45), rotation=degrees)
    index = decode.probe(path)
    assert (index.width, index.height) == ((256, 144) if degrees == 180 else (144, 256))
    width, height = sides(decode.read_frames(path, index, [0])[0])
    assert width == pytest.approx(height, abs=3)


@pytest.mark.parametrize("pixel", [Fraction(1), Fraction(11), Fraction(1, 11)])
def test_square_and_absurd_pixels_are_left_alone(pixel, tmp_path):
    path = tmp_path / "clip.mp4"
    circle_video(path, 180, 144, pixel)
    index = decode.probe(path)
    assert (index.width, index.height) == (180, 144)
    with av.open(str(path)) as container:
        expected = next(container.decode(video=0)).to_ndarray(format="rgb24")
    np.testing.assert_array_equal(decode.read_frames(path, index, [0])[0], expected)


def write_with_thumbnail(path, pictures, thumbnail, codec="mjpeg"):
    """A file whose first stream is one picture, an ordinary stream; the second is the video."""
    with av.open(str(path), "w") as output:
        first = output.add_stream(codec, rate=25)
        first.width, first.height = 160, 120
        first.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
        second = output.add_stream("libx264", rate=25)
        second.width, second.height, second.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(thumbnail, format="rgb24")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        output.mux(first.encode(frame))
        output.mux(first.encode(None))
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(second.encode(frame))
        output.mux(second.encode(None))


@pytest.mark.parametrize(
    ("name", "codec"), [("clip.mp4", "mjpeg"), ("clip.mp4", "png"), ("clip.mov", "png"), ("clip.mkv", "mjpeg")]
)
@pytest.mark.parametrize("count", [2, 40, 400])
def test_a_thumbnail_is_not_the_video(name, codec, count, tmp_path, numbered, number_of):
    path = tmp_path / name
    pictures = [numbered(number) for number in range(count)]
    write_with_thumbnail(path, pictures, numbered(4095, 160, 120), codec)
    index = decode.probe(path)
    assert (index.num_frames, index.width, index.height) == (count, 64, 48)
    assert number_of(decode.read_frames(path, index, [count - 1])[count - 1]) == count - 1
    assert [number_of(frame) for _, frame in decode.iter_frames(path)] == list(range(count))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_the_first_of_two_videos_counts(name, tmp_path, numbered, number_of):
    """Two cameras: the first is slow, but no thumbnail."""
    path = tmp_path / name
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("libx264", rate=rate) for rate in (1, 25)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for stream, count, rate in zip(streams, (4, 100), (1, 25), strict=True):
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(numbered(number + 2000 * (rate == 25)), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, rate)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    index = decode.probe(path)
    assert index.num_frames == 4
    assert [number_of(frame) for _, frame in decode.iter_frames(path)] == [0, 1, 2, 3]


def test_an_animated_webp_is_read_or_is_one_clear_error(tmp_path):
    """FFmpeg 8 reads it."""
    pictures = [Image.fromarray(np.full((48, 64, 3), 20 * number, "uint8")) for number in range(8)]
    path = tmp_path / "animated.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    with av.open(str(path)) as container:
        is_read = container.format.name == "webp_anim"
    if is_read:
        assert decode.probe(path).num_frames == 8
        assert [round(frame.mean(), -1) for _, frame in decode.iter_frames(path)] == [20 * k for k in range(8)]
    for read in () if is_read else (decode.probe, decode.iter_frames, decode.read_header):
        with pytest.raises(decode.VideoError, match="is an animated WebP, which FFmpeg cannot read here"):
            read(path)
    still = tmp_path / "still.webp"
    pictures[3].save(still)
    assert decode.probe(still).num_frames == 1

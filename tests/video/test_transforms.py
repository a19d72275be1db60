"""Resizing against bilinear interpolation written out, crops against coordinates, and the three protocols."""

import numpy as np
import pytest

from videoswin_keras.video import decode, protocols, transforms


def bilinear(frame, height, width):
    """Bilinear interpolation with pixel centres at half integers and clamped edges, in float64."""

    def weights(old, new):
        centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(centre).astype(int)
        high = np.minimum(low + 1, old - 1)
        matrix = np.zeros((new, old))
        np.add.at(matrix, (np.arange(new), low), 1 - (centre - low))
        np.add.at(matrix, (np.arange(new), high), centre - low)
        return matrix

    return np.einsum(
        "yh,hwc,xw->yxc",
        weights(frame.shape[0], height),
        frame.astype(float),
        weights(frame.shape[1], width),
        optimize=True,
    )


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((120, 160, 3), 64, (64, 85, 3)),  # 160 · 64 / 120 = 85.33
        ((160, 120, 3), 64, (85, 64, 3)),
        ((97, 131, 3), 50, (50, 68, 3)),  # 67.53
        ((30, 40, 3), 77, (77, 103, 3)),  # upwards, 102.67
        ((64, 64, 3), 64, (64, 64, 3)),
        ((1, 1, 3), 8, (8, 8, 3)),
        ((40, 30, 1), 10, (13, 10, 1)),
        ((4, 2, 3), 3, (6, 3, 3)),
        ((240, 427, 3), 256, (256, 455, 3)),  # 455.47
        ((100, 125, 3), 50, (50, 63, 3)),  # 62.5 goes up
    ],
)
def test_resize_short_side(shape, size, expected):
    frame = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    resized = transforms.resize_short_side(frame, size)
    assert resized.shape == expected
    assert resized.dtype == np.uint8
    assert np.abs(resized - bilinear(frame, *expected[:2])).max() <= 1


def test_resize_has_no_antialiasing():
    """Shrinking stripes of one pixel three times keeps black and white; antialiasing would make them grey."""
    frame = np.zeros((90, 90, 3), "uint8")
    frame[:, ::2] = 255
    assert set(np.unique(transforms.resize_short_side(frame, 30))) == {0, 255}


@pytest.mark.parametrize("frame", [np.zeros((4, 4), "uint8"), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), "uint8")])
def test_resize_refuses(frame):
    with pytest.raises(ValueError, match="Expected a frame of uint8"):
        transforms.resize_short_side(frame, 8)
    with pytest.raises(ValueError, match="`size` must be at least 1"):
        transforms.resize_short_side(np.zeros((4, 4, 3), "uint8"), 0)


def coordinates(height, width):
    """A clip of two frames whose pixels say where they are: (frame, row, column)."""
    return np.stack(np.meshgrid(range(2), range(height), range(width), indexing="ij"), axis=-1).astype("int64")


@pytest.mark.parametrize(("height", "width", "corner"), [(10, 20, (1, 6)), (21, 11, (6, 1)), (8, 8, (0, 0))])
def test_center_crop(height, width, corner):
    crop = transforms.center_crop(coordinates(height, width), 8)
    assert crop.shape == (2, 8, 8, 3)
    assert crop[1, 0, 0].tolist() == [1, *corner]
    assert crop[1, -1, -1].tolist() == [1, corner[0] + 7, corner[1] + 7]


def test_pixels_of_torchvision():
    """A 16:9 frame: the margin of 115.5 pixels is rounded to 116, one of 114.5 to 114; the longer side is cut off."""
    wide = np.arange(455)[None, None, :, None] * np.ones((1, 256, 1, 1), int)
    assert transforms.center_crop(wide, 224, is_rounded=True)[0, 0, 0, 0] == 116
    assert transforms.center_crop(wide, 224)[0, 0, 0, 0] == 115
    assert transforms.center_crop(wide[:, :, :453], 224, is_rounded=True)[0, 0, 0, 0] == 114
    frame = np.zeros((270, 481, 3), "uint8")  # 481 · 256 / 270 = 456.06; 480: 455.1; 479: 454.2; 478: 453.2
    sides = [transforms.resize_short_side(frame[:, :w], 256, is_floored=True).shape[1] for w in (481, 480, 479, 476)]
    assert sides == [456, 455, 454, 451]
    assert transforms.resize_short_side(np.zeros((270, 477, 3), "uint8"), 100, is_floored=True).shape[1] == 176
    assert transforms.resize_short_side(np.zeros((270, 477, 3), "uint8"), 100).shape[1] == 177


@pytest.mark.parametrize(
    ("height", "width", "corners"),
    [
        (8, 20, [(0, 0), (0, 6), (0, 12)]),
        (8, 21, [(0, 0), (0, 6), (0, 12)]),  # 13 // 2 = 6, twice: a pixel before the end, as in mmaction2
        (20, 8, [(0, 0), (6, 0), (12, 0)]),
        (8, 8, [(0, 0)] * 3),
        (10, 20, [(1, 0), (1, 6), (1, 12)]),
        (20, 11, [(0, 1), (6, 1), (12, 1)]),
    ],
)
def test_three_crops(height, width, corners):
    crops = transforms.three_crops(coordinates(height, width), 8)
    assert crops.shape == (3, 2, 8, 8, 3)
    for crop, (top, left) in zip(crops, corners, strict=True):
        assert crop[0, 0, 0].tolist() == [0, top, left]
        assert crop[1, -1, -1].tolist() == [1, top + 7, left + 7]


@pytest.mark.parametrize("crop", [transforms.center_crop, transforms.three_crops])
def test_crops_refuse(crop):
    with pytest.raises(ValueError, match="A crop of 9 × 9 does not fit into frames of height 8 and width 20"):
        crop(np.zeros((1, 8, 20, 3)), 9)
    with pytest.raises(ValueError, match="Expected a clip of shape"):
        crop(np.zeros((8, 20, 3)), 8)


def test_normalize():
    normal = transforms.normalize(np.array([[0, 128, 255]], "uint8"))
    assert normal.dtype == np.float32
    np.testing.assert_allclose(normal, [[-2.1179040, 0.20518207, 2.6399999]], rtol=1e-6)
    with pytest.raises(ValueError, match="three channels"):
        transforms.normalize(np.zeros((4, 1)))


# Protocols. The small one is the shape a small model takes.


@pytest.fixture
def small():
    return protocols.get("kinetics", clip_frames=16, interval=1, crop=64)


def numbers(view, number_of):
    return [number_of(frame) for frame in view]


def test_published_values():
    kinetics, something, torchvision = (
        protocols.get(name) for name in ("kinetics", "something_something_v2", "torchvision")
    )
    assert [p.num_views for p in (kinetics, something, torchvision)] == [12, 3, 12]
    assert {p.clip_frames for p in (kinetics, something, torchvision)} == {32}
    assert {p.crop for p in (kinetics, something, torchvision)} == {224}
    assert [p.short_side_full for p in (kinetics, something, torchvision)] == [224, 224, 256]
    assert {p.short_side_single for p in (kinetics, something, torchvision)} == {256}
    assert (kinetics.interval, torchvision.rate) == (2, 15.0)


def test_scaled_values(small):
    assert (small.crop, small.short_side_single, small.short_side_full) == (64, 73, 64)
    assert protocols.get("kinetics", crop=64, short_side_single=64).short_side_single == 64


def test_kinetics_views(numbered_video, number_of, small):
    path = numbered_video("clip.mp4", 100, width=96, height=64)
    views = small.views(path, views=12)
    assert len(views) == 12
    # (100 − 16 + 1) / 4 = 21.25: starts ⌊10.625⌋, ⌊31.875⌋, ⌊53.125⌋, ⌊74.375⌋.
    assert views.clips[:, 0].tolist() == [10, 31, 53, 74]
    assert len(views.frames) == 4 * 16  # no frame twice
    array = views.array()
    assert array.shape == (12, 16, 64, 64, 3)
    assert array.dtype == np.uint8
    whole = decode.read_frames(path, decode.probe(path), range(100))
    for view, clip in zip(views, views.clips.repeat(3, axis=0), strict=True):
        assert view.shape == (16, 64, 64, 3)
        assert clip.tolist() == list(range(clip[0], clip[0] + 16))
    # 96 × 64 needs no resize: the crops are parts of the frames, (96 − 64) / 2 = 16.
    for crop, left in enumerate((0, 16, 32)):
        expected = [whole[number][:, left : left + 64] for number in range(53, 69)]
        np.testing.assert_array_equal(views[6 + crop], expected)


def test_one_view(numbered_video, number_of, small):
    path = numbered_video("clip.mp4", 100, width=96, height=64)
    views = small.views(path)
    assert len(views) == 1
    assert views.clips[:, 0].tolist() == [42]  # (100 − 16 + 1) / 2
    frame = decode.read_frames(path, decode.probe(path), [42])[42]
    resized = transforms.resize_short_side(frame, 73)  # 73 × 110, (110 − 64) / 2 = 23
    np.testing.assert_array_equal(views[0][0], resized[4:68, 23:87])


def test_portrait_has_its_crops_below_each_other(picture_video, small):
    shades = np.linspace(20, 220, 256).astype("uint8")
    picture = np.broadcast_to(shades[:, None, None], (256, 64, 3)).copy()
    path = picture_video("portrait.mp4", [picture] * 20)
    start, middle, end = (view.mean() for view in small.views(path, views=12)[:3])
    assert start + 60 < middle < end - 60
    assert small.views(path)[0].shape == (16, 64, 64, 3)


def test_something_something_views(numbered_video, number_of):
    protocol = protocols.get("something_something_v2", clip_frames=4, crop=48)
    path = numbered_video("clip.webm", 41, codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"})
    views = protocol.views(path, views=12)
    assert len(views) == 3
    assert views.clips.tolist() == [[5, 15, 25, 35]]  # parts of ten frames
    assert len(protocol.views(path, views=3)) == 3
    assert len(protocol.views(path, views=1)) == 1


def test_torchvision_views(numbered_video, number_of):
    protocol = protocols.get("torchvision", clip_frames=8, crop=42)
    path = numbered_video("clip.mp4", 90, rate=30)
    views = protocol.views(path, views=12)
    assert len(views) == 12
    # 45 slots at 15 per second, every second frame; starts ⌊37 · i / 11⌋.
    assert views.clips[:, 0].tolist() == [2 * (37 * clip // 11) for clip in range(12)]
    assert (np.diff(views.clips) == 2).all()
    assert views.array().shape == (12, 8, 42, 42, 3)


def test_frames_are_the_right_ones(numbered_video, number_of):
    """Square videos, so that the crop leaves the numbers whole."""
    path = numbered_video("square.mp4", 70, width=64, height=64, rate=30)
    kinetics = protocols.get("kinetics", clip_frames=8, crop=64, short_side_single=64)
    assert numbers(kinetics.views(path)[0], number_of) == list(range(27, 43, 2))  # (70 − 16 + 1) / 2
    torchvision = protocols.get("torchvision", clip_frames=8, crop=64, short_side_single=64)
    assert numbers(torchvision.views(path)[0], number_of) == list(range(26, 42, 2))  # slot (35 − 8) // 2 = 13


@pytest.mark.parametrize("name", list(protocols.PROTOCOLS))
@pytest.mark.parametrize("num_frames", [1, 3])
def test_tiny_videos(numbered_video, number_of, name, num_frames):
    protocol = protocols.get(name, clip_frames=8, crop=32, short_side_single=32, short_side_full=32)
    path = numbered_video("tiny.mp4", num_frames, width=64, height=64)
    for views in (1, 12):
        clips = protocol.views(path, views)
        assert len(clips) == (1 if views == 1 else protocol.num_views)
        assert clips[0].shape == (8, 32, 32, 3)
        assert set(numbers(clips[0], number_of)) <= set(range(num_frames))


def test_memory_does_not_follow_the_long_side(picture_video, small):
    """A very long side is cut before it is held."""
    path = picture_video("wide.mp4", [np.zeros((16, 2048, 3), "uint8")] * 2)
    views = small.views(path)
    frames = [frame if frame.base is None else frame.base for frame in views.frames.values()]
    assert {frame.nbytes for frame in frames} == {64 * 64 * 3}


def test_protocol_errors(numbered_video, small):
    with pytest.raises(ValueError, match="kinetics, kinetics_mmaction2, something_something_v2, torchvision"):
        protocols.get("kinetic")
    with pytest.raises(ValueError, match="kinetics, kinetics_mmaction2, something_something_v2, torchvision"):
        protocols.Protocol("kinetic")
    with pytest.raises(TypeError, match="no clip_length"):
        protocols.get("kinetics", clip_length=8)
    with pytest.raises(ValueError, match="must be at least the crop"):
        protocols.get("kinetics", crop=64, short_side_full=32)
    with pytest.raises(ValueError, match="`num_crops` must be 1 or 3"):
        protocols.get("kinetics", num_crops=2)
    with pytest.raises(ValueError, match="`interval` must be at least 1"):
        protocols.get("kinetics", interval=0)
    with pytest.raises(ValueError, match="whole video"):
        protocols.get("something_something_v2", num_clips=4)
    with pytest.raises(ValueError, match=r"`views` must be 1 .* or 12"):
        small.views(numbered_video("clip.mp4", 3), views=5)
    with pytest.raises(FileNotFoundError):
        small.views("missing.mp4")

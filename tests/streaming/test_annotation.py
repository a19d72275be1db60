"""The annotated video, read off its pixels."""

import numpy as np

from videoswin_keras.streaming.about import About
from videoswin_keras.streaming.annotation import annotate
from videoswin_keras.streaming.frames import Sampler
from videoswin_keras.streaming.report import COLOURS
from videoswin_keras.streaming.timeline import Result

RGB = [tuple(bytes.fromhex(colour.removeprefix("#"))) for colour in COLOURS]
ABOUT = About("night", ("awake", "asleep and dreaming of große Äpfel, for a very long time indeed"), "night.mp4", 2.0)
RESULTS = [
    Result(0.0, 1.0, (0.75, 0.25), (0.9, 0.1)),
    Result(1.0, 5.0, None, None),
    Result(5.0, 6.5, (0.2, 0.8), (0.2, 0.8)),
]


def frames(times, size):
    return [(time, lambda grey=grey: np.full((*size, 3), grey, "uint8")) for grey, time in enumerate(times, start=100)]


def has(picture, colour):
    return bool((np.abs(picture.astype(int) - colour).sum(axis=-1) == 0).any())


def test_pictures():
    """Half a second each; 1.5 s are held for 1 s, then there is no picture until 5 s."""
    times = [0.0, 0.5, 1.0, 1.5, 5.0, 5.5, 6.0]
    pictures = list(annotate(frames(times, (90, 160)), RESULTS, ABOUT, Sampler(2.0, 1.0)))
    assert {picture.shape for picture in pictures} == {(360 + 56, 640, 3)}
    assert [int(picture[180, 320, 0]) for picture in pictures] == [
        100,
        101,
        102,
        103,
        103,
        103,
        96,
        96,
        96,
        96,
        104,
        105,
        106,
    ]
    bands = [picture[360:] for picture in pictures]
    bar = bands[0][40, :, :]
    assert tuple(bar[9 + int(0.7 * 624)]) == RGB[0]
    assert tuple(bar[9 + int(0.8 * 624)]) == RGB[1]
    assert has(bands[0][:30], RGB[0])
    for band in bands[2:10]:  # unscored: no bar, a grey word
        assert not has(band, RGB[0])
        assert not has(band, RGB[1])
    assert has(bands[10][:30], RGB[1])
    assert not np.array_equal(bands[2], bands[4])  # the clock goes on
    np.testing.assert_array_equal(bands[2], bands[3])


def test_portrait_and_a_change_of_size():
    changing = [*frames([0.0], (160, 90)), (0.5, lambda: np.full((50, 90, 3), 200, "uint8"))]
    first, second = annotate(changing, RESULTS, ABOUT, Sampler(2.0))
    assert first.shape == second.shape == (640 + 56, 360, 3)
    assert second[320, 180, 0] == 200
    assert second[10, 180, 0] == 0  # in its proportions, black above and below


def test_draws_the_square_that_is_looked_at():
    """224 of 256 pixels: 315 of 360, in the middle."""
    (picture,) = annotate(frames([0.0], (90, 160)), RESULTS, ABOUT, Sampler(2.0), share=224 / 256)
    is_drawn = (picture[:360] == (255, 255, 0)).all(axis=-1)
    rows, columns = np.flatnonzero(is_drawn.any(axis=1)), np.flatnonzero(is_drawn.any(axis=0))
    assert abs(rows[-1] - rows[0] + 1 - 315) <= 1
    assert abs(columns[-1] - columns[0] + 1 - 315) <= 1
    assert abs(rows[0] + rows[-1] - 359) <= 1
    assert abs(columns[0] + columns[-1] - 639) <= 1
    assert (picture[180, 320] == 100).all()


def test_several_classes_at_once():
    """The names of those that are there, each in its colour; and a bar of each class in its third of the width."""
    about = About("night", ("lying", "eating", "at the wall"), "night.mp4", 2.0, multi_label=True)
    rows = [(0.75, 0.1, 0.5), (0.2, 0.1, 0.2), None]
    results = [Result(index / 2, (index + 1) / 2, row, row, multi_label=True) for index, row in enumerate(rows)]
    bands = [picture[360:] for picture in annotate(frames([0.0, 0.5, 1.0], (90, 160)), results, about, Sampler(2.0))]
    named = [[has(band[:30], colour) for colour in RGB[:3]] for band in bands]
    assert named == [[True, False, True], [False] * 3, [False] * 3]
    assert not np.array_equal(bands[1][:30, :200], bands[2][:30, :200])  # none, unscored
    for label, colour in enumerate(RGB[:3]):
        for band, row in zip(bands[:2], rows[:2], strict=True):
            there = np.flatnonzero((band[40] == colour).all(axis=-1))
            assert abs(there[0] - (8 + 208 * label)) <= 1
            assert abs(there[-1] - (8 + 208 * (label + row[label]))) <= 1

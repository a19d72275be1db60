"""Window geometry against brute force."""

import itertools

import keras
import numpy as np
import pytest
from gradients import gradients_of
from keras import ops

from videoswin_keras.nn import windows


def brute_force_index(window):
    """The row of the table for each pair of tokens, one pair at a time."""
    t, h, w = window
    tokens = list(itertools.product(range(t), range(h), range(w)))
    return [
        [
            ((a[0] - b[0] + t - 1) * (2 * h - 1) + (a[1] - b[1] + h - 1)) * (2 * w - 1) + (a[2] - b[2] + w - 1)
            for b in tokens
        ]
        for a in tokens
    ]


@pytest.mark.parametrize("window", [(2, 3, 5), (1, 1, 1), (3, 2, 2)])
def test_relative_position_index(window):
    index = windows.relative_position_index(window)
    assert index.tolist() == brute_force_index(window)
    assert windows.num_relative_positions(window) == index.max() + 1


@pytest.mark.parametrize(
    ("size", "shifted", "window", "shift"),
    [
        ((16, 56, 56), True, (8, 7, 7), (4, 3, 3)),
        ((16, 56, 56), False, (8, 7, 7), (0, 0, 0)),
        ((8, 7, 8), True, (8, 7, 7), (0, 0, 3)),  # as long as the window: one window, nothing to shift
        ((3, 2, 50), True, (3, 2, 7), (0, 0, 3)),
    ],
)
def test_clip_window(size, shifted, window, shift):
    assert windows.clip_window(size, (8, 7, 7), shifted) == (window, shift)
    tensors = tuple(ops.convert_to_tensor(side) for side in size)
    dynamic = windows.clip_window(tensors, (8, 7, 7), shifted)
    assert [[int(value) for value in values] for values in dynamic] == [list(window), list(shift)]


def test_partition_and_merge():
    size, window = (4, 6, 10), (2, 3, 5)
    x = np.arange(2 * 4 * 6 * 10 * 3).reshape(2, *size, 3)
    parts = windows.partition(x, window, np)
    expected = [
        x[b, t : t + 2, h : h + 3, w : w + 5].reshape(30, 3)
        for b, t, h, w in itertools.product(range(2), range(0, 4, 2), range(0, 6, 3), range(0, 10, 5))
    ]
    np.testing.assert_array_equal(parts, expected)
    np.testing.assert_array_equal(ops.convert_to_numpy(windows.partition(x, window)), expected)
    np.testing.assert_array_equal(ops.convert_to_numpy(windows.merge(parts, window, size)), x)


def test_roll():
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 6, 2)).astype("float32")
    rolled = ops.convert_to_numpy(windows.roll(x, (1, 0, 4)))
    np.testing.assert_array_equal(rolled, np.roll(x, (-1, 0, -4), axis=(1, 2, 3)))
    np.testing.assert_array_equal(ops.convert_to_numpy(windows.unroll(rolled, (1, 0, 4))), x)


def test_pad_and_crop():
    x = np.ones((1, 3, 4, 5, 2), "float32")
    padded = ops.convert_to_numpy(windows.pad_to(x, (4, 4, 7)))
    assert padded.shape == (1, 4, 4, 7, 2)
    assert padded.sum() == x.sum()
    np.testing.assert_array_equal(ops.convert_to_numpy(windows.crop_to(padded, (3, 4, 5))), x)


def brute_force_windows(size, window, shift):
    """Returns, for the numbers of the tokens of each window (0 where there is padding), its mask.

    Follows each token to where it was before the cyclic shift: two tokens of a window may see each other if neither or
    both of them wrapped around, along each axis.
    """
    padded = tuple(-(-length // side) * side for length, side in zip(size, window, strict=True))
    numbers = np.zeros(padded, int)
    numbers[tuple(slice(length) for length in size)] = np.arange(1, np.prod(size) + 1).reshape(size)
    numbers = np.roll(numbers, [-amount for amount in shift], axis=(0, 1, 2))
    masks = {}
    starts = (range(0, length, side) for length, side in zip(padded, window, strict=True))
    for start in itertools.product(*starts):
        tokens = list(itertools.product(*(range(s, s + side) for s, side in zip(start, window, strict=True))))
        wrapped = [
            tuple(p + amount >= length and amount > 0 for p, amount, length in zip(token, shift, padded, strict=True))
            for token in tokens
        ]
        key = tuple(numbers[token] for token in tokens)
        masks[key] = [[0.0 if a == b else -3e4 for b in wrapped] for a in wrapped]
    return masks


SIZES = pytest.mark.parametrize(
    ("size", "window", "shift"),
    [
        ((4, 6, 6), (2, 3, 3), (1, 1, 1)),
        ((3, 5, 7), (2, 3, 3), (1, 1, 1)),  # padded along every axis
        ((2, 6, 9), (2, 3, 3), (0, 1, 1)),  # as long as the window: not shifted
        ((4, 2, 3), (2, 2, 3), (1, 0, 0)),  # a smaller window
        ((5, 6, 4), (2, 3, 3), None),
    ],
)


@SIZES
@pytest.mark.parametrize("training", [False, True])  # by the backend, and by the adjoint that is given
def test_gradient_of_partition_is_merge(size, window, shift, training):
    grid = windows.WindowGrid(size, (2, 3, 3), shifted=shift is not None)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, *size, 4)).astype("float32")
    parts = generator.normal(size=ops.shape(grid.partition(x))).astype("float32")
    (gradient,) = gradients_of(lambda x: ops.sum(ops.convert_to_tensor(parts) * grid.partition(x, training)), x)
    np.testing.assert_array_equal(gradient, ops.convert_to_numpy(grid.merge(parts)))
    (gradient,) = gradients_of(lambda parts: ops.sum(ops.convert_to_tensor(x) * grid.merge(parts, training)), parts)
    np.testing.assert_array_equal(gradient, ops.convert_to_numpy(grid.partition(x)))


@SIZES
@pytest.mark.parametrize("is_known", [True, False] if keras.backend.backend() == "tensorflow" else [True])
def test_window_grid(size, window, shift, is_known):
    """On TensorFlow sizes can be unknown until run time."""
    expected = brute_force_windows(size, window, shift or (0, 0, 0))
    numbers = np.arange(1, np.prod(size) + 1, dtype="float32").reshape(1, *size, 1)
    clips = np.concatenate([numbers, 1000 * numbers])
    given = size if is_known else tuple(ops.convert_to_tensor(side) for side in size)
    grid = windows.WindowGrid(given, (2, 3, 3), shifted=shift is not None)
    partitioned = grid.partition(clips)
    np.testing.assert_array_equal(ops.convert_to_numpy(grid.merge(partitioned)), clips)
    found = ops.convert_to_numpy(partitioned)[..., 0]
    np.testing.assert_array_equal(found[1], 1000 * found[0])
    keys = [tuple(window) for window in found[0].astype(int)]
    assert sorted(keys) == sorted(expected)
    assert grid.is_exact == (is_known and 0 not in sum(keys, ()))
    if shift is None:
        assert grid.shift_mask is None
        return
    masks = ops.convert_to_numpy(grid.shift_mask.masks())
    np.testing.assert_array_equal(masks, [expected[key] for key in keys])
    if is_known:
        assert len(grid.shift_mask.regions) <= 8
        assert list(grid.shift_mask.patterns) == sorted(grid.shift_mask.patterns)

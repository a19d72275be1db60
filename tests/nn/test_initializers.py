"""Initial weights: distributed as they should be, drawn anew each time, and the same for the same seed."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from videoswin_keras import VideoSwinT
from videoswin_keras.nn.initializers import RandomNormal, RandomUniform


@pytest.mark.parametrize(
    ("initializer", "mean", "deviation", "most"),
    [(RandomNormal(0.1, 0.02, seed=1), 0.1, 0.02, 0.3), (RandomUniform(-0.3, 0.5, seed=1), 0.1, 0.8 / 12**0.5, 0.5)],
)
def test_distribution(initializer, mean, deviation, most):
    drawn = initializer((100, 200))
    assert keras.backend.standardize_dtype(drawn.dtype) == "float32"
    assert keras.backend.standardize_dtype(initializer((2,), "bfloat16").dtype) == "bfloat16"
    drawn = ops.convert_to_numpy(drawn)
    assert drawn.shape == (100, 200)
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [mean, deviation], rtol=0.05)
    assert np.abs(drawn).max() <= most
    again = keras.initializers.deserialize(keras.initializers.serialize(initializer))
    np.testing.assert_array_equal(ops.convert_to_numpy(again((100, 200))), drawn)


def test_the_seed_of_keras_decides():
    def weights(seed):
        keras.utils.set_random_seed(seed)
        small = {"embed_dim": 8, "depths": (2,), "num_heads": (1,), "window_size": (2, 3, 3)}
        return VideoSwinT((None, None, None, 3), num_classes=3, **small).get_weights()

    one, same, other = weights(1), weights(1), weights(2)
    kernels = [index for index, array in enumerate(one) if array.ndim > 1 and array.std() > 0]
    assert len(kernels) > 8
    for index in kernels:
        np.testing.assert_array_equal(one[index], same[index])
        assert not np.array_equal(one[index], other[index])
    for first, second in itertools.combinations(kernels, 2):  # no two of a model are alike
        assert one[first].shape != one[second].shape or not np.array_equal(one[first], one[second])

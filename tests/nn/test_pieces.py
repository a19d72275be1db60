"""What is computed in pieces is what is computed at once."""

import keras
import numpy as np
import pytest
from gradients import outputs_and_gradients
from keras import ops

from videoswin_keras.nn import pieces
from videoswin_keras.nn.block import VideoSwinBlock


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_BYTES", {"cpu": 2**12, "gpu": 2**12})


def block(**arguments):
    keras.utils.set_random_seed(0)
    block = VideoSwinBlock(2, (2, 3, 3), **arguments)
    block.build((None, None, None, None, 8))
    return block


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(4, 6, 6), (5, 7, 9)])  # whole windows, and padded
def test_a_block_in_pieces(small_pieces, shifted, size):
    x = np.random.default_rng(0).normal(size=(2, *size, 8)).astype("float32")
    lengths, model = [], keras.Sequential([keras.Input(x.shape[1:]), block(shifted=shifted)])
    original = pieces.piece_length

    def seen(*arguments):
        lengths.append(original(*arguments))
        return lengths[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "piece_length", seen)
        outputs = model.predict(x, verbose=0)  # TensorFlow does not know the batch here
    assert len(lengths) >= 2  # attention and perceptron
    assert None not in lengths
    with pieces.whole():
        expected = ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(outputs, expected, atol=2e-6)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("use_rematerialization", [False, True])
def test_gradients_in_pieces(small_pieces, shifted, use_rematerialization):
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 6, 8)).astype("float32")
    layer = block(shifted=shifted, use_rematerialization=use_rematerialization)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    outputs, gradients = outputs_and_gradients(model, x)
    with pieces.whole():
        expected, expected_gradients = outputs_and_gradients(model, x)
    np.testing.assert_allclose(outputs, expected, atol=2e-6)
    for path, gradient in expected_gradients.items():
        np.testing.assert_allclose(gradients[path], gradient, atol=1e-5 * np.abs(gradient).max(), err_msg=path)


def test_a_piece_divides_the_whole(small_pieces):
    x = keras.ops.ones(1)
    with pytest.MonkeyPatch.context() as patch:  # JAX's pieces are for compiled functions only
        patch.setattr(pieces, "_would_compile_each_time", lambda x: False)
        assert pieces.piece_length(x, 64, 2**8) == 16
        assert pieces.piece_length(x, 63, 2**8) == 9
        assert pieces.piece_length(x, 61, 2**8) == 1
        assert pieces.piece_length(x, 64, 2**20) == 1  # one is the least
        assert pieces.piece_length(x, 16, 2**8) is None  # all at once
        with pieces.whole():
            assert pieces.piece_length(x, 64, 2**8) is None

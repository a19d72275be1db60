"""What is computed in chunks is what is computed at once."""

import contextlib

import keras
import numpy as np
import pytest
from gradients import outputs_and_gradients, set_seeds
from keras import ops

from videoswin_keras import FeedbackAttentionMemory, kernels
from videoswin_keras.kernels import attention, chunks, device, dispatch
from videoswin_keras.nn.block import VideoSwinBlock

SIZE = (4, 6, 9)  # two by two by three windows


@pytest.fixture(params=[2**12, 2**16], ids=["of_one_window", "of_several"])
def chunk_bytes(request, monkeypatch):
    """Makes pieces small, and any weights too many to be kept."""
    monkeypatch.setattr(attention, "STORED_BYTES", 0)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", {"cpu": request.param, "gpu": request.param})
    return request.param


@pytest.fixture
def chosen(monkeypatch):
    """Holds the lengths of pieces that were chosen."""
    lengths, chunk_length = [], chunks.chunk_length

    def seen(*arguments):
        lengths.append(chunk_length(*arguments))
        return lengths[-1]

    monkeypatch.setattr(chunks, "chunk_length", seen)
    return lengths


@pytest.fixture
def lengths(chunk_bytes, chosen):
    """Makes pieces small, and sees to it that they were."""
    yield chosen
    assert chosen[0] is not None
    assert (chosen[0] > 1) == (chunk_bytes == 2**16)


def model(size=SIZE, dtype="float32", **arguments):
    keras.utils.set_random_seed(0)
    layer = VideoSwinBlock(2, (2, 3, 3), dtype=dtype, **arguments)
    return keras.Sequential([keras.Input((*size, 8)), layer])


def clips(size=SIZE):
    return np.random.default_rng(0).normal(size=(2, *size, 8)).astype("float32")


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [SIZE, (5, 7, 9)])  # whole windows, and padded
def test_a_block(lengths, shifted, size):
    block = model(size, shifted=shifted)
    outputs = block.predict(clips(size), verbose=0)  # TensorFlow does not know the batch here
    with chunks.whole():
        expected = ops.convert_to_numpy(block(clips(size)))
    np.testing.assert_allclose(outputs, expected, atol=2e-6)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("use_rematerialization", [False, True])
def test_gradients(lengths, shifted, use_rematerialization):
    rates = {"drop_path_rate": 0.3, "projection_dropout_rate": 0.0}
    block = model(shifted=shifted, use_rematerialization=use_rematerialization, **rates)
    set_seeds(block)
    outputs, gradients = outputs_and_gradients(block, clips())
    set_seeds(block)
    with chunks.whole():
        expected, expected_gradients = outputs_and_gradients(block, clips())
    np.testing.assert_allclose(outputs, expected, atol=2e-6)
    for path, gradient in expected_gradients.items():
        np.testing.assert_allclose(gradients[path], gradient, atol=1e-5 * np.abs(gradient).max(), err_msg=path)


@pytest.mark.parametrize("filled", [(0, 0), (2, 1)])  # in each of two streams
def test_a_memory(chunk_bytes, chosen, filled):
    """A few heads at a time but on PyTorch, whose attention is fused."""
    keras.utils.set_random_seed(0)
    memory = FeedbackAttentionMemory(num_tokens=6, memory_length=40)
    memory.build((None, None, 128))
    generator = np.random.default_rng(0)
    memory.set_weights([generator.normal(0, 0.3, weight.shape) for weight in memory.get_weights()])
    tokens, queue = keras.Input((15, 128)), keras.Input(memory.state_size[0])
    count = keras.Input((), dtype="int32")
    output, states = memory(tokens, [queue, count])
    arrays = [generator.normal(size=(2, *x.shape[1:])).astype("float32") for x in (tokens, queue)]
    arrays.append(np.array(filled, "int32"))
    chosen.clear()
    found = keras.Model([tokens, queue, count], [output, *states]).predict_on_batch(arrays)
    several = 4 if keras.backend.backend() == "jax" and device.is_on_cpu(tokens) else 2  # of one clip, or of both
    read = {2**12: 1, 2**16: several}[chunk_bytes]
    assert chosen == ([] if keras.backend.backend() == "torch" else [read, None])  # of reading and of writing
    with chunks.whole():
        output, states = memory(arrays[0], arrays[1:])
    for one, expected in zip(found, map(ops.convert_to_numpy, [output, *states]), strict=True):
        # Whole or in chunks, compiled or not, the output is up to 5e-6 from what float64 gives; its largest is 7.9.
        np.testing.assert_allclose(one, expected, atol=1e-6 * max(np.abs(expected).max(), 2))


@pytest.mark.parametrize("is_on_cpu", [True, False])  # computed on a CPU, either way
def test_over_tokens(chunk_bytes, is_on_cpu, monkeypatch):
    monkeypatch.setattr(device, "is_on_cpu", lambda _: is_on_cpu)
    shapes = []

    class Doubled(keras.layers.Layer):
        def call(self, x):
            shapes.clear()

            def function(x):
                shapes.append(tuple(x.shape))
                return 2 * x

            return chunks.over_tokens(function, x, 2**10)

    x = np.random.default_rng(0).normal(size=(2, 6, 7, 8)).astype("float32")
    outputs = keras.Sequential([keras.Input(x.shape[1:], batch_size=2), Doubled()]).predict_on_batch(x)
    np.testing.assert_array_equal(outputs, 2 * x)
    of_each, in_a_row = {2**12: (2, 4), 2**16: (21, 42)}[chunk_bytes]  # divisors of 42 and of 84
    is_in_a_row = keras.backend.backend() == "jax" and is_on_cpu
    assert set(shapes) == {(1, in_a_row, 8) if is_in_a_row else (2, of_each, 8)}


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", "mixed_float16"])
def test_low_precision(lengths, dtype):
    block = model(shifted=True, dtype=dtype)
    outputs = np.asarray(block.predict_on_batch(clips()), "float32")
    with chunks.whole():
        expected = ops.convert_to_numpy(ops.cast(block(clips()), "float32"))
    np.testing.assert_allclose(outputs, expected, atol=0.05)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_int8(lengths):
    block = model(shifted=True)
    block.quantize("int8")
    outputs = block.predict_on_batch(clips())
    with chunks.whole():
        expected = ops.convert_to_numpy(block(clips()))
    np.testing.assert_allclose(outputs, expected, atol=1e-4)


def test_fit(lengths):
    """As users train, with what each backend compiles by default."""

    def trained():
        block = model(shifted=True)
        block.compile(keras.optimizers.SGD(0.1), "mse")
        block.fit(clips(), -clips(), epochs=2, batch_size=2, shuffle=False, verbose=0)
        return block.get_weights()

    in_chunks = trained()
    with chunks.whole():
        for weight, expected in zip(in_chunks, trained(), strict=True):
            np.testing.assert_allclose(weight, expected, atol=1e-5)


@pytest.mark.parametrize("rates", [{"attention_dropout_rate": 0.5}, {"projection_dropout_rate": 0.5}])
def test_dropping_draws_once_for_all(rates, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", {"cpu": 1, "gpu": 1})
    block = model(shifted=True, **rates)
    set_seeds(block)
    outputs, _ = outputs_and_gradients(block, clips())
    set_seeds(block)
    with chunks.whole():
        expected, _ = outputs_and_gradients(block, clips())
    np.testing.assert_allclose(outputs, expected, atol=2e-6)


def test_a_piece_divides_the_whole(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", {"cpu": 2**12, "gpu": 2**12})
    monkeypatch.setattr(dispatch.fast, "can_loop", lambda x: True)  # on JAX only in compiled functions
    one, two = ops.ones((1, 64)), ops.ones((2, 64))
    assert chunks.chunk_length(one, 64, 2**8) == 16
    assert chunks.chunk_length(two, 64, 2**8) == 8
    assert chunks.chunk_length(one, 63, 2**8) == 9
    assert chunks.chunk_length(one, 61, 2**8) == 1
    assert chunks.chunk_length(one, 64, 2**20) == 1  # one is the least
    assert chunks.chunk_length(one, 16, 2**8) is None  # all at once
    with chunks.whole():
        assert chunks.chunk_length(one, 64, 2**8) is None


@pytest.mark.parametrize("training", [False, True])
def test_weights_wait_for_their_block(training):
    """In TensorFlow's graph of an inference; on other backends nothing is to be done."""
    waits = keras.backend.backend() == "tensorflow" and not training
    if keras.backend.backend() != "tensorflow":
        assert isinstance(kernels.after(ops.ones(1)), contextlib.nullcontext)
        return
    import tensorflow as tf

    block = VideoSwinBlock(num_heads=2, window_size=(2, 3, 3), dtype="mixed_bfloat16")
    block.build((1, *SIZE, 8))
    graph = tf.function(lambda x: block(x, training=training)).get_concrete_function(tf.ones((1, *SIZE, 8))).graph
    reads = [operation for operation in graph.get_operations() if operation.type == "ReadVariableOp"]
    assert reads
    assert all(bool(operation.control_inputs) == waits for operation in reads)

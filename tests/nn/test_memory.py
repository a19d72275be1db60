"""The memory cell against an implementation in NumPy, and what its contract promises."""

import keras
import numpy as np
import pytest
from contract import check_config
from gradients import outputs_and_gradients
from keras import ops

from videoswin_keras import FeedbackAttentionMemory, FlatMemoryCell

TOKENS, LENGTH, CHANNELS = 3, 4, 64


def trained(memory_length=LENGTH, seed=0, channels=CHANNELS, **kwargs):
    """A memory whose every weight is random, the gate included."""
    memory = FeedbackAttentionMemory(TOKENS, memory_length, **kwargs)
    memory.build((None, None, channels))
    rng = np.random.default_rng(seed)
    memory.set_weights([rng.normal(0, 0.3, weight.shape) for weight in memory.get_weights()])
    return memory


def clips(count, batch=2, tokens=5, seed=1, channels=CHANNELS):
    return np.random.default_rng(seed).normal(size=(count, batch, tokens, channels)).astype("float32")


def run(memory, sequence, states=None):
    """Returns the outputs of all clips, and the states after the last."""
    states = memory.get_initial_state(sequence.shape[1]) if states is None else states
    outputs = []
    for tokens in sequence:
        output, states = memory(tokens, states)
        outputs.append(ops.convert_to_numpy(output))
    return np.stack(outputs), [ops.convert_to_numpy(state) for state in states]


# --- an independent implementation: NumPy, float64, a growing list instead of a queue ---------------------------


def norm(x, weights):
    gamma, beta = weights
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gamma + beta


def attend(queries, tokens, weights):
    """Attention of one stream: heads of 32 channels, one at a time."""
    wq, bq, wkv, bkv, wp, bp = weights
    channels = queries.shape[-1]
    query = queries @ wq + bq
    key, value = np.split(tokens @ wkv + bkv, 2, axis=-1)
    heads = []
    for start in range(0, channels, 32):
        part = slice(start, start + 32)
        logits = query[:, part] @ key[:, part].T / np.sqrt(32)
        weights_ = np.exp(logits - logits.max(-1, keepdims=True))
        heads.append(weights_ / weights_.sum(-1, keepdims=True) @ value[:, part])
    return np.concatenate(heads, axis=-1) @ wp + bp


def of(memory):
    values = lambda layer: [ops.convert_to_numpy(v).astype("float64") for v in layer.weights]  # noqa: E731
    attention = lambda layer: [*values(layer.query), *values(layer.key_value), *values(layer.projection)]  # noqa: E731
    return values, attention


def by_hand(memory, sequence, stream):
    values, attention = of(memory)
    gate, scale, learned = (
        ops.convert_to_numpy(v).astype("float64") for v in (memory.gate, memory.age_scale, memory.tokens)
    )
    summaries, outputs = [], []
    for x in sequence[:, stream].astype("float64"):
        recent = summaries[-memory.memory_length :]
        if recent:
            tokens = []
            for ago, summary in zip(range(len(recent), 0, -1), recent, strict=True):
                angles = [ago / 10000 ** (2 * i / CHANNELS) for i in range(CHANNELS // 2)]
                age = np.concatenate([np.sin(angles), np.cos(angles)])
                tokens.append(norm(summary, values(memory.queue_norm)) + scale * age)
            read = attend(norm(x, values(memory.read_norm)), np.concatenate(tokens), attention(memory.read_attention))
            x = x + np.tanh(gate) * read
        seen = norm(x, values(memory.clip_norm))
        queries = learned
        if summaries:
            queries = learned + summaries[-1]
            seen = np.concatenate([seen, norm(summaries[-1], values(memory.feedback_norm))])
        written = attend(norm(queries, values(memory.query_norm)), seen, attention(memory.write_attention))
        summaries.append(norm(queries + written, values(memory.summary_norm)))
        outputs.append(x)
    return np.stack(outputs), summaries


def test_numpy_computes_the_same():
    memory, sequence = trained(), clips(11)  # the queue wraps round almost three times
    outputs, (queue, filled) = run(memory, sequence)
    for stream in range(2):
        expected, summaries = by_hand(memory, sequence, stream)
        np.testing.assert_allclose(outputs[:, stream], expected, atol=2e-5)
        np.testing.assert_allclose(queue[stream], summaries[-LENGTH:], atol=2e-5)
    assert filled.tolist() == [LENGTH, LENGTH]


# --- the contract of the memory ---------------------------------------------------------------------------------


def test_a_new_memory_changes_nothing():
    memory = FeedbackAttentionMemory(TOKENS, LENGTH)
    memory.build((None, None, CHANNELS))
    sequence = clips(7)
    outputs, _ = run(memory, sequence)
    np.testing.assert_array_equal(outputs, sequence)


def test_an_empty_memory_reads_exactly_nothing_whatever_the_queue_holds():
    memory, sequence = trained(), clips(1)
    queue, filled = (ops.convert_to_numpy(state) for state in memory.get_initial_state(2))
    expected = run(memory, sequence)
    np.testing.assert_array_equal(expected[0], sequence)
    for rubbish in (1e30, np.nan, np.inf):
        outputs, states = run(memory, sequence, [np.full_like(queue, rubbish), filled])
        np.testing.assert_array_equal(outputs, sequence)
        np.testing.assert_array_equal(states[0][:, -1], expected[1][0][:, -1])


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_what_is_read_of_the_slots_can_be_kept(dtype):
    memory, sequence = trained(dtype=dtype), clips(4)
    states = memory.get_initial_state(2)
    for tokens in sequence[:3]:
        _, states = memory(tokens, states)
    queue, filled = states
    slots = [memory.project(queue[:, index : index + 1]) for index in range(LENGTH)]  # each as it comes
    output, (slot, count) = memory(sequence[3], [queue[:, -1:], filled], ops.concatenate(slots, axis=1))
    expected, (queue, expected_count) = memory(sequence[3], states)
    tolerance = 1e-6 if dtype == "float32" else 0.02
    for one, other in ((output, expected), (slot, queue[:, -1:]), (count, expected_count)):
        one, other = (ops.convert_to_numpy(ops.cast(x, "float32")) for x in (one, other))
        np.testing.assert_allclose(one, other, atol=tolerance)
    with pytest.raises(ValueError, match=r"queue of shape .* \(2, 1, "):
        memory(sequence[3], states, ops.concatenate(slots, axis=1))
    with pytest.raises(ValueError, match="`projected` of shape"):  # and not the same slot at every age
        memory(sequence[3], [queue[:, -1:], filled], slots[0])


def test_slots_that_are_not_filled_are_never_seen():
    memory, sequence = trained(), clips(6)
    _, (queue, filled) = run(memory, sequence[:2])
    spoilt = queue.copy()
    spoilt[:, :2] = np.nan
    for clean, dirty in zip(
        run(memory, sequence[2:], [queue, filled]), run(memory, sequence[2:], [spoilt, filled]), strict=True
    ):
        np.testing.assert_array_equal(clean[0], dirty[0])


def test_a_longer_queue_after_training():
    """L shapes no weight, and until the shorter queue drops something both remember the same."""
    short, long = trained(4), trained(9)
    assert [w.shape for w in short.get_weights()] == [w.shape for w in long.get_weights()]
    sequence = clips(7)
    few, _ = run(short, sequence)
    many, (_, filled) = run(long, sequence)
    np.testing.assert_allclose(many[:5], few[:5], atol=1e-5)
    assert not np.allclose(many[6], few[6], atol=1e-3)
    assert filled.tolist() == [7, 7]


def test_streams_do_not_meet():
    memory, sequence = trained(), clips(5, batch=3)
    outputs, _ = run(memory, sequence)
    for stream in range(3):
        alone, _ = run(memory, sequence[:, stream : stream + 1])
        np.testing.assert_allclose(outputs[:, stream], alone[:, 0], atol=1e-5)


def test_the_past_matters_and_longer_than_the_queue():
    """Two pasts that differ in one clip, far more clips ago than the queue holds, through the feedback alone."""
    memory, one = trained(2), clips(9)
    other = one.copy()
    other[0] = -one[0]
    difference = np.abs(run(memory, one)[0] - run(memory, other)[0]).max(axis=(1, 2, 3))
    assert (difference[1:] > 1e-6).all()


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_low_precision_keeps_the_state_in_float32(dtype):
    memory, exact = trained(dtype=dtype), trained()
    sequence = clips(5)
    states = memory.get_initial_state(2)
    for tokens in sequence:
        output, states = memory(tokens, states)
    assert keras.backend.standardize_dtype(output.dtype) == memory.compute_dtype
    assert [keras.backend.standardize_dtype(state.dtype) for state in states] == ["float32", "int32"]
    expected = run(exact, sequence)[0][-1]
    np.testing.assert_allclose(ops.convert_to_numpy(ops.cast(output, "float32")), expected, atol=0.15)


def test_every_weight_gets_a_gradient():
    memory = trained()
    inputs = keras.Input(batch_shape=(2, 3, 5, CHANNELS))
    states = [ops.zeros((2, *size), dtype) for size, dtype in zip(memory.state_size, ("float32", "int32"), strict=True)]

    class Loop(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.memory = memory

        def call(self, x):
            now, outputs = states, []
            for clip in range(3):
                output, now = self.memory(x[:, clip], now)
                outputs.append(output)
            return ops.stack(outputs, axis=1)

    model = keras.Model(inputs, Loop()(inputs))
    _, gradients = outputs_and_gradients(model, clips(2, batch=3))
    for path, gradient in gradients.items():
        assert gradient is not None, path
        assert np.isfinite(gradient).all(), path
        assert np.any(gradient != 0), path


def test_gradients_of_an_empty_memory_are_finite():
    memory = trained()
    inputs = keras.Input(batch_shape=(2, 5, CHANNELS))
    states = [ops.zeros((2, *size), dtype) for size, dtype in zip(memory.state_size, ("float32", "int32"), strict=True)]
    model = keras.Model(inputs, memory(inputs, states)[0])
    _, gradients = outputs_and_gradients(model, clips(1)[0])
    assert all(gradient is None or np.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.large
@pytest.mark.one_backend
def test_a_hundred_thousand_steps():
    """More than two days of clips every two seconds, with every weight at random: finite and bounded."""
    memory, rng = trained(channels=32), np.random.default_rng(0)
    tokens, states = keras.Input(batch_shape=(1, 5, 32)), memory.get_initial_state(1)
    inputs = [keras.Input(batch_shape=state.shape, dtype=state.dtype) for state in states]
    output, new_states = memory(tokens, inputs)
    step = keras.Model([tokens, *inputs], [output, *new_states])
    states = [ops.convert_to_numpy(state) for state in states]
    largest = []
    for _ in range(100):
        for _ in range(1000):
            output, *states = step.predict_on_batch([rng.normal(size=(1, 5, 32)).astype("float32"), *states])
        largest.append([np.abs(output).max(), np.abs(states[0]).max()])
    largest = np.array(largest)
    assert np.isfinite(largest).all()
    assert (largest[50:].max(axis=0) < 1.5 * largest[:50].max(axis=0)).all()  # it does not grow
    assert states[1].tolist() == [LENGTH]


def test_in_the_rnn_of_keras():
    memory, sequence = trained(), clips(6)
    expected, _ = run(memory, sequence)
    cell = FlatMemoryCell(memory, tokens=5, channels=CHANNELS)
    rnn = keras.layers.RNN(cell, return_sequences=True)
    inputs = keras.Input((None, 5 * CHANNELS))
    model = keras.Model(inputs, rnn(inputs))
    outputs = model.predict(sequence.transpose(1, 0, 2, 3).reshape(2, 6, -1), verbose=0)
    np.testing.assert_allclose(outputs.reshape(2, 6, 5, CHANNELS).transpose(1, 0, 2, 3), expected, atol=1e-5)


def test_configuration():
    check_config(FeedbackAttentionMemory(7, 9, dtype="mixed_bfloat16"))
    cell = FlatMemoryCell(FeedbackAttentionMemory(7, 9), 5, 64)
    assert FlatMemoryCell.from_config(cell.get_config()).memory.get_config() == cell.memory.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeedbackAttentionMemory(num_tokens=0), "at least 1"),
        (lambda: FeedbackAttentionMemory(memory_length=0), "at least 1"),
        (lambda: FeedbackAttentionMemory().build((None, None, 48)), "multiple of 32"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("queue", [(2, 3, 4, 32), (1, 2, 4, 32), (1, 3, 5, 32), (1, 3, 4, 64), (3, 4, 32)])
def test_a_state_of_something_else(queue):
    memory = FeedbackAttentionMemory(num_tokens=4, memory_length=3)
    memory.build((None, None, 32))
    with pytest.raises(ValueError, match="of another model"):
        memory(np.zeros((1, 10, 32), "float32"), [np.zeros(queue, "float32"), np.zeros(queue[0], "int32")])

"""The model with a memory: one step per clip, sequences of clips, states, and weights."""

import h5py
import keras
import numpy as np
import pytest
from contract import check_config, compute
from gradients import outputs_and_gradients
from keras import ops

from videoswin_keras import (
    CheckpointError,
    RecurrentVideoSwin,
    VideoSwinBackbone,
    VideoSwinT,
    convert,
    from_checkpoint,
    load_checkpoint,
)
from videoswin_keras.models.recurrent import flatten, load_state, save_state, unflatten

SMALL = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": (2, 3, 3)}
ANY = (None, None, None, 3)
MEMORY = {"stages": (1, 2), "num_tokens": 3, "memory_length": 4}


def small_model(memory=None, input_shape=ANY, trained=True, **kwargs):
    model = VideoSwinT(input_shape, num_classes=5, memory={**MEMORY, **(memory or {})}, **{**SMALL, **kwargs})
    if trained:
        rng = np.random.default_rng(0)
        for memory_layer in model.memories.values():
            memory_layer.set_weights([rng.normal(0, 0.5, weight.shape) for weight in memory_layer.get_weights()])
    return model


def clips(batch=2, count=6, seed=0, size=(4, 16, 20)):
    return np.random.default_rng(seed).normal(size=(batch, count, *size, 3)).astype("float32")


def steps(model, sequence, state=None):
    """Returns the logits (batch, clips, classes) of steps, and the state after them."""
    state = model.initial_state(len(sequence)) if state is None else state
    logits = []
    for index in range(sequence.shape[1]):
        outputs, state = model.step(sequence[:, index], state)
        logits.append(ops.convert_to_numpy(outputs))
    return np.stack(logits, axis=1), state


def as_numpy(state):
    return [ops.convert_to_numpy(x) for x in flatten(state)]


def test_what_is_no_sequence_no_clip_and_no_state_is_refused():
    model, sequence = small_model(), clips()
    state = model.initial_state(2)
    with pytest.raises(ValueError, match=r"Expected shape \(batch, clips, .*One clip goes into `step`"):
        model(sequence[:, 0])
    with pytest.raises(ValueError, match=r"Expected shape \(batch, clips, .*One clip goes into `step`"):
        model.steps(sequence[:, 0], state)
    with pytest.raises(ValueError, match=r"Expected shape \(batch, frames, .*A sequence of clips goes into `steps`"):
        model.step(sequence, state)
    for wrong, received in ((None, "NoneType"), ({"stage3": {}}, r"\['stage3'\]")):
        for function, x in ((model.step, sequence[:, 0]), (model.steps, sequence)):
            with pytest.raises(ValueError, match=f"`state` must be what .*stage1.*Received: {received}"):
                function(x, wrong)


# --- a step, and a sequence -------------------------------------------------------------------------------------


def test_a_new_memory_changes_no_logit():
    model = small_model(trained=False)
    sequence = clips()
    logits, _ = steps(model, sequence)
    expected = [compute(model.model, sequence[:, index]) for index in range(6)]
    np.testing.assert_array_equal(logits, np.stack(expected, axis=1))


def test_a_sequence_is_its_steps():
    model, sequence = small_model(), clips()
    logits, state = steps(model, sequence)
    np.testing.assert_allclose(compute(model, sequence), logits, atol=2e-5)
    assert not np.allclose(logits[:, -1], steps(model, sequence[:, -1:])[0][:, 0], atol=1e-3)  # the past matters
    assert {stage: list(part) for stage, part in state.items()} == {
        "stage1": ["queue", "filled"],
        "stage2": ["queue", "filled"],
    }
    assert as_numpy(state)[1].tolist() == [4, 4]


def test_compiled_sequences_and_steps():
    model, sequence = small_model(), clips()
    expected, _ = steps(model, sequence)
    for count in (6, 3, 5) if keras.backend.backend() == "tensorflow" else (6, 3):  # TensorFlow then stops tracing
        outputs = model.predict(sequence[:, :count], verbose=0)
        np.testing.assert_allclose(outputs, expected[:, :count], atol=2e-5)
    step = model.step_model()
    state = as_numpy(model.initial_state(2))
    for index in range(6):
        logits, *state = step.predict_on_batch([sequence[:, index], *state])
        np.testing.assert_allclose(logits, expected[:, index], atol=2e-5)
    assert [part.dtype.name for part in state] == ["float32", "int32"] * 2


@pytest.mark.one_backend
def test_a_step_is_one_graph_for_pytorch():
    """Nothing in it depends on values. (`torch.compile` breaks its graph in Keras's own calls of layers.)"""
    import torch

    class Step(torch.nn.Module):
        def __init__(self, step):
            super().__init__()
            self.step = step

        def forward(self, *inputs):
            return self.step(list(inputs), training=False)

    model, sequence = small_model(input_shape=(4, 16, 20, 3)), torch.tensor(clips())
    with torch.no_grad():
        state = flatten(model.initial_state(2))
        batch = torch.export.Dim("batch", min=1)  # the other sizes are fixed
        shapes = {"inputs": tuple({0: batch} for _ in range(1 + len(state)))}
        step = Step(model.step_model())
        exported = torch.export.export(step, (sequence[:, 0], *state), dynamic_shapes=shapes).module()
        expected, _ = steps(model, sequence.numpy())
        for index in range(6):
            logits, *state = exported(sequence[:, index], *state)
            np.testing.assert_allclose(logits.numpy(), expected[:, index], atol=1e-6)


def test_split_in_two():
    """All clips at once before the first memory, and one by one after it, are the steps."""
    model, sequence = small_model(), clips()
    expected, end = steps(model, sequence)
    before, after, projections = model.split()
    tokens = before.predict(sequence.reshape(-1, *sequence.shape[2:]), verbose=0)
    tokens = tokens.reshape(2, 6, *tokens.shape[1:])
    queues, filled = as_numpy(model.initial_state(2))[::2], as_numpy(model.initial_state(2))[1::2]
    for index in range(6):
        inputs = [tokens[:, index]]
        for queue, count, project in zip(queues, filled, projections, strict=True):
            inputs += [queue[:, -1:], count, project.predict_on_batch(queue)]
        logits, *new = after.predict_on_batch(inputs)
        np.testing.assert_allclose(logits, expected[:, index], atol=2e-5)
        queues = [np.concatenate([queue[:, 1:], slot], 1) for queue, slot in zip(queues, new[::2], strict=True)]
        filled = new[1::2]
    for one, other in zip([*queues, *filled], [*as_numpy(end)[::2], *as_numpy(end)[1::2]], strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_a_sequence_in_pieces():
    model, sequence = small_model(), clips()
    expected, state = steps(model, sequence)
    first, middle = model.steps(sequence[:, :4], model.initial_state(2))
    second, end = model.steps(sequence[:, 4:], middle)
    logits = np.concatenate([ops.convert_to_numpy(first), ops.convert_to_numpy(second)], axis=1)
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    for one, other in zip(as_numpy(end), as_numpy(state), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_a_reset_stream_is_a_new_one_bit_for_bit():
    model, sequence = small_model(), clips(batch=3)
    _, state = steps(model, sequence)
    before = as_numpy(state)
    reset = model.reset_state(state, [True, False, True])
    for old, now, new in zip(before, as_numpy(reset), as_numpy(model.initial_state(3)), strict=True):
        np.testing.assert_array_equal(now[1], old[1])
        np.testing.assert_array_equal(now[[0, 2]], new[[0, 2]])
    after, _ = steps(model, sequence, reset)
    untouched, _ = steps(model, sequence, state)
    new, _ = steps(model, sequence)
    np.testing.assert_array_equal(after[[0, 2]], new[[0, 2]])
    np.testing.assert_array_equal(after[1], untouched[1])
    for part in as_numpy(model.reset_state(state)):
        assert not part.any()


def test_states_are_saved(tmp_path):
    model, sequence = small_model(), clips()
    _, state = steps(model, sequence)
    save_state(state, tmp_path / "state.npz")
    loaded = load_state(tmp_path / "state.npz")
    assert list(loaded) == list(state)
    for one, other in zip(as_numpy(state), as_numpy(loaded), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(steps(model, sequence, state)[0], steps(model, sequence, loaded)[0])
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]
    assert list(unflatten(flatten(state), list(state))) == list(state)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 and nothing"])
def test_files_that_are_no_states(content, tmp_path):
    (tmp_path / "state.npz").write_bytes(content)
    with pytest.raises(ValueError, match="holds no state"):
        load_state(tmp_path / "state.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="holds no state"):
        load_state(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "absent.npz")


# --- training ---------------------------------------------------------------------------------------------------


def test_fit():
    keras.utils.set_random_seed(0)
    model = small_model(drop_path_rate=0.0)
    model.compile(
        keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    labels = np.arange(12).reshape(4, 3) % 5
    history = model.fit(clips(4, 3), labels, batch_size=2, epochs=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert model.predict(clips(4, 3), verbose=0).shape == (4, 3, 5)


def test_back_propagation_is_truncated():
    """With `bptt_clips=2` the last clip's loss reaches the two clips of its own stretch, and no weight before."""

    def gradients(bptt_clips, sequence):
        keras.utils.set_random_seed(0)
        model = small_model({"bptt_clips": bptt_clips}, drop_path_rate=0.0, dropout_rate=0.0)
        inputs = keras.Input(sequence.shape[1:])
        return outputs_and_gradients(keras.Model(inputs, model(inputs)[:, -1]), sequence)

    sequence = clips(1, 4)
    outputs, full = gradients(None, sequence)
    truncated_outputs, truncated = gradients(2, sequence)
    np.testing.assert_allclose(truncated_outputs, outputs, atol=1e-5)
    _, whole = gradients(4, sequence)
    for path, value in full.items():
        np.testing.assert_allclose(whole[path], value, atol=1e-4 * np.abs(value).max(), err_msg=path)
    kernel = "memory2/write_attention/key_value/kernel"
    assert np.abs(truncated[kernel] - full[kernel]).max() > 1e-3 * np.abs(full[kernel]).max()


def test_rematerialisation_changes_no_gradient():
    def gradients(use_rematerialization):
        keras.utils.set_random_seed(0)
        model = small_model(use_rematerialization=use_rematerialization, drop_path_rate=0.0, dropout_rate=0.0)
        inputs = keras.Input(clips().shape[1:])
        return outputs_and_gradients(keras.Model(inputs, model(inputs)), clips())

    outputs, kept = gradients(False)
    recomputed_outputs, recomputed = gradients(True)
    np.testing.assert_allclose(recomputed_outputs, outputs, atol=1e-5)
    assert any("memory" in path for path in kept)
    for path, value in kept.items():
        np.testing.assert_allclose(recomputed[path], value, atol=1e-4 * np.abs(value).max(), err_msg=path)
        assert np.any(value != 0), path


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_saving(dtype, tmp_path):
    model, sequence = small_model({"bptt_clips": 3}, dtype=dtype), clips()
    check_config(model)
    expected = compute(model, sequence)
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(restored, RecurrentVideoSwin)
    np.testing.assert_array_equal(compute(restored, sequence), expected)
    model.save_weights(tmp_path / "model.weights.h5")
    other = small_model(dtype=dtype, trained=False)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(compute(other, sequence), expected)


def test_weights_with_and_without_a_memory_load(tmp_path):
    model, plain, sequence = small_model(), VideoSwinT(ANY, num_classes=5, **SMALL), clips()
    plain.save_weights(tmp_path / "plain.weights.h5")
    memory_before = [weight.copy() for layer in model.memories.values() for weight in layer.get_weights()]
    load_checkpoint(model, tmp_path / "plain.weights.h5")
    for one, other in zip(model.model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    memory_after = [weight for layer in model.memories.values() for weight in layer.get_weights()]
    for one, other in zip(memory_before, memory_after, strict=True):
        np.testing.assert_array_equal(one, other)

    for name in ("memory.weights.h5", "memory.keras"):
        (model.save if name.endswith(".keras") else model.save_weights)(tmp_path / name)
        new = small_model(trained=False)
        load_checkpoint(new, tmp_path / name)
        np.testing.assert_allclose(compute(new, sequence), compute(model, sequence), atol=1e-6)
    longer = small_model({"memory_length": 9}, trained=False)  # L shapes no weight
    load_checkpoint(longer, tmp_path / "memory.weights.h5")
    with pytest.raises(ValueError, match="memory"):
        load_checkpoint(plain, tmp_path / "memory.weights.h5")
    with pytest.raises(ValueError, match="memory"):
        load_checkpoint(small_model({"stages": (2,)}), tmp_path / "memory.weights.h5")
    with pytest.raises(ValueError, match=r"memory1.tokens: the checkpoint has \(3, 8\), expected \(7, 8\)"):
        load_checkpoint(small_model({"num_tokens": 7}), tmp_path / "memory.weights.h5")


def test_a_model_with_a_memory_from_its_weights_alone(tmp_path):
    """Stages, tokens and length of the memory come with the weights, whichever file they are in."""
    model, sequence = small_model(include_rescaling=False), clips()
    expected = compute(model, sequence)
    model.save(tmp_path / "model.keras")
    convert(tmp_path / "model.keras", tmp_path / "converted.weights.h5")
    convert(tmp_path / "converted.weights.h5", tmp_path / "again.keras")
    restored = from_checkpoint(tmp_path / "converted.weights.h5")
    assert {name: value for name, value in restored.arguments.items() if name in MEMORY} == MEMORY
    np.testing.assert_array_equal(compute(restored, sequence), expected)
    np.testing.assert_array_equal(compute(keras.models.load_model(tmp_path / "again.keras"), sequence), expected)
    convert(tmp_path / "model.keras", tmp_path / "features.weights.h5", drop_head=True)
    features = from_checkpoint(tmp_path / "features.weights.h5")
    assert isinstance(features, RecurrentVideoSwin)
    assert isinstance(features.model, VideoSwinBackbone)


@pytest.mark.parametrize("length", [np.int32(0), np.array([3, 4]), np.float32(3), None])
def test_a_memory_of_no_length(tmp_path, length):
    small_model(trained=False).save_weights(tmp_path / "model.weights.h5")
    with h5py.File(tmp_path / "model.weights.h5", "a") as file:
        variables = file["layers/feedback_attention_memory/vars"]
        del variables["memory_length"]
        if length is not None:
            variables["memory_length"] = length
    with pytest.raises(CheckpointError, match="number from 1" if length is not None else "does not say of how many"):
        from_checkpoint(tmp_path / "model.weights.h5")


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ({"stages": (0,)}, "different numbers from 1 to 2"),
        ({"stages": (3,)}, "different numbers from 1 to 2"),
        ({"stages": ()}, "different numbers from 1 to 2"),
        ({"stages": (2, 2)}, "different numbers from 1 to 2"),
        ({"bptt_clips": 0}, "`bptt_clips`"),
        ({"num_tokens": 0}, "at least 1"),
    ],
)
def test_errors(memory, message):
    with pytest.raises(ValueError, match=message):
        small_model(memory)


@pytest.mark.parametrize("default", [True, {}])
def test_the_default_memory(default):
    model = VideoSwinT(ANY, num_classes=3, memory=default, depths=(1, 1, 1, 1))
    (memory,) = model.memories.values()
    assert (memory.name, memory.num_tokens, memory.memory_length, memory.channels) == ("memory4", 128, 25, 768)
    assert sum(x.nbytes for x in as_numpy(model.initial_state(1))) == 128 * 768 * 25 * 4 + 4
    assert isinstance(VideoSwinT(ANY, num_classes=3, memory=None, **SMALL), keras.Model)

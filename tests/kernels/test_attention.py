"""The attention of windows against plain numpy, its own gradient against that of plain operations."""

import functools

import keras
import numpy as np
import pytest
from gradients import compiled, gradients_of, second_gradients_of
from keras import ops

from videoswin_keras import kernels
from videoswin_keras.kernels import attention, chunks, device, plain
from videoswin_keras.nn import windows

BATCH, WINDOWS, TOKENS, HEADS, WIDTH = 2, 3, 10, 2, 4


def inputs(kinds):
    generator = np.random.default_rng(0)
    qkv = generator.normal(size=(BATCH, WINDOWS, TOKENS, 3 * HEADS * WIDTH)).astype("float32")
    bias = generator.normal(size=(HEADS, TOKENS, TOKENS)).astype("float32")
    regions = generator.integers(0, 3, (kinds, TOKENS), "int32")
    return qkv, bias, regions if kinds else None


def by_hand(qkv, bias, regions):
    """One window and one head at a time, in float64."""
    outputs = np.zeros((BATCH, WINDOWS, TOKENS, HEADS, WIDTH))
    parts = qkv.reshape(BATCH, WINDOWS, TOKENS, 3, HEADS, WIDTH).astype("float64")
    for clip, window, head in np.ndindex(BATCH, WINDOWS, HEADS):
        query, key, value = (parts[clip, window, :, part, head] for part in range(3))
        logits = query @ key.T / np.sqrt(WIDTH) + bias[head]
        if regions is not None:
            region = regions[window % len(regions)]
            logits = np.where(region[:, None] == region, logits, logits - 100)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        outputs[clip, window, :, head] = weights / weights.sum(axis=1, keepdims=True) @ value
    return outputs.reshape(BATCH, WINDOWS, TOKENS, HEADS * WIDTH)


def shift_mask_of(regions):
    return None if regions is None else windows.ShiftMask(regions, np.arange(WINDOWS, dtype="int32") % len(regions))


@pytest.mark.parametrize("kinds", [0, 1, WINDOWS])
def test_outputs(kinds, monkeypatch):
    qkv, bias, regions = inputs(kinds)
    expected = by_hand(qkv, bias, regions)
    qkv, bias, shift_mask = ops.convert_to_tensor(qkv), ops.convert_to_tensor(bias), shift_mask_of(regions)
    masks = (
        None if shift_mask is None else shift_mask.masks(np.arange(kinds, dtype="int32"))
    )  # of all windows, or one for all
    np.testing.assert_allclose(ops.convert_to_numpy(kernels.window_attention(qkv, bias, masks)), expected, atol=2e-6)
    for stored in (0, attention.STORED_BYTES):
        monkeypatch.setattr(attention, "STORED_BYTES", stored)
        in_training = kernels.window_attention_in_training(qkv, bias, shift_mask)
        np.testing.assert_allclose(ops.convert_to_numpy(in_training), expected, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_hidden_has_no_weight(dtype, monkeypatch):
    """Not even exp(−100), which PyTorch keeps as a denormal number; JAX and TensorFlow make it 0 themselves."""
    regions = np.array([[0] * (TOKENS - 1) + [1]], "int32")
    qkv = np.zeros((1, 1, TOKENS, 3 * HEADS * WIDTH), "float32")
    qkv[0, 0, -1, -HEADS * WIDTH :] = 6e4 if dtype == "float16" else 1e38  # the value of the token that no other sees
    qkv, bias = ops.cast(ops.convert_to_tensor(qkv), dtype), ops.zeros((HEADS, TOKENS, TOKENS), dtype)
    shift_mask = windows.ShiftMask(regions, np.zeros(1, "int32"))
    outputs = [kernels.window_attention(qkv, bias, shift_mask.masks(shift_mask.patterns))]
    for stored in (0, attention.STORED_BYTES):
        monkeypatch.setattr(attention, "STORED_BYTES", stored)
        outputs.append(kernels.window_attention_in_training(qkv, bias, shift_mask))
    for output in outputs:
        assert not ops.convert_to_numpy(ops.cast(output, "float32"))[0, 0, :-1].any()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("stored", [0, attention.STORED_BYTES])
def test_double_precision(stored, monkeypatch):
    monkeypatch.setattr(attention, "STORED_BYTES", stored)
    qkv, bias, regions = inputs(WINDOWS)
    expected, (qkv, bias) = by_hand(qkv, bias, regions), (x.astype("float64") for x in (qkv, bias))
    shift_mask, tensors = shift_mask_of(regions), [ops.convert_to_tensor(x) for x in (qkv, bias)]
    for found in (
        kernels.window_attention(*tensors, shift_mask.masks(shift_mask.patterns)),
        kernels.window_attention_in_training(*tensors, shift_mask),
    ):
        np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-13)
    rounded = [x.astype("float32") for x in (qkv, bias)]

    def loss(qkv, bias):
        return ops.sum(ops.square(kernels.window_attention_in_training(qkv, bias, shift_mask)))

    for found, wide in zip(gradients_of(loss, *rounded), gradients_of(loss, qkv, bias), strict=True):
        assert wide.dtype == "float64"
        assert 1e-9 < np.abs(found - wide).max() < 1e-4  # in float32 they differ, and wide ones are not rounded
        for part in np.array_split(wide, 3, axis=-1):  # of query, key and value; of the bias any three
            assert np.abs(part - part.astype("float32")).max() > 1e-9


WEIGHTS_BYTES = 4 * BATCH * WINDOWS * HEADS * TOKENS**2


@pytest.mark.parametrize("is_on_cpu", [True, False])  # computed on a CPU, either way
@pytest.mark.parametrize("kinds", [0, 1, WINDOWS])
@pytest.mark.parametrize(("stored", "chunk_windows"), [(WEIGHTS_BYTES, None), (0, None), (0, 1)])
def test_gradients(is_on_cpu, kinds, stored, chunk_windows, monkeypatch):
    monkeypatch.setattr(device, "is_on_cpu", lambda _: is_on_cpu)
    monkeypatch.setattr(attention, "STORED_BYTES", stored)
    monkeypatch.setattr(chunks, "chunk_length", lambda *_: chunk_windows)
    qkv, bias, regions = inputs(kinds)
    sought = np.random.default_rng(1).normal(size=(BATCH, WINDOWS, TOKENS, HEADS * WIDTH)).astype("float32")

    def loss(qkv, bias):
        return ops.sum(
            ops.convert_to_tensor(sought) * kernels.window_attention_in_training(qkv, bias, shift_mask_of(regions))
        )

    found = gradients_of(loss, qkv, bias)
    for place, values in enumerate((qkv, bias)):  # by finite differences of what is computed by hand
        for index in np.random.default_rng(2).integers(values.size, size=40):
            arguments, differences = [qkv.astype("float64"), bias.astype("float64")], []
            for step in (1e-4, -2e-4):
                arguments[place].reshape(-1)[index] += step
                differences.append((sought * by_hand(*arguments, regions)).sum())
            expected = (differences[0] - differences[1]) / 2e-4
            np.testing.assert_allclose(found[place].reshape(-1)[index], expected, atol=2e-5)


@pytest.mark.parametrize(("stored", "times"), [(WEIGHTS_BYTES, 0), (WEIGHTS_BYTES - 1, 1)])
def test_few_weights_are_not_computed_again(stored, times, monkeypatch):
    monkeypatch.setattr(attention, "STORED_BYTES", stored)
    qkv, bias, _ = inputs(0)
    calls, softmax = [], attention._softmax
    monkeypatch.setattr(attention, "_softmax", lambda logits: calls.append(1) or softmax(logits))

    def loss(qkv, bias):
        output = ops.sum(kernels.window_attention_in_training(qkv, bias, None))
        calls.clear()  # of the forward pass
        return output

    gradients_of(loss, qkv, bias)
    assert len(calls) == times


@pytest.mark.parametrize("stored", [WEIGHTS_BYTES, 0])
def test_second_derivatives(stored, monkeypatch):
    """Against finite differences of the gradients: half their squares change by the Hessian times them."""
    monkeypatch.setattr(attention, "STORED_BYTES", stored)
    arrays = inputs(0)[:2]
    sought = np.random.default_rng(1).normal(size=(BATCH, WINDOWS, TOKENS, HEADS * WIDTH)).astype("float32")

    def loss(qkv, bias):
        return ops.sum(ops.convert_to_tensor(sought) * kernels.window_attention_in_training(qkv, bias, None))

    slopes = gradients_of(loss, *arrays)
    ahead, behind = (
        gradients_of(loss, *(array + step * slope for array, slope in zip(arrays, slopes, strict=True)))
        for step in (0.01, -0.01)
    )
    for found, one, other in zip(second_gradients_of(loss, *arrays), ahead, behind, strict=True):
        expected = (one - other) / 0.02
        np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("kinds", [0, WINDOWS])
@pytest.mark.parametrize("stored", [WEIGHTS_BYTES, 0])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.usefixtures("emulated")
def test_low_precision(kinds, stored, dtype, monkeypatch):
    """Outputs and gradients against those in float32, of the same numbers."""
    monkeypatch.setattr(attention, "STORED_BYTES", stored)
    qkv, bias, regions = inputs(kinds)
    qkv, bias = (ops.convert_to_numpy(ops.cast(ops.cast(x, dtype), "float32")) for x in (qkv, bias))
    sought = np.random.default_rng(1).normal(size=(BATCH, WINDOWS, TOKENS, HEADS * WIDTH)).astype("float32")

    def attended(function, dtype):
        return lambda *arrays: ops.cast(function(*(ops.cast(x, dtype) for x in arrays)), "float32")

    def gradients(function):
        return gradients_of(lambda *arrays: ops.sum(ops.convert_to_tensor(sought) * function(*arrays)), qkv, bias)

    def in_training(qkv, bias):
        return kernels.window_attention_in_training(qkv, bias, shift_mask_of(regions))

    def plainly(qkv, bias):
        shift_mask = shift_mask_of(regions)
        return kernels.window_attention(
            qkv, bias, None if shift_mask is None else shift_mask.masks(shift_mask.patterns)
        )

    expected, expected_gradients = by_hand(qkv, bias, regions), gradients(attended(in_training, "float32"))
    for function in (attended(in_training, dtype), attended(plainly, dtype)):
        outputs = ops.convert_to_numpy(function(ops.convert_to_tensor(qkv), ops.convert_to_tensor(bias)))
        for found, reference in zip((outputs, *gradients(function)), (expected, *expected_gradients), strict=True):
            error = np.sqrt(np.mean((found - reference) ** 2) / np.mean(reference**2))
            assert error < {"bfloat16": 2**-7, "float16": 2**-10}[dtype]


QUERIES, VISIBLE = 6, np.arange(TOKENS) < [[4], [TOKENS]]


def other_tokens():
    generator = np.random.default_rng(0)
    shapes = [(BATCH, tokens, HEADS * WIDTH) for tokens in (QUERIES, TOKENS, TOKENS)]
    return [generator.normal(size=shape).astype("float32") for shape in shapes]


def by_hand_to_other_tokens(query, key, value):
    """One clip and one head at a time, in float64, of the tokens that are visible alone."""
    outputs = np.zeros((BATCH, QUERIES, HEADS * WIDTH))
    query, key, value = (x.astype("float64") for x in (query, key, value))
    for clip, head in np.ndindex(BATCH, HEADS):
        part, visible = np.s_[head * WIDTH : (head + 1) * WIDTH], VISIBLE[clip]
        logits = query[clip, :, part] @ key[clip, visible, part].T / np.sqrt(WIDTH)
        weights = np.exp(logits)
        outputs[clip, :, part] = weights / weights.sum(axis=1, keepdims=True) @ value[clip, visible, part]
    return outputs


def attend_to(query, key, value, in_pieces=False):
    key, value = (plain.split_heads(x, HEADS) for x in (key, value))  # not contiguous on PyTorch
    return kernels.cross_attention(query, key, value, ops.convert_to_tensor(VISIBLE), in_pieces)


@pytest.mark.parametrize("chunk_bytes", [1, 2**20])
@pytest.mark.parametrize("is_on_cpu", [True, False])
@pytest.mark.parametrize("in_pieces", [True, False])
def test_attention_to_other_tokens(chunk_bytes, is_on_cpu, in_pieces, monkeypatch):
    monkeypatch.setattr(device, "is_on_cpu", lambda _: is_on_cpu)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", {"cpu": chunk_bytes, "gpu": chunk_bytes})
    arrays, function = other_tokens(), functools.partial(attend_to, in_pieces=in_pieces)
    for attend in (function, compiled(function)):
        found = ops.convert_to_numpy(attend(*map(ops.convert_to_tensor, arrays)))
        np.testing.assert_allclose(found, by_hand_to_other_tokens(*arrays), atol=1e-6)


@pytest.mark.parametrize("is_on_cpu", [True, False])
def test_gradients_of_attention_to_other_tokens(is_on_cpu, monkeypatch):
    monkeypatch.setattr(device, "is_on_cpu", lambda _: is_on_cpu)
    arrays = other_tokens()
    sought = np.random.default_rng(1).normal(size=arrays[0].shape).astype("float32")
    found = gradients_of(lambda *x: ops.sum(ops.convert_to_tensor(sought) * attend_to(*x)), *arrays)
    for place, gradient in enumerate(found):  # by finite differences of what is computed by hand
        expected = np.zeros(gradient.shape)
        for index in np.ndindex(gradient.shape):
            arguments, differences = [x.astype("float64") for x in arrays], []
            for step in (1e-4, -2e-4):
                arguments[place][index] += step
                differences.append((sought * by_hand_to_other_tokens(*arguments)).sum())
            expected[index] = (differences[0] - differences[1]) / 2e-4
        np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("is_on_cpu", [True, False])
@pytest.mark.parametrize("in_pieces", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.usefixtures("emulated")
def test_low_precision_of_attention_to_other_tokens(is_on_cpu, in_pieces, dtype, monkeypatch):
    monkeypatch.setattr(device, "is_on_cpu", lambda _: is_on_cpu)
    arrays = [ops.convert_to_numpy(ops.cast(ops.cast(x, dtype), "float32")) for x in other_tokens()]
    found = attend_to(*(ops.cast(x, dtype) for x in arrays), in_pieces=in_pieces)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    expected = by_hand_to_other_tokens(*arrays)
    error = ops.convert_to_numpy(ops.cast(found, "float32")) - expected
    assert np.sqrt(np.mean(error**2) / np.mean(expected**2)) < {"bfloat16": 2**-7, "float16": 2**-10}[dtype]

"""The attention of windows against plain numpy, its own gradient against that of plain operations."""

import numpy as np
import pytest
from gradients import gradients_of
from keras import ops

from videoswin_keras.nn import dot_product, pieces, windows

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


def seam_of(regions):
    return None if regions is None else windows.Seam(regions, np.arange(WINDOWS, dtype="int32") % len(regions))


@pytest.mark.parametrize("kinds", [0, 1, WINDOWS])
def test_outputs(kinds):
    qkv, bias, regions = inputs(kinds)
    expected = by_hand(qkv, bias, regions)
    qkv, bias, seam = ops.convert_to_tensor(qkv), ops.convert_to_tensor(bias), seam_of(regions)
    masks = None if seam is None else seam.masks(np.arange(kinds, dtype="int32"))  # of all windows, or one for all
    np.testing.assert_allclose(ops.convert_to_numpy(dot_product.attend(qkv, bias, masks)), expected, atol=2e-6)
    recomputing = dot_product.attend_recomputing(qkv, bias, seam)
    np.testing.assert_allclose(ops.convert_to_numpy(recomputing), expected, atol=2e-6)


@pytest.mark.parametrize("kinds", [0, 1, WINDOWS])
@pytest.mark.parametrize("piece_windows", [None, 1])
def test_gradients(kinds, piece_windows, monkeypatch):
    monkeypatch.setattr(pieces, "piece_length", lambda *_: piece_windows)
    qkv, bias, regions = inputs(kinds)
    sought = np.random.default_rng(1).normal(size=(BATCH, WINDOWS, TOKENS, HEADS * WIDTH)).astype("float32")

    def loss(qkv, bias):
        return ops.sum(ops.convert_to_tensor(sought) * dot_product.attend_recomputing(qkv, bias, seam_of(regions)))

    found = gradients_of(loss, qkv, bias)
    for place, values in enumerate((qkv, bias)):  # by finite differences of what is computed by hand
        for index in np.random.default_rng(2).integers(values.size, size=40):
            arguments, differences = [qkv.astype("float64"), bias.astype("float64")], []
            for step in (1e-4, -2e-4):
                arguments[place].reshape(-1)[index] += step
                differences.append((sought * by_hand(*arguments, regions)).sum())
            expected = (differences[0] - differences[1]) / 2e-4
            np.testing.assert_allclose(found[place].reshape(-1)[index], expected, atol=2e-5)

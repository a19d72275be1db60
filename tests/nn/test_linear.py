"""Dense layers with and without GELU against double precision."""

import contextlib
import math

import keras
import numpy as np
import pytest
from gradients import gradients_of
from keras import ops

from videoswin_keras.nn.linear import linear, linear_gelu


def dense(use_bias, dtype="float32"):
    keras.utils.set_random_seed(0)
    layer = keras.layers.Dense(7, use_bias=use_bias, bias_initializer="normal", dtype=dtype)
    layer.build((None, 5))
    return layer


def by_hand(layer, x):
    weights = [weight.astype("float64") for weight in layer.get_weights()]
    outputs = x.astype("float64") @ weights[0] + (weights[1] if layer.use_bias else 0)
    return outputs, 0.5 * outputs * (1 + np.vectorize(math.erf)(outputs / 2**0.5))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("records_gradients", [True, False])
def test_float32(use_bias, records_gradients):
    layer = dense(use_bias)
    x = 5 * np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    expected, expected_gelu = by_hand(layer, x)
    with recording(records_gradients):
        outputs, activated = linear(layer, ops.convert_to_tensor(x)), linear_gelu(layer, ops.convert_to_tensor(x))
    np.testing.assert_allclose(ops.convert_to_numpy(outputs), expected, atol=3e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(activated), expected_gelu, atol=3e-6)


@pytest.mark.parametrize("records_gradients", [True, False])
def test_low_rank_weights_are_added(records_gradients):
    layer = dense(use_bias=True)
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape, "float32"))
    x = ops.ones((2, 5))
    with recording(records_gradients):
        np.testing.assert_allclose(ops.convert_to_numpy(linear(layer, x)), ops.convert_to_numpy(layer(x)), atol=1e-6)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
def test_gradients(use_bias, trainable):
    layer = dense(use_bias)
    layer.trainable = trainable
    generator = np.random.default_rng(0)
    x, sought = (generator.normal(size=(2, 3, width)).astype("float32") for width in (5, 7))
    (found,) = gradients_of(lambda x: ops.sum(ops.convert_to_tensor(sought) * linear(layer, x)), x)
    np.testing.assert_allclose(found, sought @ layer.get_weights()[0].T, atol=2e-6)
    if keras.backend.backend() == "torch":  # elsewhere it is Keras's own layer
        expected = [np.einsum("bti,bto->io", x, sought), sought.sum((0, 1))][: len(layer.weights)]
        for variable, gradient in zip(layer.weights, expected, strict=True):
            if trainable:
                np.testing.assert_allclose(variable.value.grad.numpy(), gradient, atol=2e-6)
            else:
                assert variable.value.grad is None


def test_quantized():
    layer = dense(use_bias=True)
    layer.quantize("int8")
    x = ops.ones((2, 5))
    np.testing.assert_allclose(ops.convert_to_numpy(linear(layer, x)), ops.convert_to_numpy(layer(x)), atol=1e-6)


def recording(on):
    """Makes PyTorch record gradients, or not."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.set_grad_enabled(on)

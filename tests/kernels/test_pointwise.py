"""Layer normalisation and GELU, in training and not, against their formulas in double precision."""

import math

import keras
import numpy as np
import pytest
from gradients import compiled, gradients_of, outputs_and_gradients
from keras import ops

from videoswin_keras.kernels import gelu
from videoswin_keras.nn.dense import normalize

CDF = np.vectorize(lambda x: 0.5 * (1 + math.erf(x / 2**0.5)))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("dtype", "rounding"), [("float64", 2e-15), ("float32", 6e-7), ("float16", 2e-3)])
def test_gelu(dtype, rounding, training):
    if keras.backend.backend() == "jax" and dtype == "float64":
        dtype, rounding = "float32", 6e-7  # all that JAX computes in
    x = np.linspace(-5, 5, 101)
    activate = compiled(lambda x: gelu(x, training))
    found = ops.convert_to_numpy(activate(ops.convert_to_tensor(x, dtype)))
    np.testing.assert_allclose(found, x * CDF(x), atol=rounding)
    x = x.astype(dtype)
    (found,) = gradients_of(lambda x: ops.sum(activate(x)), x)
    density = np.exp(-(x.astype("float64") ** 2) / 2) / math.tau**0.5
    np.testing.assert_allclose(found, CDF(x) + x * density, atol=rounding)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (1, 49, 96)])
@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 3e-6), ("mixed_bfloat16", 2e-2)])
def test_normalize(dtype, rounding, shape):
    """The gradients of the sum of the squares of the outputs."""
    generator = np.random.default_rng(0)
    scale, shift = (generator.integers(-8, 9, shape[-1]) / 8 for _ in range(2))  # bfloat16 has them all
    x = (generator.integers(-32, 33, shape) / 8).astype("float32")

    class Normalized(keras.layers.Layer):
        def __init__(self):
            super().__init__(dtype=dtype)
            self.layer = keras.layers.LayerNormalization(epsilon=1e-5, dtype=dtype)
            self.layer.build(shape)

        def call(self, x, training=None):
            return normalize(self.layer, x, training)

    layer = Normalized()
    model = keras.Sequential([keras.Input(shape[1:]), layer])
    model.set_weights([scale, shift])
    found, gradients = outputs_and_gradients(model, x)
    wide = x.astype("float64")
    centred = wide - wide.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5)
    normal = centred * inverse
    expected = normal * scale + shift
    for outputs in (found, ops.convert_to_numpy(ops.cast(model(x, training=False), "float32"))):
        np.testing.assert_allclose(outputs, expected, atol=rounding)
    axes = tuple(range(len(shape) - 1))
    sums = (2 * expected * normal).sum(axes), (2 * expected).sum(axes)
    for gradient, total in zip(gradients.values(), sums, strict=True):
        np.testing.assert_allclose(gradient, total, atol=rounding * np.abs(total).max())
    upstream = 2 * expected * scale
    means = upstream.mean(-1, keepdims=True) + normal * (upstream * normal).mean(-1, keepdims=True)
    loss = compiled(lambda x: ops.sum(ops.square(ops.cast(layer(x, training=True), "float32"))))
    (gradient,) = gradients_of(loss, x)
    d_x = inverse * (upstream - means)
    np.testing.assert_allclose(gradient, d_x, atol=rounding * np.abs(d_x).max())

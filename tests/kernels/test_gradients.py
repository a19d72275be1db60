"""Gradients that are not the backends' own against those that are."""

import gc
import weakref
from functools import partial

import keras
import numpy as np
import pytest
from gradients import compiled, gradients_of, outputs_and_gradients
from keras import ops

from videoswin_keras import kernels
from videoswin_keras.kernels.dispatch import fast

GENERATOR = np.random.default_rng(0)
X, WEIGHT = (GENERATOR.normal(size=shape).astype("float32") for shape in ((3, 4), (4, 5)))


@pytest.mark.parametrize("remat", [kernels.recompute, kernels.recompute_cheap])
def test_remat_of_a_layer(remat):
    """Gradients of what a function uses besides its arguments: the weights of a layer."""
    keras.utils.set_random_seed(0)
    layer = keras.layers.Dense(5, activation="tanh")

    class Wrapped(keras.layers.Layer):
        def __init__(self, wrap):
            super().__init__()
            self.layer, self.wrap = layer, wrap

        def call(self, x, training=None):
            return self.wrap(lambda x: self.layer(ops.sin(x)))(x)

    def of(wrap):
        return outputs_and_gradients(keras.Sequential([keras.Input((4,)), Wrapped(wrap)]), X)

    (outputs, found), (expected_outputs, expected) = of(remat), of(lambda function: function)
    np.testing.assert_allclose(outputs, expected_outputs, atol=1e-6)
    for one, other in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
        assert np.any(other)


def test_remat_of_several_arguments_and_outputs():
    def loss(wrap):
        def function(x, weight, count):
            return ops.matmul(ops.sin(x), weight) * ops.cast(count, "float32"), ops.cos(weight), count + 1

        def value(x, weight):
            one, other, count = wrap(function)(x, weight, ops.convert_to_tensor(2, "int32"))
            return ops.sum(ops.square(one)) + ops.sum(other) * ops.cast(count, "float32")

        return value

    found, expected = (gradients_of(loss(wrap), X, WEIGHT) for wrap in (kernels.recompute, lambda function: function))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_remat_of_a_compiled_function_that_draws():
    """The gradient is taken outside of the graph in which an integer, as a seed is, was computed."""

    def loss(x):
        three = ops.argmax(ops.stop_gradient(ops.sum(x, axis=0)) * 0 + ops.arange(4, dtype="float32"))
        return ops.sum(kernels.recompute(lambda x: ops.sin(x) * ops.cast(three, "float32"))(x))

    (found,) = gradients_of(compiled(loss), X)
    np.testing.assert_allclose(found, 3 * np.cos(X), atol=1e-6)


@pytest.mark.parametrize("remat", [kernels.recompute, kernels.recompute_cheap])
def test_remat_holds_nothing_afterwards(remat):
    def loss(layer, x):
        return ops.sum(remat(lambda x: layer(ops.sin(x)))(x))

    layers = [keras.layers.Dense(5)]
    layers[0].build(X.shape)
    there = weakref.ref(layers[0])
    gradients_of(partial(loss, layers[0]), X)
    layers.clear()
    gc.collect()
    assert there() is None


def test_with_gradients():
    """The gradients given are taken, whatever the function, with what it keeps for them."""

    def loss(x, weight):
        def function(x, weight):
            return ops.matmul(x, weight), (ops.sin(x),)

        return ops.sum(2 * fast.with_gradients(function, lambda x, w, sin, up: (sin, w + ops.sum(up)), x, weight))

    found = gradients_of(loss, X, WEIGHT)
    np.testing.assert_allclose(found[0], np.sin(X), rtol=1e-6)
    np.testing.assert_allclose(found[1], WEIGHT + 2 * 3 * 5, rtol=1e-6)


def test_with_adjoint():
    function = kernels.with_adjoint(lambda x: x * 2, lambda x: x * 3)
    (found,) = gradients_of(lambda x: ops.sum(function(x)), X)
    np.testing.assert_array_equal(found, np.full_like(X, 3))

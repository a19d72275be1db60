"""Outputs and gradients of a training step, the same way on every backend."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops


def set_seeds(model: keras.Model) -> None:
    """Puts every seed generator of a model in a state that does not depend on how the model was built."""
    for index, variable in enumerate(variable for variable in model.variables if "seed" in variable.path):
        variable.assign(np.array([index, 0], "uint32"))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function in a graph of its own, where the backend has such a thing."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.jit(function)
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    return function


def gradients_of(function: Callable[..., Any], *arrays: np.ndarray) -> list[np.ndarray]:
    """Returns the gradient of a scalar function of tensors with respect to each of them."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        gradients = jax.grad(function, tuple(range(len(arrays))))(*arrays)
    elif backend == "torch":
        tensors = [ops.convert_to_tensor(array).requires_grad_() for array in arrays]
        function(*tensors).backward()
        gradients = [tensor.grad for tensor in tensors]
    else:
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(array) for array in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        gradients = tape.gradient(value, tensors)
    return [ops.convert_to_numpy(gradient) for gradient in gradients]


def second_gradients_of(function: Callable[..., Any], *arrays: np.ndarray) -> list[np.ndarray]:
    """Returns the gradient of half the sum of squares of all the gradients of a scalar function of tensors."""

    def half(*tensors):
        return sum(ops.sum(ops.square(gradient)) for gradient in _differentiable_gradients(function, tensors)) / 2

    return gradients_of(half, *arrays)


def _differentiable_gradients(function: Callable[..., Any], tensors: tuple) -> Any:
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.grad(function, tuple(range(len(tensors))))(*tensors)
    if backend == "torch":
        import torch

        return torch.autograd.grad(function(*tensors), tensors, create_graph=True)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
    return tape.gradient(value, tensors)


def outputs_and_gradients(model: keras.Model, clip: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the outputs in training, and the gradient of the sum of their squares by variable path."""
    variables = model.trainable_variables
    backend = keras.backend.backend()
    if backend == "torch":
        for variable in variables:
            variable.value.grad = None
        outputs = model(clip, training=True)
        ops.sum(ops.square(ops.cast(outputs, "float32"))).backward()
        gradients = [variable.value.grad for variable in variables]
    elif backend == "jax":
        import jax

        def loss(trainable, other, clip):
            outputs, _ = model.stateless_call(trainable, other, clip, training=True)
            return ops.sum(ops.square(ops.cast(outputs, "float32"))), outputs

        trainable = [variable.value for variable in variables]
        other = [variable.value for variable in model.non_trainable_variables]
        (_, outputs), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(trainable, other, clip)
    else:
        import tensorflow as tf

        @tf.function
        def step(clip):
            with tf.GradientTape() as tape:
                outputs = model(clip, training=True)
                loss = ops.sum(ops.square(ops.cast(outputs, "float32")))
            return outputs, tape.gradient(loss, [variable.value for variable in variables])

        outputs, gradients = step(clip)
    as_numpy = {
        variable.path: None if gradient is None else ops.convert_to_numpy(ops.convert_to_tensor(gradient))
        for variable, gradient in zip(variables, gradients, strict=True)
    }
    return ops.convert_to_numpy(outputs), as_numpy

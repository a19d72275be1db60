"""TensorFlow's overrides: its graph goes over memory once, and holds it no longer than it must.

In training XLA compiles normalisation and GELU, once for each size of clip. For a single clip that would take longer
than it saves.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from videoswin_keras.kernels import device, plain

FUSED_ADAM_DECAYS = True  # Keras need not decay the weights before


def gelu(x: Any, training: bool | None = None) -> Any:
    return _compiled(plain.gelu)(x) if training and device.is_on_cpu(x) else plain.gelu(x)


def layer_normalization(x: Any, scale: Any, shift: Any, epsilon: float, training: bool | None = None) -> Any:
    if not training or not device.is_on_cpu(x):
        return plain.layer_normalization(x, scale, shift, epsilon)
    return _compiled(keras.ops.layer_normalization, epsilon=epsilon)(x, scale, shift)


def recompute_cheap(function: Callable) -> Callable:
    """XLA stores several tensors of a normalisation or an activation."""
    return plain.recompute(function)


def with_gradients(function: Callable, gradients: Callable, *inputs: Any) -> Any:
    """XLA ignores the control dependencies of `after`, and heeds `wait`."""

    def both(*inputs: Any) -> tuple:
        output, stored = function(*inputs)

        def backward(upstream: Any) -> tuple:
            with after(upstream):  # so that the stored tensors wait too
                first, *others = inputs
                return gradients(wait(first, upstream), *others, *stored, upstream)

        return output, backward

    return keras.ops.custom_gradient(both)(*inputs)


def with_adjoint(function: Callable, adjoint: Callable) -> Callable:
    return keras.ops.custom_gradient(lambda x: (function(x), adjoint))


def wait(x: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Returns `x` in a way that XLA cannot compute before `other`; not a number if `other` is none."""
    return x + tf.cast(0 * tf.reduce_sum(tf.reshape(other, (-1,))[:1]), x.dtype)


def after(x: tf.Tensor) -> contextlib.AbstractContextManager:
    return tf.control_dependencies([x])


def has_values(x: Any) -> bool:
    return tf.executing_eagerly()


def gradient(function: Callable, x: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)


def can_fuse_adam(variables: list, amsgrad: bool) -> bool:
    if amsgrad or tf.distribute.has_strategy():
        return False
    return all(isinstance(variable, keras.Variable) and variable.dtype == "float32" for variable in variables)


def fused_adam(
    weights: list[tf.Variable],
    gradients: list,
    momentums: list[tf.Variable],
    velocities: list[tf.Variable],
    rate: tf.Tensor,
    betas: tuple[float, float],
    epsilon: float,
    greatest: list,
    decays: list,
) -> None:
    """Takes a step of Adam in place, in one pass over float32; `rate` holds the bias corrections.

    `decays` are the shares of the weights that are taken away before, or None. That waits for the gradient: a graph
    would begin with it, and hold as much as all weights to the end.
    """
    nothing, first, second, small = (tf.constant(value, tf.float32) for value in (0.0, *betas, epsilon))
    for weight, gradient, momentum, velocity, share in zip(
        weights, gradients, momentums, velocities, decays, strict=True
    ):
        gradient = tf.cast(tf.convert_to_tensor(gradient), tf.float32)
        if share is not None:
            with tf.control_dependencies([gradient]):
                weight.assign_sub(weight * share)
        tf.raw_ops.ResourceApplyAdam(
            var=weight.handle,
            m=momentum.handle,
            v=velocity.handle,
            beta1_power=nothing,  # nothing is left to correct
            beta2_power=nothing,
            lr=rate,
            beta1=first,
            beta2=second,
            epsilon=small,
            grad=gradient,
        )


@functools.cache
def _compiled(function: Callable, **options: Any) -> Callable:
    """Returns `function` of tensors or variables compiled by XLA, with its gradient, for which it stores these alone.

    XLA makes one loop of TensorFlow's steps, and needs a fifth of a second for each shape. Where TensorFlow runs
    eagerly, `function` is called as it is.
    """
    function = functools.partial(function, **options)
    forward = tf.function(function, jit_compile=True, autograph=False)

    @tf.function(jit_compile=True, autograph=False)
    def gradients(inputs: tuple, upstream: tf.Tensor) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = function(*inputs)
        return tape.gradient(output, inputs, upstream)

    @tf.custom_gradient
    def both(*inputs: tf.Tensor) -> tuple:
        return forward(*inputs), lambda upstream: gradients(inputs, upstream)

    def call(*inputs: Any) -> Any:
        if tf.executing_eagerly():
            return function(*inputs)
        return both(*map(tf.convert_to_tensor, inputs))  # variables would want gradients of their own

    return call

"""What TensorFlow is told in its own words, so that it goes over memory once, and holds it no longer than it must."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf


@functools.cache
def compiled(function: Callable, **options: Any) -> Callable:
    """Returns `function` of tensors or variables compiled by XLA, with its gradient, for which it keeps these alone.

    XLA makes one loop of what TensorFlow computes step by step. That takes a fifth of a second for each shape. Where
    TensorFlow runs eagerly, it is called as it is.
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


def gradient(function: Callable, x: tf.Tensor) -> tf.Tensor:
    """As in `gradients.py`."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)


def after(x: tf.Tensor) -> contextlib.AbstractContextManager:
    """Within, every operation of a graph waits for `x`."""
    return tf.control_dependencies([x])


def is_distributed() -> bool:
    """Whether this runs under a strategy of `tf.distribute`."""
    return tf.distribute.has_strategy()


def fused_adam(
    weights: list[tf.Variable],
    gradients: list,
    momentums: list[tf.Variable],
    velocities: list[tf.Variable],
    rate: tf.Tensor,
    betas: tuple[float, float],
    epsilon: float,
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

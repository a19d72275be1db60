"""Gradients that are not the backends' own: they keep less for the backward pass, or are computed faster."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from videoswin_keras.nn import pieces


def remat(function: Callable) -> Callable:
    """Returns `function`, of which only the arguments are kept for the backward pass.

    Its first argument and its first output are floating. What needs a gradient is an argument or a weight: on
    TensorFlow other tensors would get none. On JAX it has no forward-mode derivatives.

    `keras.remat` is not enough on JAX: on a CPU, XLA drops the barriers of `jax.checkpoint`, and computes again long
    before the gradient is there, so that no memory is saved. Here what is computed again depends on the gradient.
    """
    if keras.backend.backend() != "jax":
        return keras.remat(function)
    from videoswin_keras.nn import jax_functions

    return jax_functions.remat(function, _after)


def remat_cheap(function: Callable) -> Callable:
    """Returns `remat(function)`, of what costs little beside one product of matrices, where that pays.

    XLA keeps several arrays of a normalisation or an activation. PyTorch keeps one, and would take longer.
    """
    return function if keras.backend.backend() == "torch" else remat(function)


def with_gradients(function: Callable, gradients: Callable, *inputs: Any) -> Any:
    """Returns the first of what `function(*inputs)` returns, an output and a tuple of what is kept beside the inputs.

    `gradients(*inputs, *kept, upstream)` returns the gradient of each input, `upstream` being that of the output.
    """
    if keras.backend.backend() == "torch":  # whose custom gradients in Keras would hold the inputs for too long
        from videoswin_keras.nn import torch_functions

        return torch_functions.WithGradients.apply(function, gradients, *inputs)

    def waiting(first: Any, *others: Any) -> tuple:
        return gradients(_after(first, others[-1]), *others)

    if keras.backend.backend() == "jax":
        from videoswin_keras.nn import jax_functions

        return jax_functions.with_gradients(function, waiting, *inputs)

    def both(*inputs: Any) -> tuple:
        output, kept = function(*inputs)

        def backward(upstream: Any) -> tuple:
            with pieces.after(upstream):  # what is kept waits too; XLA ignores this, hence `_after`
                return waiting(*inputs, *kept, upstream)

        return output, backward

    return ops.custom_gradient(both)(*inputs)


def with_adjoint(function: Callable[[Any], Any], adjoint: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns `function`, which is linear, with `adjoint` for its gradient. Nothing is kept."""
    if keras.backend.backend() == "torch":
        from videoswin_keras.nn import torch_functions

        return lambda x: torch_functions.LinearMap.apply(x, function, adjoint)
    return ops.custom_gradient(lambda x: (function(x), adjoint))


def gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """Returns the gradient of a scalar `function(x)` with respect to `x`, computed at once."""
    if keras.backend.backend() == "torch":
        from videoswin_keras.nn import torch_functions

        return torch_functions.gradient(function, x)
    if keras.backend.backend() == "jax":
        from videoswin_keras.nn import jax_functions

        return jax_functions.gradient(function, x)
    from videoswin_keras.nn import tensorflow_functions

    return tensorflow_functions.gradient(function, x)


def without_gradients() -> contextlib.AbstractContextManager:
    """Within, PyTorch keeps nothing for a backward pass; the others do only where they are asked to."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    from videoswin_keras.nn import torch_functions

    return torch_functions.without_gradients()


def _after(x: Any, gradient: Any) -> Any:
    """Returns `x`, which XLA cannot have before `gradient` is there; not a number if the gradient is none."""
    return x + ops.cast(0 * ops.sum(ops.reshape(gradient, (-1,))[:1]), x.dtype)

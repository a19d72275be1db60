"""Keras's Dense and LayerNormalization, computed by the kernels.

A kernel takes arrays, not layers. Where Keras changed a layer (`quantize`), and for symbolic tensors, the layer itself
computes.
"""

from typing import Any

import keras
from keras import ops

from videoswin_keras import kernels
from videoswin_keras.kernels import plain


def linear(layer: keras.layers.Dense, x: Any, training: bool | None = None) -> Any:
    """Returns `layer(x)`."""
    if layer.quantization_mode or keras.backend.is_keras_tensor(x):
        return layer(x)
    return kernels.linear(*_operands(layer, x), training)


def linear_gelu(layer: keras.layers.Dense, x: Any) -> Any:
    """Returns gelu(layer(x))."""
    if layer.quantization_mode or keras.backend.is_keras_tensor(x):
        return kernels.gelu(layer(x))
    return kernels.linear_gelu(*_operands(layer, x))


def normalize(layer: keras.layers.LayerNormalization, x: Any, training: bool | None = None) -> Any:
    """Returns `layer(x)`, of a layer that normalises the last axis.

    Calls the layer itself, whose hooks then fire on PyTorch, unless the backend has a kernel for training.
    """
    if not training or kernels.layer_normalization is plain.layer_normalization:
        return layer(x)
    x, scale, shift = (ops.convert_to_tensor(value) for value in (x, layer.gamma, layer.beta))
    x = ops.cast(x, layer.compute_dtype)
    return ops.cast(kernels.layer_normalization(x, scale, shift, layer.epsilon, training), layer.compute_dtype)


def _operands(layer: keras.layers.Dense, x: Any) -> tuple[Any, Any, Any]:
    """Returns `x`, kernel and bias in the layer's compute dtype."""
    x, kernel, bias = (
        None if value is None else ops.cast(ops.convert_to_tensor(value), layer.compute_dtype)
        for value in (x, layer.kernel, layer.bias)
    )
    return x, kernel, bias

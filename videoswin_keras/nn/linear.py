"""Dense layers, with an exact GELU where one follows, as each backend computes them fastest."""

from typing import Any

import keras
from keras import ops

from videoswin_keras.nn import pieces
from videoswin_keras.nn.pointwise import gelu


def linear(layer: keras.layers.Dense, x: Any, training: bool | None = None) -> Any:
    """Returns `layer(x)`. No forward-mode derivatives on JAX on a CPU in bfloat16, or in training."""
    if layer.quantization_mode or keras.backend.is_keras_tensor(x) or not _is_special(x, layer.compute_dtype, training):
        return layer(x)
    return affine(*_operands(layer, x), training)


def affine(x: Any, kernel: Any, bias: Any, training: bool | None = None) -> Any:
    """Returns x · kernel + bias: x (…, inputs), kernel (inputs, outputs), bias (outputs,) or None, of one dtype."""
    product = ops.matmul
    if keras.backend.backend() == "torch":
        from videoswin_keras.nn import torch_functions

        return torch_functions.linear(x, kernel, bias)
    if _is_special(x, x.dtype, training):
        from videoswin_keras.nn import jax_functions

        if pieces.multiplies_in_float32(x, x.dtype):
            return jax_functions.linear(x, kernel, bias)
        product = jax_functions.product
    x = product(x, kernel)
    return x if bias is None else x + bias


def linear_gelu(layer: keras.layers.Dense, x: Any) -> Any:
    """Returns `gelu(layer(x))`."""
    if keras.backend.backend() != "torch" or layer.quantization_mode:
        return gelu(linear(layer, x))
    from videoswin_keras.nn import torch_functions

    return torch_functions.linear_gelu(*_operands(layer, x))


def _is_special(x: Any, dtype: Any, training: bool | None) -> bool:
    """Whether there is a product of our own, or a gradient of it, that is faster."""
    if keras.backend.backend() == "jax" and training:
        return pieces.is_on_cpu(x)
    return keras.backend.backend() == "torch" or pieces.multiplies_in_float32(x, dtype)


def _operands(layer: keras.layers.Dense, x: Any) -> tuple[Any, Any, Any]:
    """Returns `x`, kernel and bias as `layer` casts them, for a product that adds the bias within."""
    x, kernel, bias = (
        None if value is None else ops.cast(ops.convert_to_tensor(value), layer.compute_dtype)
        for value in (x, layer.kernel, layer.bias)
    )
    return x, kernel, bias

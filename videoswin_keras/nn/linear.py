"""Dense layers, with an exact GELU where one follows, as each backend computes them fastest."""

from typing import Any

import keras
from keras import ops


def linear(layer: keras.layers.Dense, x: Any) -> Any:
    """Returns `layer(x)`."""
    if keras.backend.backend() != "torch" or layer.quantization_mode:
        return layer(x)
    return _torch_linear(layer, x, with_gelu=False)


def linear_gelu(layer: keras.layers.Dense, x: Any) -> Any:
    """Returns `gelu(layer(x))`."""
    if keras.backend.backend() != "torch" or layer.quantization_mode:
        return gelu(layer(x))
    return _torch_linear(layer, x, with_gelu=True)


def gelu(x: Any) -> Any:
    """Returns x · Φ(x), exactly; JAX's own is by the complementary error function, which is slower on a CPU."""
    if keras.backend.backend() != "jax":
        return ops.gelu(x, approximate=False)
    wide = ops.cast(x, "float32")
    return ops.cast(0.5 * wide * (1 + ops.erf(wide * 0.5**0.5)), x.dtype)


def _torch_linear(layer: keras.layers.Dense, x: Any, with_gelu: bool) -> Any:
    """Adds the bias within the product, which Keras does after it."""
    import torch

    from videoswin_keras.nn import torch_functions

    kernel = ops.convert_to_tensor(layer.kernel)
    bias = None if layer.bias is None else ops.convert_to_tensor(layer.bias)
    x = ops.cast(x, kernel.dtype)
    if not torch_functions.takes_onednn(x):
        x = torch.nn.functional.linear(x, kernel.t(), bias)
    elif torch.is_grad_enabled():
        x = torch_functions.OneDnnLinear.apply(x, kernel, bias)
    else:
        return torch_functions.onednn_linear(x, kernel.t(), bias, "gelu" if with_gelu else "none")
    return gelu(x) if with_gelu else x

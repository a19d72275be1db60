"""Dense layers, with an exact GELU where one follows, as each backend computes them fastest."""

import functools
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

    kernel = torch.t(ops.convert_to_tensor(layer.kernel))
    bias = None if layer.bias is None else ops.convert_to_tensor(layer.bias)
    x = ops.cast(x, kernel.dtype)
    if _has_onednn() and x.device.type == "cpu" and x.dtype == torch.float32 and _is_plain_inference():
        return torch.ops.mkldnn._linear_pointwise(x, kernel, bias, "gelu" if with_gelu else "none", [], "none")
    x = torch.nn.functional.linear(x, kernel, bias)
    return gelu(x) if with_gelu else x


@functools.cache
def _has_onednn() -> bool:
    """Whether PyTorch can call oneDNN's product of float32 matrices, a tenth faster than its own and with the GELU.

    It is what `torch.compile` calls; it has no gradient.
    """
    import torch

    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_plain_inference() -> bool:
    """Whether PyTorch neither records gradients nor traces a program."""
    import torch

    return not torch.is_grad_enabled() and not torch.compiler.is_compiling()

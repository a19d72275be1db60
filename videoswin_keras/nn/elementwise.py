"""Layer normalisation and GELU, as each backend computes them fastest."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from videoswin_keras.nn import pieces


def normalize(layer: keras.layers.LayerNormalization, x: Any, training: bool | None) -> Any:
    """Returns `layer(x)`, normalised over the last axis."""
    if not training or keras.backend.backend() == "torch" or not pieces.is_on_cpu(x):
        return layer(x)
    scale, shift = ops.convert_to_tensor(layer.gamma), ops.convert_to_tensor(layer.beta)
    if keras.backend.backend() == "tensorflow":
        return _in_one(ops.layer_normalization, x, scale, shift, epsilon=layer.epsilon)
    from videoswin_keras.nn import jax_functions

    return jax_functions.layer_normalization(x, scale, shift, layer.epsilon)


def gelu(x: Any, training: bool | None = None) -> Any:
    """Returns x · Φ(x)."""
    return _in_one(_gelu, x) if training else _gelu(x)


def _gelu(x: Any) -> Any:
    """Not by the complementary error function, as JAX and TensorFlow do, which is slower on a CPU."""
    if keras.backend.backend() == "torch":
        return ops.gelu(x, approximate=False)
    wide = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    return ops.cast(0.5 * wide * (1 + ops.erf(wide * 0.5**0.5)), x.dtype)


def _in_one(function: Callable, x: Any, *others: Any, **options: Any) -> Any:
    """Returns `function(x, *others, **options)`: on TensorFlow on a CPU compiled, which for other sizes than before
    takes longer than it saves unless they come again and again, as in training."""
    if keras.backend.backend() == "tensorflow" and pieces.is_on_cpu(x) and not keras.backend.is_keras_tensor(x):
        from videoswin_keras.nn import tensorflow_functions

        return tensorflow_functions.compiled(function, **options)(x, *others)
    return function(x, *others, **options)

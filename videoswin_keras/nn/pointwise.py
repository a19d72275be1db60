"""What each token needs by itself besides products, layer normalisation and GELU, as each backend computes it fastest.

In training TensorFlow has XLA compile them, for each size of clip: for a single one that takes longer than it saves.
"""

from typing import Any

import keras
from keras import ops

from videoswin_keras.nn import pieces


def normalize(layer: keras.layers.LayerNormalization, x: Any, training: bool | None) -> Any:
    """Returns `layer(x)`, of a layer over the last axis alone. No forward-mode derivatives in training on a CPU."""
    backend = keras.backend.backend()
    if backend == "tensorflow" and training and pieces.is_on_cpu(x):
        from videoswin_keras.nn import tensorflow_functions

        return tensorflow_functions.compiled(ops.layer_normalization, epsilon=layer.epsilon)(x, layer.gamma, layer.beta)
    if backend == "jax" and training and pieces.is_on_cpu(x):
        from videoswin_keras.nn import jax_functions

        scale, shift = ops.convert_to_tensor(layer.gamma), ops.convert_to_tensor(layer.beta)
        return jax_functions.layer_normalization(x, scale, shift, layer.epsilon)
    return layer(x)


def gelu(x: Any, training: bool | None = None) -> Any:
    """Returns x · Φ(x)."""
    if keras.backend.backend() == "tensorflow" and training and pieces.is_on_cpu(x):
        from videoswin_keras.nn import tensorflow_functions

        return tensorflow_functions.compiled(_gelu)(x)
    return _gelu(x)


def _gelu(x: Any) -> Any:
    """Not by the complementary error function, as JAX and TensorFlow do, which is slower on a CPU."""
    if keras.backend.backend() == "torch":
        return ops.gelu(x, approximate=False)
    wide = widened(x)
    return ops.cast(0.5 * wide * (1 + ops.erf(wide * 0.5**0.5)), x.dtype)


def widened(x: Any) -> Any:
    """Returns `x` in float32, or in float64 where that is what it is."""
    return x if keras.backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")

"""Initial weights drawn by NumPy: the same on every backend, and at once.

Keras draws them with the backend. JAX then compiles a program for every shape, which took eight of the nine seconds in
which a model was built.
"""

from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="videoswin_keras")
class RandomNormal(keras.initializers.RandomNormal):
    """Draws from a normal distribution; arguments as for Keras's, `seed` an integer or None."""

    def __call__(self, shape: tuple, dtype: Any = None) -> Any:
        drawn = np.random.default_rng(self.seed).standard_normal(shape, "float32")
        return ops.convert_to_tensor(self.mean + self.stddev * drawn, dtype)


@keras.saving.register_keras_serializable(package="videoswin_keras")
class RandomUniform(keras.initializers.RandomUniform):
    """Draws from a uniform distribution; arguments as for Keras's, `seed` an integer or None."""

    def __call__(self, shape: tuple, dtype: Any = None) -> Any:
        drawn = np.random.default_rng(self.seed).random(shape, "float32")
        return ops.convert_to_tensor(self.minval + (self.maxval - self.minval) * drawn, dtype)

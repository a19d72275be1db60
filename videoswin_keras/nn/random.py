"""Dropout and stochastic depth whose seeds can be drawn ahead of the computation.

A rematerialised function runs twice, and must drop the same values both times. Keras's own `Dropout` advances
its seed in each run, which makes the gradients silently wrong. Here a layer draws its seeds first
(`draw_seeds`), and the computation receives them as arguments.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from videoswin_keras.nn import pieces


class DrawnSeed(keras.random.SeedGenerator):
    """A seed that was drawn before; every use of it gives the same numbers."""

    def __init__(self, seed: Any):  # no super().__init__: there is no state to create
        self.seed = seed

    def next(self, ordered: bool = True) -> Any:
        return self.seed


def dropout(x: Any, rate: float, seed: Any) -> Any:
    """Zeroes elements of `x` with probability `rate` and scales the others up; the identity if `seed` is None."""
    return x if seed is None or rate == 0 else x * _scales(ops.shape(x), rate, seed, x.dtype)


def residual(x: Any, branch: Callable[[Any], Any], rate: float, seed: Any, is_skippable: bool) -> Any:
    """Returns x + branch(x) with stochastic depth: for a sample (axis 0) `branch` counts nothing with probability
    `rate`, and more otherwise. If `seed` is None it always counts as it is.

    What counts nothing is not computed on a CPU if `is_skippable`: on PyTorch for each sample, on JAX for a batch of
    one. Weights that are in `branch` alone have gradients of zero then. (On TensorFlow 2.21 they would fail.)
    """
    if seed is None or rate == 0:
        return x + branch(x)
    batch, backend = ops.shape(x)[0], keras.backend.backend()
    scales = _scales((batch,), rate, seed, x.dtype)
    each = ops.reshape(scales, (batch,) + (1,) * (len(x.shape) - 1))
    is_skippable = is_skippable and pieces.is_on_cpu(x)
    if is_skippable and backend == "torch":
        from videoswin_keras.nn import torch_functions

        if not torch_functions.is_traced():
            return torch_functions.add_to_some(x, branch, scales)
    if is_skippable and backend == "jax" and batch == 1 and not pieces.would_compile_each_time(x):
        return ops.cond(scales[0] > 0, lambda: x + branch(x) * each, lambda: x)
    return x + branch(x) * each


def _scales(shape: tuple, rate: float, seed: Any, dtype: Any) -> Any:
    """Returns 0 with probability `rate`, otherwise what keeps the mean."""
    kept = keras.random.uniform(shape, seed=DrawnSeed(seed)) >= rate
    return ops.cast(ops.cast(kept, "float32") / (1 - rate), dtype)


def draw_seeds(generator: keras.random.SeedGenerator, rates: tuple[float, ...], training: bool | None) -> tuple:
    """Draws one seed for each rate; None where nothing is dropped."""
    return tuple(generator.next() if training and rate > 0 else None for rate in rates)


def check_rate(name: str, rate: float) -> float:
    """Returns `rate` as a float in [0, 1), or raises ValueError."""
    if not 0 <= rate < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1. Received: {rate}. Use 0 to drop nothing.")
    return float(rate)

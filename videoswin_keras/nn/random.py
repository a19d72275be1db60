"""Dropout and stochastic depth whose seeds can be drawn ahead of the computation.

A rematerialised function runs twice, and must drop the same values both times. Keras's own `Dropout` advances
its seed in each run, which makes the gradients silently wrong. Here a layer draws its seeds first
(`draw_seeds`), and the computation receives them as arguments.
"""

from typing import Any

import keras
from keras import ops


class DrawnSeed(keras.random.SeedGenerator):
    """A seed that was drawn before; every use of it gives the same numbers."""

    def __init__(self, seed: Any):  # no super().__init__: there is no state to create
        self.seed = seed

    def next(self, ordered: bool = True) -> Any:
        return self.seed


def dropout(x: Any, rate: float, seed: Any) -> Any:
    """Zeroes elements of `x` with probability `rate` and scales the others up; the identity if `seed` is None."""
    return _drop(x, rate, seed, ops.shape(x))


def drop_path(x: Any, rate: float, seed: Any) -> Any:
    """Stochastic depth: zeroes whole samples (axis 0) of `x`, as `dropout` does elements."""
    return _drop(x, rate, seed, (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1))


def _drop(x: Any, rate: float, seed: Any, shape: tuple) -> Any:
    if seed is None or rate == 0:
        return x
    kept = keras.random.uniform(shape, seed=DrawnSeed(seed)) >= rate
    return x * ops.cast(ops.cast(kept, "float32") / (1 - rate), x.dtype)


def draw_seeds(generator: keras.random.SeedGenerator, rates: tuple[float, ...], training: bool | None) -> tuple:
    """Draws one seed for each rate; None where nothing is dropped."""
    return tuple(generator.next() if training and rate > 0 else None for rate in rates)


def check_rate(name: str, rate: float) -> float:
    """Returns `rate` as a float in [0, 1), or raises ValueError."""
    if not 0 <= rate < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1. Received: {rate}. Use 0 to drop nothing.")
    return float(rate)

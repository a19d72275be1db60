"""Dropout and stochastic depth whose seeds can be drawn ahead of the computation.

A rematerialised function runs twice, and must drop the same values both times. Keras's own `Dropout` advances
its seed in each run, which makes the gradients silently wrong. Here a layer draws its seeds first
(`draw_seeds`), and the computation receives them as arguments. And Keras does not save its seeds: a training that was
stopped would go on with the masks of its beginning.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
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
    return x if seed is None or rate == 0 else x * _scales(_kept(ops.shape(x), rate, seed), rate, x.dtype)


def residual(x: Any, branch: Callable[[Any], Any], rate: float, seed: Any, is_skippable: bool) -> Any:
    """Returns x + branch(x) with stochastic depth: samples (axis 0) of the branch are dropped with probability `rate`,
    and the others scaled up; none if `seed` is None.

    What is dropped is not computed on a CPU if `is_skippable`: on PyTorch sample by sample, on JAX for a batch of one.
    Weights that are in `branch` alone have gradients of zero then. (TensorFlow 2.21 has no gradient of a condition
    within `keras.remat`.)
    """
    if seed is None or rate == 0:
        return x + branch(x)
    batch = ops.shape(x)[0]
    is_kept = _kept((batch,), rate, seed)
    is_skippable = is_skippable and pieces.is_on_cpu(x)
    if is_skippable and keras.backend.backend() == "torch":
        from videoswin_keras.nn import torch_functions

        if not torch_functions.is_traced():
            return torch_functions.add_to_some(x, branch, is_kept, 1 / (1 - rate))
    scales = ops.reshape(_scales(is_kept, rate, x.dtype), (batch,) + (1,) * (len(x.shape) - 1))
    is_jax = keras.backend.backend() == "jax"
    if is_skippable and is_jax and batch == 1 and not pieces.would_compile_each_time(x):
        return ops.cond(is_kept[0], lambda: x + branch(x) * scales, lambda: x)
    return x + branch(x) * scales


def _kept(shape: tuple, rate: float, seed: Any) -> Any:
    """Returns False with probability `rate`."""
    return keras.random.uniform(shape, seed=DrawnSeed(seed)) >= rate


def _scales(is_kept: Any, rate: float, dtype: Any) -> Any:
    """Returns 0 for what is dropped, otherwise what keeps the mean."""
    return ops.cast(ops.cast(is_kept, "float32") / (1 - rate), dtype)


def seed_generator(*rates: float) -> keras.random.SeedGenerator | None:
    """Returns what draws the seeds of a layer, None if it drops nothing. To be called in `build`, for its path."""
    return keras.random.SeedGenerator(name="seed_generator") if any(rates) else None


def draw_seeds(generator: keras.random.SeedGenerator | None, rates: tuple[float, ...], training: bool | None) -> tuple:
    """Draws one seed for each rate; None where nothing is dropped."""
    return tuple(generator.next() if generator and training and rate > 0 else None for rate in rates)


def save_seed(layer: keras.layers.Layer, store: Any) -> None:
    """Saves where the seeds of a layer have come, beside its weights."""
    if layer.seed_generator is not None:
        store["seed"] = ops.convert_to_numpy(layer.seed_generator.state)


def load_seed(layer: keras.layers.Layer, store: Any) -> None:
    """Loads what `save_seed` saved, where it is there."""
    if layer.seed_generator is not None and "seed" in dict(store):
        layer.seed_generator.state.assign(np.array(store["seed"]))


@keras.saving.register_keras_serializable(package="videoswin_keras")
class Dropout(keras.layers.Layer):
    """`keras.layers.Dropout` with a seed that is saved.

    Args:
        rate: Float in [0, 1). Rate at which inputs are dropped in training.
        **kwargs: `name`, `dtype`, …, as for every Keras layer.

    Input and output: floating, of any shape.
    """

    def __init__(self, rate: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = check_rate("rate", rate)

    def build(self, input_shape: tuple) -> None:
        self.seed_generator = seed_generator(self.rate)

    def call(self, x: Any, training: bool | None = None) -> Any:
        return dropout(x, self.rate, *draw_seeds(self.seed_generator, (self.rate,), training))

    def save_own_variables(self, store: Any) -> None:
        save_seed(self, store)

    def load_own_variables(self, store: Any) -> None:
        load_seed(self, store)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "rate": self.rate}


def check_rate(name: str, rate: float) -> float:
    """Returns `rate` as a float in [0, 1), or raises ValueError."""
    if not 0 <= rate < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1. Received: {rate}. Use 0 to drop nothing.")
    return float(rate)

"""Dropout and stochastic depth whose seeds are drawn ahead of the computation.

A recomputed function runs twice, and must drop the same values both times. Keras's own `Dropout` advances its seed in
each run, which makes the gradients silently wrong. Here a layer draws its seeds first (`draw_seeds`), and the
computation receives them as arguments. Keras does not save its seeds either: resumed training would repeat the masks
of its beginning.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras import kernels


class DrawnSeed(keras.random.SeedGenerator):
    """A seed that was drawn before; every use of it gives the same numbers."""

    def __init__(self, seed: Any):  # no super().__init__: there is no state to create
        self.seed = seed

    def next(self, ordered: bool = True) -> Any:
        return self.seed


def dropout(x: Any, rate: float, seed: Any) -> Any:
    """Zeroes elements of `x` with probability `rate` and scales the others up; the identity if `seed` is None."""
    if seed is None or rate == 0:
        return x
    return x * ops.cast(ops.cast(_kept(ops.shape(x), rate, seed), "float32") / (1 - rate), x.dtype)


def residual(x: Any, branch: Callable[[Any], Any], rate: float, seed: Any, is_skippable: bool) -> Any:
    """Returns x + branch(x) with stochastic depth: drops the branch of whole samples (axis 0) at `rate`, and scales the
    others up; drops none if `seed` is None.

    If `is_skippable`, a kernel may skip the computation of a branch that is dropped. The weights of such a branch then
    have gradients of zero.
    """
    if seed is None or rate == 0:
        return x + branch(x)
    return kernels.add_branch(x, branch, _kept((ops.shape(x)[0],), rate, seed), rate, is_skippable)


def _kept(shape: tuple, rate: float, seed: Any) -> Any:
    """Returns False with probability `rate`."""
    return keras.random.uniform(shape, seed=DrawnSeed(seed)) >= rate


def seed_generator(*rates: float) -> keras.random.SeedGenerator | None:
    """Returns the seed generator of a layer, or None if all rates are 0. Call it in `build`, for its path."""
    return keras.random.SeedGenerator(name="seed_generator") if any(rates) else None


def draw_seeds(generator: keras.random.SeedGenerator | None, rates: tuple[float, ...], training: bool | None) -> tuple:
    """Draws one seed for each rate; None for a rate of 0, and outside training."""
    return tuple(generator.next() if generator and training and rate > 0 else None for rate in rates)


def save_seed(layer: keras.layers.Layer, store: Any) -> None:
    """Saves the state of a layer's seed generator beside its weights."""
    if layer.seed_generator is not None:
        store["seed"] = ops.convert_to_numpy(layer.seed_generator.state)


def load_seed(layer: keras.layers.Layer, store: Any) -> None:
    """Loads the state that `save_seed` saved; files of earlier versions hold none."""
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

"""Which pixels a model takes, and a warning, once, where those that it is given are others.

A model trained on 0–255 as if it were normalised trains on without a word, and `classify` then normalises.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras import kernels
from videoswin_keras.nn.layers import PixelNormalization

_FARTHEST = 16.0  # normalised pixels are within ±3; cameras other than ImageNet's may need more


def takes_pixels(model: keras.Model) -> bool:
    """Whether `model` takes RGB in 0–255 and normalises it; others take it normalised."""
    return any(isinstance(layer, PixelNormalization) for layer in model._flatten_layers())


def look(clips: Any, is_rescaled: bool) -> bool:
    """Warns if some pixels are not what a model takes; returns whether they had values to look at.

    Args:
        clips: (batch, …, channels), an array or a tensor; symbolic ones are not looked at.
        is_rescaled: Whether the model takes 0–255; otherwise it takes them normalised.
    """
    some = _some(clips)
    if some is None or not some.size:
        return False
    least, most = some.min(), some.max()
    if least == most:  # a black clip, or one that Keras finds out shapes with
        return True
    what = f"clips of {keras.backend.standardize_dtype(some.dtype)} from {least:.3g} to {most:.3g}"
    if not is_rescaled and (np.issubdtype(some.dtype, np.integer) or max(-least, most) > _FARTHEST):
        warnings.warn(
            f"The model takes normalised pixels, and was given {what}. Build it with `include_rescaling=True` for RGB "
            f"in 0–255, or normalise them: (RGB − mean) / std.",
            stacklevel=2,
        )
    elif is_rescaled and (least < 0 or 0 < most <= 1) and np.issubdtype(some.dtype, np.floating):
        warnings.warn(
            f"The model takes RGB in 0–255 (`include_rescaling=True`), and was given {what}. Do not scale or normalise "
            f"pixels before it.",
            stacklevel=2,
        )
    return True


def looking(step: Callable, is_rescaled: bool, done: Callable[[], None]) -> Callable:
    """Returns Keras's function of a training step on JAX or TensorFlow, that looks at what its iterator gives first.

    Then `done` is called, whether or not it could.
    """

    def looking_step(*arguments: Any) -> Any:
        *state, iterator = arguments
        data: Any = next(iterator)
        clips = data[0] if isinstance(data, tuple | list) else data
        per_replica = getattr(clips, "values", None)  # of TensorFlow's strategies
        look(per_replica[0] if isinstance(per_replica, tuple) else clips, is_rescaled)
        done()
        rest: Iterator = itertools.chain([data], iterator)
        return step(*state, rest)

    return looking_step


def _some(clips: Any) -> np.ndarray | None:
    """Returns some pixels of the first clip, or None if they are not known yet."""
    if isinstance(clips, keras.KerasTensor) or not hasattr(clips, "shape") or len(clips.shape) < 4:
        return None
    if not kernels.has_values(clips):  # nothing may break a graph
        return None
    try:
        steps = [slice(None, None, max(1, side // 8)) for side in clips.shape[1:-1]]
        return np.asarray(ops.convert_to_numpy(clips[(slice(0, 1), *steps)]))
    except (TypeError, ValueError, NotImplementedError, RuntimeError):  # what is being traced
        return None

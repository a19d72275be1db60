"""Which weights of a model are trained how: those without weight decay, by recipe."""

from typing import Any

import keras

_TABLES = ("relative_position_bias_table",)
_NORMS = ("gamma", "beta")
# By the name of the variable, which is what tells: its path has the names of layers, which people choose.
RECIPES = {"official": _TABLES, "mmaction2": (*_TABLES, *_NORMS), "biases_too": (*_TABLES, *_NORMS, "bias")}


def without_decay(model: keras.Model, recipe: str = "mmaction2") -> list[Any]:
    """Returns the weights of a model that do not decay, for `optimizer.exclude_from_weight_decay(var_list=…)`.

    (Keras's `var_names` are searched for in the names of variables, "gamma" and "beta" of a norm, and not in those of
    layers: `var_names=["norm"]` excludes nothing.)

    Args:
        model: Any Keras model.
        recipe: "official": the relative position bias tables alone, as the official code was executed. "mmaction2":
            these and the norms, as its configuration says and mmaction2 1.x does. "biases_too": these and all biases,
            as most recipes for other Transformers do.

    Returns:
        Variables of the model, to be excluded before the optimiser is built, and again after a model was loaded: Keras
        does not save it.

    Raises:
        ValueError: if there is no such recipe.

    Example:

    >>> from videoswin_keras import AdamW, VideoSwinBackbone
    >>> model = VideoSwinBackbone((None, None, None, 3), embed_dim=8, depths=(1,), num_heads=(1,))
    >>> optimizer = AdamW(1e-4, weight_decay=0.05)
    >>> optimizer.exclude_from_weight_decay(var_list=without_decay(model, "official"))
    >>> [variable.name for variable in without_decay(model, "official")]
    ['relative_position_bias_table']

    Source: the configurations of github.com/SwinTransformer/Video-Swin-Transformer, and what mmcv 1.x makes of them.
    """
    if recipe not in RECIPES:
        raise ValueError(f"`recipe` must be one of {', '.join(RECIPES)}. Received: {recipe!r}.")
    return [variable for variable in model.trainable_variables if variable.name in RECIPES[recipe]]

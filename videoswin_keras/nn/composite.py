"""The base class of layers made of layers: quantisation, LoRA and seeds survive saving.

`quantize` and `enable_lora` change the Dense layers inside. Keras rebuilds a layer from its own configuration only, so
the saved layer records these changes. Keras saves no seeds of a layer either.
"""

from typing import Any

import keras

from videoswin_keras.nn import dropout

_CHANGED = ("dtype", "quantization_config", "lora_rank", "lora_alpha")


def changed_layers(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the settings of the layers that `quantize` or `enable_lora` changed, by position in their tree."""
    return {
        str(position): {name: value for name, value in inner.get_config().items() if name in _CHANGED}
        for position, inner in enumerate(layer._flatten_layers(include_self=False))
        if inner.quantization_mode is not None or getattr(inner, "lora_enabled", False)
    }


def change_layers(layer: keras.layers.Layer, changes: dict[str, Any]) -> None:
    """Applies the changes that `changed_layers` recorded to a built `layer`; skips those that are there already."""
    inner = list(layer._flatten_layers(include_self=False))
    for position, change in changes.items():
        one = inner[int(position)]
        policy = keras.dtype_policies.deserialize(change["dtype"])
        if policy.quantization_mode is not None and one.quantization_mode is None:
            config = keras.saving.deserialize_keras_object(change.get("quantization_config"))
            one.quantize(policy.quantization_mode, config=config)
            one.dtype_policy = policy
        if change.get("lora_rank") and not one.lora_enabled:
            one.enable_lora(change["lora_rank"], lora_alpha=change["lora_alpha"])


def changes_in(config: dict) -> dict[str, Any]:
    """Takes the record of `changed_layers` out of a configuration; old ones hold dtype policies alone."""
    policies = config.pop("quantized", {})
    return config.pop("changed_layers", {position: {"dtype": policy} for position, policy in policies.items()})


class CompositeLayer(keras.layers.Layer):
    """A layer made of layers, all of them created in `build`."""

    seed_generator: keras.random.SeedGenerator | None = None  # of those that drop something

    @property
    def is_float8(self) -> bool:
        """Whether a layer within multiplies in float8: by one scale for all tokens, which its gradient updates."""
        return any(inner.quantization_mode == "float8" for inner in self._flatten_layers(include_self=False))

    def get_build_config(self) -> dict | None:
        config = super().get_build_config()
        changes = changed_layers(self)
        return {**(config or {}), "changed_layers": changes} if changes else config

    def build_from_config(self, config: dict) -> None:
        config = dict(config)
        changes = changes_in(config)
        super().build_from_config(config)
        change_layers(self, changes)

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        dropout.save_seed(self, store)

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables({name: value for name, value in dict(store).items() if name.isdecimal()})
        dropout.load_seed(self, store)

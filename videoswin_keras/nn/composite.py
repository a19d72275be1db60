"""What every layer made of layers shares: int8 quantisation that survives saving.

`Model.quantize` changes the dtype policies of the Dense layers inside. Keras rebuilds a layer from its own
configuration only, so the layer that is saved must record the policies of the layers within.
"""

from typing import Any

import keras


def quantized_policies(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the dtype policy of each quantised layer within, by its position in the tree of layers."""
    return {
        str(position): keras.dtype_policies.serialize(inner.dtype_policy)
        for position, inner in enumerate(layer._flatten_layers(include_self=False))
        if inner.dtype_policy.quantization_mode is not None
    }


def restore_policies(layer: keras.layers.Layer, policies: dict[str, Any]) -> None:
    """Quantises the layers within a built `layer` as `quantized_policies` recorded it."""
    inner = list(layer._flatten_layers(include_self=False))
    for position, policy in policies.items():
        inner[int(position)].dtype_policy = keras.dtype_policies.deserialize(policy)


class CompositeLayer(keras.layers.Layer):
    """A layer made of layers, all of them created in `build`."""

    @property
    def is_float8(self) -> bool:
        """Whether a layer within multiplies in float8: by one scale for all tokens, which its gradient updates."""
        return any(inner.quantization_mode == "float8" for inner in self._flatten_layers(include_self=False))

    def get_build_config(self) -> dict | None:
        config = super().get_build_config()
        policies = quantized_policies(self)
        return {**(config or {}), "quantized": policies} if policies else config

    def build_from_config(self, config: dict) -> None:
        config = dict(config)
        policies = config.pop("quantized", {})
        super().build_from_config(config)
        restore_policies(self, policies)

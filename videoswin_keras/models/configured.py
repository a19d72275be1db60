"""Models that are rebuilt from the arguments of their constructors."""

from typing import Any, Self

import keras

from videoswin_keras.nn.composite import change_layers, changed_layers, changes_in


class Configured:
    """What the library's models share: they keep the `arguments` they are rebuilt from.

    They also record which layers are frozen and what `quantize` and `enable_lora` did, so that these survive saving.
    """

    name: str
    trainable: bool
    trainable_variables: list
    _flatten_layers: Any  # of keras.Model, which every subclass is

    def _remember(self, arguments: dict[str, Any], dtype: Any) -> None:
        """To be called at the end of a constructor, after `super().__init__(inputs, outputs)`."""
        self.arguments = arguments
        self.dtype_policy = keras.dtype_policies.get(dtype)

    def get_config(self) -> dict:
        config = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            **self.arguments,
        }
        if changes := changed_layers(self):
            config["changed_layers"] = changes
        layers = self._flatten_layers(include_self=False)
        if frozen := [position for position, layer in enumerate(layers) if not layer.trainable]:
            config["frozen_layers"] = frozen
        return config

    def make_train_function(self, force: bool = False) -> Any:
        """As Keras's, but the optimizer makes its weights before: a step that makes weights TensorFlow traces twice."""
        optimizer = getattr(self, "optimizer", None)
        is_built = all(layer.built for layer in self._flatten_layers())  # else weights are yet to come
        if optimizer is not None and not optimizer.built and is_built:
            optimizer.build(self.trainable_variables)
        return super().make_train_function(force)  # type: ignore[misc]

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Self:
        config = dict(config)
        changes = changes_in(config)
        frozen = set(config.pop("frozen_layers", ()))
        dtype = config.get("dtype")
        if isinstance(dtype, dict):
            config["dtype"] = keras.dtype_policies.deserialize(dtype)
        model = cls(**config)
        change_layers(model, changes)
        for position, layer in enumerate(model._flatten_layers(include_self=False)):  # each before those within it
            if layer.trainable == (position in frozen):
                layer.trainable = position not in frozen
        return model


class ConfiguredModel(Configured, keras.Model):
    """Base of the library's functional models.

    Keras can only revive a functional subclass whose constructor takes inputs and outputs. These take an
    architecture instead.
    """

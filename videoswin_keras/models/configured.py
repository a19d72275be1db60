"""Models that are rebuilt from the arguments of their constructors."""

from pathlib import Path
from typing import Any, Self

import keras

from videoswin_keras.export import FORMATS, export
from videoswin_keras.models import pixels
from videoswin_keras.nn.composite import change_layers, changed_layers, changes_in

_OF_KERAS = {"tensorflow": ("tf_saved_model", "onnx", "litert", "openvino"), "torch": ("torch",), "jax": ()}


class Configured:
    """What the library's models share: they keep the `arguments` they are rebuilt from.

    They also record which layers are frozen and what `quantize` and `enable_lora` did, so that these survive saving.
    """

    name: str
    trainable: bool
    trainable_variables: list
    input_shape: tuple
    _flatten_layers: Any  # of keras.Model, which every subclass is
    steps_per_execution: int
    train_function: Any
    _has_looked = False  # at the pixels it is given

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

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if arguments:
            self._look(arguments[0])
        return super().__call__(*arguments, **keywords)  # type: ignore[misc]

    def make_train_function(self, force: bool = False) -> Any:
        """As Keras's, but the optimizer makes its weights before: a step that makes weights TensorFlow traces twice.

        And the first step looks at the pixels, which elsewhere are known only on PyTorch.
        """
        optimizer = getattr(self, "optimizer", None)
        is_built = all(layer.built for layer in self._flatten_layers())  # else weights are yet to come
        if optimizer is not None and not optimizer.built and is_built:
            optimizer.build(self.trainable_variables)
        super().make_train_function(force)  # type: ignore[misc]
        is_one_by_one = self.steps_per_execution == 1 and keras.backend.backend() != "torch"
        if is_one_by_one and not self._has_looked:
            step = self.train_function

            def done() -> None:
                self.train_function = step
                self._remember_the_look()

            self.train_function = pixels.looking(step, pixels.takes_pixels(self), done)

    def _look(self, clips: Any) -> None:
        if not self._has_looked and pixels.look(clips, pixels.takes_pixels(self)):
            self._remember_the_look()

    def _remember_the_look(self) -> None:
        for layer in self._flatten_layers():  # the models within, too
            if isinstance(layer, Configured):
                layer._has_looked = True

    def export(
        self,
        filepath: str | Path,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any] | None:
        """Writes a SavedModel ("tf_saved_model") or ONNX ("onnx"), on any backend, by `videoswin_keras.export.export`.

        Other formats, and exports with other arguments, are Keras's, where it can: "litert" and "openvino" on
        TensorFlow, "torch" on PyTorch.

        Returns:
            What `videoswin_keras.export.export` returns; None where Keras exports.

        Raises:
            ValueError: if it cannot be exported so, or what was written does not give what the model gives.
        """
        backend, is_functional = keras.backend.backend(), isinstance(self, ConfiguredModel)
        of_keras = _OF_KERAS[backend] if is_functional or input_signature is not None else ()
        if format in FORMATS and input_signature is None and not kwargs:
            return export(self, filepath, format)
        if format == "litert" and of_keras and input_signature is None and None in self.input_shape[1:]:
            raise ValueError(
                "LiteRT computes wrong numbers where sides vary. Build the model with all sides in `input_shape`. "
                f"Received: {self.input_shape[1:]}."
            )
        if format in of_keras:
            return super().export(filepath, format, verbose, input_signature, **kwargs)  # type: ignore[misc]
        raise ValueError(
            f"On {backend} a {type(self).__name__} can be exported as {', '.join(dict.fromkeys((*FORMATS, *of_keras)))}"
            f"; with other arguments only as {', '.join(of_keras) or 'none'}. "
            f"Received: format={format}, input_signature={input_signature}, {kwargs}."
        )

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

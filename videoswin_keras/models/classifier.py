"""Video Swin with a classification head."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import keras

from videoswin_keras.models.backbone import VideoSwinBackbone, pool
from videoswin_keras.models.configured import ConfiguredModel
from videoswin_keras.nn import dropout
from videoswin_keras.nn.initializers import RandomNormal
from videoswin_keras.video.protocols import Protocol


@keras.saving.register_keras_serializable(package="videoswin_keras")
class VideoSwinClassifier(ConfiguredModel):
    """A `VideoSwinBackbone`, pooling, dropout and a linear layer.

    Args:
        backbone: `VideoSwinBackbone` with `pooling=None`.
        num_classes: Integer. Number of classes.
        pooling: "avg" (as published) or "max", over frames, height and width.
        dropout_rate: Float in [0, 1). Dropout before the linear layer in training; 0.5 as in the official recipes.
        activation: None for logits, or a Keras activation such as "softmax"; computed in float32.
        labels: Names of the classes in order, which are saved with the model; of one class its name, or those of its
            absence and its presence. Can be set later.
        protocol: `Protocol` of the clips it is trained on (see `video.protocols.get`), saved too: how clips are taken
            of the videos that it classifies. Can be set later.
        multi_label: Whether classes are there or not each by itself, so that several can be at once: what outputs
            mean for `classify` and streams. None: if the activation is a sigmoid. Can be set later.
        name: String.
        dtype: Keras dtype policy or its name, for the head.
        trainable: Whether the weights can be trained.

    Input: (batch, frames, height, width, channels), what the backbone takes. Output: (batch, num_classes), float32.

    Raises:
        ValueError: if the backbone is pooled already, `num_classes` is not positive, or labels or protocol do not fit.

    Example:

    >>> import numpy as np
    >>> backbone = VideoSwinBackbone((None, None, None, 3), embed_dim=8, num_heads=(1, 1, 2, 4))
    >>> model = VideoSwinClassifier(backbone, num_classes=5)
    >>> tuple(model(np.ones((2, 4, 32, 32, 3), "float32")).shape)
    (2, 5)

    Source: section 4.1 of arXiv 2106.13230.
    """

    def __init__(
        self,
        backbone: VideoSwinBackbone,
        num_classes: int,
        pooling: str = "avg",
        dropout_rate: float = 0.5,
        activation: Any = None,
        labels: Sequence[str] | None = None,
        protocol: Protocol | None = None,
        multi_label: bool | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        if isinstance(backbone, dict):
            backbone = keras.saving.deserialize_keras_object(backbone)
        if not isinstance(backbone, VideoSwinBackbone):
            raise TypeError(f"`backbone` must be a VideoSwinBackbone. Received: {type(backbone).__name__}.")
        if len(backbone.output.shape) != 5:
            raise ValueError("The backbone of a classifier must have `pooling=None`: the classifier pools.")
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(
                f"`num_classes` must be an integer, at least 1. Received: {num_classes}. Use the backbone for features."
            )
        activation_function = keras.activations.get(activation)
        if num_classes == 1 and activation_function is keras.activations.softmax:
            raise ValueError("The softmax of one class is always 1. Use a sigmoid, no activation, or two classes.")
        dtype = keras.dtype_policies.get(dtype)
        x = pool(pooling, dtype)(backbone(backbone.input))
        x = dropout.Dropout(dropout.check_rate("dropout_rate", dropout_rate), dtype=dtype, name="dropout")(x)
        # The official head: a normal of deviation 0.01, not the 0.02 of the backbone.
        initializer = RandomNormal(stddev=0.01)
        x = keras.layers.Dense(num_classes, kernel_initializer=initializer, dtype=dtype, name="head")(x)
        outputs = keras.layers.Activation(activation_function, dtype="float32", name="predictions")(x)

        super().__init__(backbone.input, outputs, name=name)
        self.backbone = backbone
        self._remember(
            {
                "num_classes": num_classes,
                "pooling": pooling,
                "dropout_rate": dropout_rate,
                "activation": activation,
            },
            dtype,
        )
        self.labels, self.protocol, self.multi_label = labels, protocol, multi_label
        if not trainable:
            self.trainable = False

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes in order, or None."""
        return self._labels

    @labels.setter
    def labels(self, labels: Sequence[str] | None) -> None:
        self._labels = None if labels is None else _checked_labels(labels, self.arguments["num_classes"])

    @property
    def protocol(self) -> Protocol | None:
        """How clips are taken of a video, or None."""
        return self._protocol

    @protocol.setter
    def protocol(self, protocol: Protocol | dict | None) -> None:
        self._protocol = None if protocol is None else _checked_protocol(protocol, self.input_shape)

    @property
    def multi_label(self) -> bool | None:
        """Whether several classes can be there at once, as it was said; None: if the activation is a sigmoid."""
        return self._multi_label

    @multi_label.setter
    def multi_label(self, multi_label: bool | None) -> None:
        if multi_label not in (None, True, False):
            raise ValueError(f"`multi_label` must be True, False or None. Received: {multi_label!r}.")
        self._multi_label = multi_label

    def get_config(self) -> dict:
        activation = self.arguments["activation"]
        return {
            **super().get_config(),
            "activation": keras.activations.serialize(activation) if callable(activation) else activation,
            "labels": self.labels,
            "multi_label": self.multi_label,
            "protocol": None if self.protocol is None else asdict(self.protocol),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
        }


def _checked_labels(labels: Sequence[str], num_classes: int) -> tuple[str, ...]:
    counts = (1, 2) if num_classes == 1 else (num_classes,)
    is_list = isinstance(labels, Sequence) and not isinstance(labels, str)
    if (
        not is_list
        or len(labels) not in counts
        or not all(isinstance(label, str) and label.strip() for label in labels)
    ):
        raise ValueError(
            f"`labels` must be {' or '.join(map(str, counts))} names, one for each class. Received: {labels}."
        )
    if len(set(labels)) < len(labels):
        raise ValueError(f"`labels` must be different names. Received: {labels}.")
    return tuple(labels)


def _checked_protocol(protocol: Protocol | dict, input_shape: tuple) -> Protocol:
    protocol = Protocol(**protocol) if isinstance(protocol, dict) else protocol
    if not isinstance(protocol, Protocol):
        raise TypeError(f"`protocol` must be a Protocol, see `video.protocols.get`. Received: {protocol!r}.")
    wanted, given = input_shape[1:4], (protocol.clip_frames, protocol.crop, protocol.crop)
    if any(side not in (None, own) for side, own in zip(wanted, given, strict=True)):
        raise ValueError(f"The model takes clips of (frames, height, width) {wanted}, `protocol` gives {given}.")
    return protocol

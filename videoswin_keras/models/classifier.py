"""Video Swin with a classification head."""

from typing import Any

import keras

from videoswin_keras.models.backbone import VideoSwinBackbone, pool
from videoswin_keras.models.configured import ConfiguredModel
from videoswin_keras.nn import random
from videoswin_keras.nn.initializers import RandomNormal


@keras.saving.register_keras_serializable(package="videoswin_keras")
class VideoSwinClassifier(ConfiguredModel):
    """A `VideoSwinBackbone`, pooling, dropout and a linear layer.

    Args:
        backbone: `VideoSwinBackbone` with `pooling=None`.
        num_classes: Integer. Number of classes.
        pooling: "avg" (as published) or "max", over frames, height and width.
        dropout_rate: Float in [0, 1). Dropout before the linear layer in training; 0.5 as in the official recipes.
        activation: None for logits, or a Keras activation such as "softmax"; computed in float32.
        name: String.
        dtype: Keras dtype policy or its name, for the head.
        trainable: Whether the weights can be trained.

    Input: (batch, frames, height, width, channels), what the backbone takes. Output: (batch, num_classes), float32.

    Raises:
        ValueError: if the backbone is pooled already, or `num_classes` is not positive.

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
        dtype = keras.dtype_policies.get(dtype)
        x = pool(pooling, dtype)(backbone(backbone.input))
        x = keras.layers.Dropout(random.check_rate("dropout_rate", dropout_rate), dtype=dtype, name="dropout")(x)
        # The official head: a normal of deviation 0.01, not the 0.02 of the backbone.
        initializer = RandomNormal(stddev=0.01)
        x = keras.layers.Dense(num_classes, kernel_initializer=initializer, dtype=dtype, name="head")(x)
        outputs = keras.layers.Activation(keras.activations.get(activation), dtype="float32", name="predictions")(x)

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
        if not trainable:
            self.trainable = False

    def get_config(self) -> dict:
        activation = self.arguments["activation"]
        return {
            **super().get_config(),
            "activation": keras.activations.serialize(activation) if callable(activation) else activation,
            "backbone": keras.saving.serialize_keras_object(self.backbone),
        }

"""The Video Swin backbone: a clip in, features out."""

from typing import Any

import keras
import numpy as np

from videoswin_keras.models.configured import ConfiguredModel
from videoswin_keras.nn import dropout, windows
from videoswin_keras.nn.block import VideoSwinStage
from videoswin_keras.nn.layers import PatchEmbedding, PatchMerging, PixelNormalization

POOLINGS = {"avg": keras.layers.GlobalAveragePooling3D, "max": keras.layers.GlobalMaxPooling3D}


def pool(name: str, dtype: Any) -> keras.layers.Layer:
    """Returns the layer that pools (batch, frames, height, width, channels) to (batch, channels)."""
    if name not in POOLINGS:
        raise ValueError(f"`pooling` must be one of {sorted(POOLINGS)} or None. Received: {name!r}.")
    return POOLINGS[name](dtype=dtype, name=f"{name}_pooling")


@keras.saving.register_keras_serializable(package="videoswin_keras")
class VideoSwinBackbone(ConfiguredModel):
    """Video Swin Transformer without a head. The defaults are Tiny's.

    Args:
        input_shape: (frames, height, width, channels); None for each side that may vary from clip to clip.
        embed_dim: Integer. Channels of the first stage; every later stage has twice those of the one before.
        depths: Integers. Number of blocks of each stage.
        num_heads: Integers. Attention heads of each stage.
        window_size: Three integers, (frames, height, width) of a window in tokens.
        patch_size: Three integers, (frames, height, width) of a patch in pixels.
        mlp_ratio: Float. Width of a block's hidden layer over its channels.
        qkv_bias: Whether the projections to query, key and value have a bias.
        patch_norm: Whether the patch embedding ends with a layer normalisation.
        projection_dropout_rate: Float in [0, 1). Dropout of the embedded patches, after the attention's
            projections and in the perceptrons (`drop_rate` in the official code).
        attention_dropout_rate: Float in [0, 1). Dropout of attention weights.
        drop_path_rate: Float in [0, 1). Stochastic depth of the last block; rates rise linearly from 0.
        layer_norm_epsilon: Float. Epsilon of every layer normalisation.
        frozen_stages: Integer. −1 freezes nothing, 0 the patch embedding, n also the first n stages with the
            merging after each. What is frozen has no trainable weights and never drops anything. (Setting
            `trainable` of the whole model later sets it for the frozen stages too, as everywhere in Keras.)
        include_rescaling: Whether clips are RGB in 0–255 (uint8 or float), to be normalised in the model.
            Otherwise they are expected normalised: (RGB − mean) / std, see `PixelNormalization`.
        pooling: None for feature maps, "avg" or "max" for one vector per clip.
        use_rematerialization: Whether training recomputes the activations of each block instead of keeping them.
        name: String.
        dtype: Keras dtype policy or its name.
        trainable: Whether the weights can be trained.

    Input: (batch, frames, height, width, channels), floating (or uint8 with `include_rescaling`).
    Output: (batch, ⌈frames / 2⌉, ⌈height / 32⌉, ⌈width / 32⌉, 8 · embed_dim); (batch, 8 · embed_dim) if pooled.

    Attributes:
        pyramid_outputs: Dict "stage1" … "stage4" of symbolic outputs of the stages, before merging and without
            the final normalisation, at strides 4, 8, 16 and 32: the inputs of a detection or localisation head.

    Example:

    >>> import numpy as np
    >>> backbone = VideoSwinBackbone((None, None, None, 3), embed_dim=8, num_heads=(1, 1, 2, 4))
    >>> tuple(backbone(np.ones((1, 4, 40, 64, 3), "float32")).shape)
    (1, 2, 2, 2, 64)
    >>> pyramid = keras.Model(backbone.input, backbone.pyramid_outputs)
    >>> tuple(pyramid(np.ones((1, 4, 40, 64, 3), "float32"))["stage2"].shape)
    (1, 2, 5, 8, 16)

    Source: section 3.1 of arXiv 2106.13230.
    """

    def __init__(
        self,
        input_shape: tuple[int | None, int | None, int | None, int] = (32, 224, 224, 3),
        embed_dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        window_size: tuple[int, int, int] = (8, 7, 7),
        patch_size: tuple[int, int, int] = (2, 4, 4),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        patch_norm: bool = True,
        projection_dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        layer_norm_epsilon: float = 1e-5,
        frozen_stages: int = -1,
        include_rescaling: bool = False,
        pooling: str | None = None,
        use_rematerialization: bool = False,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        input_shape = tuple(input_shape)  # type: ignore[assignment]
        depths, num_heads = tuple(depths), tuple(num_heads)
        if len(input_shape) != 4 or input_shape[-1] is None:
            raise ValueError(
                "`input_shape` must be (frames, height, width, channels), with None for sides that vary but not for "
                f"channels. Received: {input_shape}."
            )
        if any(side is not None and side < 1 for side in input_shape):
            raise ValueError(f"Every side of `input_shape` must be at least 1, or None. Received: {input_shape}.")
        if not depths or len(depths) != len(num_heads) or min((*depths, *num_heads)) < 1:
            raise ValueError(
                "`depths` and `num_heads` must have one positive entry per stage. "
                f"Received: depths={depths}, num_heads={num_heads}."
            )
        if not -1 <= frozen_stages <= len(depths):
            raise ValueError(f"`frozen_stages` must be from -1 to {len(depths)}. Received: {frozen_stages}.")

        dtype = keras.dtype_policies.get(dtype)
        drop_path_rates = np.linspace(0.0, drop_path_rate, sum(depths)).tolist()
        inputs = keras.Input(input_shape, dtype="float32", name="clip")
        x = inputs
        if include_rescaling:
            x = PixelNormalization(dtype=dtype, name="pixel_normalization")(x)
        embedding = PatchEmbedding(
            embed_dim,
            patch_size,
            patch_norm=patch_norm,
            layer_norm_epsilon=layer_norm_epsilon,
            dtype=dtype,
            name="patch_embedding",
        )
        x = embedding(x)
        embedding.trainable = frozen_stages < 0  # after the call that builds it: the flag reaches weights that exist
        if projection_dropout_rate and frozen_stages < 1:  # a frozen first stage gets what inference gives it
            x = dropout.Dropout(projection_dropout_rate, dtype=dtype, name="embedding_dropout")(x)
        for index, heads in enumerate(num_heads):
            frozen = index < frozen_stages
            stage = VideoSwinStage(
                heads,
                tuple(drop_path_rates[sum(depths[:index]) : sum(depths[: index + 1])]),
                window_size=windows.check_sides("window_size", window_size),
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                projection_dropout_rate=projection_dropout_rate,
                attention_dropout_rate=attention_dropout_rate,
                layer_norm_epsilon=layer_norm_epsilon,
                use_rematerialization=use_rematerialization,
                dtype=dtype,
                name=f"stage{index + 1}",
            )
            x = stage(x)
            stage.trainable = not frozen
            if index + 1 < len(depths):
                merging = PatchMerging(layer_norm_epsilon, dtype=dtype, name=f"merging{index + 1}")
                x = merging(x)
                merging.trainable = not frozen
        x = keras.layers.LayerNormalization(epsilon=layer_norm_epsilon, dtype=dtype, name="norm")(x)
        if pooling is not None:
            x = pool(pooling, dtype)(x)

        super().__init__(inputs, x, name=name)
        self._remember(
            {
                "input_shape": input_shape,
                "embed_dim": embed_dim,
                "depths": depths,
                "num_heads": num_heads,
                "window_size": tuple(window_size),
                "patch_size": tuple(patch_size),
                "mlp_ratio": mlp_ratio,
                "qkv_bias": qkv_bias,
                "patch_norm": patch_norm,
                "projection_dropout_rate": projection_dropout_rate,
                "attention_dropout_rate": attention_dropout_rate,
                "drop_path_rate": drop_path_rate,
                "layer_norm_epsilon": layer_norm_epsilon,
                "frozen_stages": frozen_stages,
                "include_rescaling": include_rescaling,
                "pooling": pooling,
                "use_rematerialization": use_rematerialization,
            },
            dtype,
        )
        if not trainable:
            self.trainable = False

    @property
    def pyramid_outputs(self) -> dict[str, keras.KerasTensor]:
        # A plain dict: Keras would wrap one kept as an attribute, which JAX then rejects as a model's output.
        names = [f"stage{index + 1}" for index in range(len(self.arguments["depths"]))]
        return {name: self.get_layer(name).output for name in names}

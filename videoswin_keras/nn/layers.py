"""The layers before and between the stages: patch embedding, patch merging, normalisation of pixels."""

from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras import kernels
from videoswin_keras.nn import windows
from videoswin_keras.nn.composite import CompositeLayer
from videoswin_keras.nn.dense import linear, normalize
from videoswin_keras.nn.initializers import RandomNormal, RandomUniform

# RGB statistics of ImageNet on the scale 0–255, which every published checkpoint was trained with.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@keras.saving.register_keras_serializable(package="videoswin_keras")
class PixelNormalization(keras.layers.Layer):
    """Normalises RGB in 0–255 as the published checkpoints expect: `(x − mean) / std` per channel.

    Computes in float32 under every dtype policy, since bfloat16 cannot hold the quotient of 8-bit values.

    Args:
        mean: Floats, one per channel, in 0–255. Default: ImageNet's.
        std: Floats, one per channel, in 0–255. Default: ImageNet's.
        **kwargs: `name`, `dtype`, …, as for every Keras layer.

    Input: (…, channels), uint8 or floating, in 0–255. Output: same shape, floating, about −2.2 to 2.7.

    Raises:
        ValueError: if the channels are not as many as `mean` and `std`.

    Example:

    >>> import numpy as np
    >>> white = PixelNormalization()(np.full((1, 1, 1, 1, 3), 255, "uint8"))
    >>> [round(float(value), 2) for value in white[0, 0, 0, 0]]
    [2.25, 2.43, 2.64]
    """

    def __init__(self, mean: tuple = IMAGENET_MEAN, std: tuple = IMAGENET_STD, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.mean, self.std = tuple(mean), tuple(std)

    def build(self, input_shape: tuple) -> None:
        if not input_shape[-1] == len(self.mean) == len(self.std):
            raise ValueError(
                f"Normalisation has {len(self.mean)} means and {len(self.std)} deviations, the clip has "
                f"{input_shape[-1]} channels. Without `include_rescaling` clips of any channels are taken as they are."
            )

    def call(self, x: Any) -> Any:
        mean = ops.convert_to_tensor(self.mean, "float32")
        std = ops.convert_to_tensor(self.std, "float32")
        return ops.cast((ops.cast(x, "float32") - mean) / std, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "mean": self.mean, "std": self.std}


@keras.saving.register_keras_serializable(package="videoswin_keras")
class PatchEmbedding(CompositeLayer):
    """Cuts a clip into patches and projects each to a token.

    A clip whose sides are no multiples of the patch is padded with zeros at the end. The projection is a matrix
    product; its kernel keeps the shape of the 3D convolution that it stands for.

    Args:
        embed_dim: Integer. Channels of a token.
        patch_size: Three integers, (frames, height, width) in pixels.
        patch_norm: Whether a layer normalisation follows.
        layer_norm_epsilon: Float. Epsilon of that normalisation.
        **kwargs: `name`, `dtype`, …, as for every Keras layer.

    Input: (batch, frames, height, width, channels), floating.
    Output: (batch, ⌈frames / t⌉, ⌈height / h⌉, ⌈width / w⌉, embed_dim).

    Example:

    >>> import numpy as np
    >>> tuple(PatchEmbedding(embed_dim=8)(np.ones((1, 5, 9, 16, 3), "float32")).shape)
    (1, 3, 3, 4, 8)

    Source: section 3.1 of arXiv 2106.13230.
    """

    def __init__(
        self,
        embed_dim: int,
        patch_size: tuple[int, int, int] = (2, 4, 4),
        patch_norm: bool = True,
        layer_norm_epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.patch_size = windows.check_sides("patch_size", patch_size)
        self.patch_norm = patch_norm
        self.layer_norm_epsilon = layer_norm_epsilon

    def build(self, input_shape: tuple) -> None:
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(f"The number of channels must be known. Received: input shape {tuple(input_shape)}.")
        bound = float(np.prod(self.patch_size) * channels) ** -0.5  # PyTorch's default for a convolution
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.patch_size, channels, self.embed_dim),
            initializer=RandomUniform(-bound, bound),
        )
        self.bias = self.add_weight(name="bias", shape=(self.embed_dim,), initializer=RandomUniform(-bound, bound))
        self.norm = None
        if self.patch_norm:
            self.norm = keras.layers.LayerNormalization(
                epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name="norm"
            )
            self.norm.build((*input_shape[:-1], self.embed_dim))

    def call(self, x: Any, training: bool | None = None) -> Any:
        if x.shape[-1] != self.kernel.shape[3]:
            raise ValueError(f"The model is for {self.kernel.shape[3]} channels. Received: a clip of shape {x.shape}.")
        batch = ops.shape(x)[0]
        size = tuple(
            windows.ceil_div(length, side) for length, side in zip(ops.shape(x)[1:4], self.patch_size, strict=True)
        )
        x = windows.pad_to(x, tuple(count * side for count, side in zip(size, self.patch_size, strict=True)))
        patches = windows.partition(x, self.patch_size)
        count, values, channels = ops.shape(patches)
        patches = ops.reshape(patches, (count, values * channels))
        kernel = ops.cast(ops.reshape(self.kernel, (values * channels, self.embed_dim)), patches.dtype)
        x = kernels.linear(patches, kernel, ops.cast(self.bias, patches.dtype))
        x = ops.reshape(x, (batch, *size, self.embed_dim))
        return x if self.norm is None else normalize(self.norm, x, training)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        size = (
            None if length is None else windows.ceil_div(length, side)
            for length, side in zip(input_shape[1:4], self.patch_size, strict=True)
        )
        return (input_shape[0], *size, self.embed_dim)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "patch_size": self.patch_size,
            "patch_norm": self.patch_norm,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }


@keras.saving.register_keras_serializable(package="videoswin_keras")
class PatchMerging(CompositeLayer):
    """Halves height and width: four neighbouring tokens become one of twice the channels.

    An odd height or width is padded with zeros at the end, so that it is halved with ceiling.

    Args:
        layer_norm_epsilon: Float. Epsilon of the layer normalisation before the projection.
        **kwargs: `name`, `dtype`, …, as for every Keras layer.

    Input: (batch, frames, height, width, channels), floating.
    Output: (batch, frames, ⌈height / 2⌉, ⌈width / 2⌉, 2 · channels).

    Example:

    >>> import numpy as np
    >>> tuple(PatchMerging()(np.ones((1, 2, 5, 4, 8), "float32")).shape)
    (1, 2, 3, 2, 16)

    Source: section 3.1 of arXiv 2106.13230.
    """

    def __init__(self, layer_norm_epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(**kwargs)
        self.layer_norm_epsilon = layer_norm_epsilon

    def build(self, input_shape: tuple) -> None:
        merged = (*input_shape[:-1], 4 * input_shape[-1])
        self.norm = keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name="norm"
        )
        self.norm.build(merged)
        self.reduction = keras.layers.Dense(
            2 * input_shape[-1],
            use_bias=False,
            kernel_initializer=RandomNormal(stddev=0.02),
            dtype=self.dtype_policy,
            name="reduction",
        )
        self.reduction.build(merged)

    def call(self, x: Any, training: bool | None = None) -> Any:
        batch, frames, height, width, channels = ops.shape(x)
        rows, columns = windows.ceil_div(height, 2), windows.ceil_div(width, 2)
        x = windows.pad_to(x, (frames, 2 * rows, 2 * columns))
        # Official order of the four: (row, column) = (0, 0), (1, 0), (0, 1), (1, 1), so the column runs slower.
        x = ops.reshape(x, (batch * frames * rows, 2, columns, 2, channels))
        x = ops.transpose(x, (0, 2, 3, 1, 4))
        x = ops.reshape(x, (batch, frames, rows, columns, 4 * channels))
        return linear(self.reduction, normalize(self.norm, x, training), training)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, frames, height, width, channels = input_shape
        rows, columns = (None if length is None else windows.ceil_div(length, 2) for length in (height, width))
        return (batch, frames, rows, columns, 2 * channels)

    def get_config(self) -> dict:
        return {**super().get_config(), "layer_norm_epsilon": self.layer_norm_epsilon}

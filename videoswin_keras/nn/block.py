"""The transformer block of Video Swin, and a stage of them."""

import enum
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from videoswin_keras import kernels
from videoswin_keras.nn import dropout, windows
from videoswin_keras.nn.attention import WindowAttention
from videoswin_keras.nn.composite import CompositeLayer
from videoswin_keras.nn.dense import linear, linear_gelu, normalize
from videoswin_keras.nn.initializers import RandomNormal


class Execution(enum.Enum):
    """How a block is computed. Every way gives the same values."""

    WHOLE = "as it is written: in float8 all tokens share one scale, which the gradient updates"
    BY_WINDOW = "inference: the whole block for a few windows at a time, which hold no padding"
    BY_BRANCH = "inference: attention for a few windows at a time, the perceptron for a few tokens at a time"
    TRAINING = "normalisations and GELU are recomputed in the backward pass where that pays"
    REMATERIALIZED = "the same, and the backward pass begins by recomputing the block"


@keras.saving.register_keras_serializable(package="videoswin_keras")
class VideoSwinBlock(CompositeLayer):
    """Windowed attention and a two-layer perceptron, each after a layer normalisation and with a residual.

    Args:
        num_heads: Integer. The channels must be a multiple of it.
        window_size: Three integers, (frames, height, width) in tokens.
        shifted: Whether windows are shifted by half their size, as in every second block.
        mlp_ratio: Float. Width of the perceptron's hidden layer over the channels.
        qkv_bias: Whether the projection to query, key and value has a bias.
        projection_dropout_rate: Float in [0, 1). Dropout after the attention's projection and in the perceptron.
        attention_dropout_rate: Float in [0, 1). Dropout of attention weights.
        drop_path_rate: Float in [0, 1). Stochastic depth: rate at which a sample skips a residual branch.
        layer_norm_epsilon: Float. Epsilon of the layer normalisations.
        use_rematerialization: Whether training recomputes the block's activations in the backward pass instead
            of keeping them: less memory for long clips, up to half more time, the same gradients. Nothing in float8.
        **kwargs: `name`, `dtype`, …, as for every Keras layer.

    Input and output: (batch, frames, height, width, channels), floating, of any size: sides that are no multiples
    of the window are padded within, and a side shorter than the window gets a window of its own length. In training
    there are no forward-mode derivatives (`jvp`), and on TensorFlow no second ones.

    Example:

    >>> import numpy as np
    >>> block = VideoSwinBlock(num_heads=2, window_size=(2, 3, 3), shifted=True)
    >>> tuple(block(np.ones((1, 4, 5, 7, 8), "float32")).shape)
    (1, 4, 5, 7, 8)

    Source: section 3.2 of arXiv 2106.13230.
    """

    def __init__(
        self,
        num_heads: int,
        window_size: tuple[int, int, int] = (8, 7, 7),
        shifted: bool = False,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        projection_dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_norm_epsilon: float = 1e-5,
        use_rematerialization: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.window_size = windows.check_sides("window_size", window_size)
        self.shifted = shifted
        self.mlp_ratio = mlp_ratio
        self.qkv_bias = qkv_bias
        self.projection_dropout_rate = dropout.check_rate("projection_dropout_rate", projection_dropout_rate)
        self.attention_dropout_rate = dropout.check_rate("attention_dropout_rate", attention_dropout_rate)
        self.drop_path_rate = dropout.check_rate("drop_path_rate", drop_path_rate)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.use_rematerialization = use_rematerialization

    def build(self, input_shape: tuple) -> None:
        self.seed_generator = dropout.seed_generator(self.projection_dropout_rate, self.drop_path_rate)
        channels = input_shape[-1]

        def norm(name: str) -> keras.layers.Layer:
            layer = keras.layers.LayerNormalization(epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name=name)
            layer.build(input_shape)
            return layer

        def dense(name: str, inputs: int, outputs: int) -> keras.layers.Layer:
            initializer = RandomNormal(stddev=0.02)
            layer = keras.layers.Dense(outputs, kernel_initializer=initializer, dtype=self.dtype_policy, name=name)
            layer.build((*input_shape[:-1], inputs))
            return layer

        self.attention_norm = norm("attention_norm")
        self.attention = WindowAttention(
            self.num_heads,
            self.window_size,
            qkv_bias=self.qkv_bias,
            attention_dropout_rate=self.attention_dropout_rate,
            projection_dropout_rate=self.projection_dropout_rate,
            dtype=self.dtype_policy,
            name="attention",
        )
        self.attention.build((None, None, channels))
        self.mlp_norm = norm("mlp_norm")
        hidden = int(channels * self.mlp_ratio)
        self.mlp_expansion = dense("mlp_expansion", channels, hidden)
        self.mlp_projection = dense("mlp_projection", hidden, channels)

    def call(self, x: Any, training: bool | None = None) -> Any:
        # All seeds are drawn first: a block that is recomputed must drop the same values again.
        seeds = self._draw_seeds(training)
        if training:
            return self._execute(x, seeds, training)
        with kernels.after(x):  # else TensorFlow would cast all weights first, and hold them
            return self._execute(x, seeds, training)

    def _execute(self, x: Any, seeds: dict[str, Any], training: bool | None) -> Any:
        grid = windows.WindowGrid(tuple(ops.shape(x)[1:4]), self.window_size, self.shifted)
        execution = self._execution(grid, training)
        if execution is Execution.BY_WINDOW:
            return self._by_window(x, grid)
        light = kernels.recompute_cheap if execution in (Execution.TRAINING, Execution.REMATERIALIZED) else _unchanged

        def attention(x: Any) -> Any:
            windowed = light(lambda x: grid.partition(normalize(self.attention_norm, x, training), training))(x)
            drawn = seeds["attention"]
            attended = self.attention(windowed, shift_mask=grid.shift_mask, training=training, seeds=drawn)
            return grid.merge(attended, training)

        def mlp(x: Any) -> Any:
            if execution is Execution.BY_BRANCH:
                output = kernels.over_tokens(self._mlp, x, self._mlp_bytes())
            else:
                hidden = light(lambda x: self._expand(x, training))(x)
                output = light(lambda hidden: self._project(hidden, seeds["hidden"], training))(hidden)
            return dropout.dropout(output, self.projection_dropout_rate, seeds["output"])

        def block(x: Any) -> Any:
            is_skippable = execution is not Execution.WHOLE
            return self._block(x, attention, mlp, (seeds["attention_path"], seeds["mlp_path"]), is_skippable)

        return kernels.recompute(block)(x) if execution is Execution.REMATERIALIZED else block(x)

    def _execution(self, grid: windows.WindowGrid, training: bool | None) -> Execution:
        if self.is_float8:
            return Execution.WHOLE
        if training:
            return Execution.REMATERIALIZED if self.use_rematerialization else Execution.TRAINING
        return Execution.BY_WINDOW if grid.is_exact else Execution.BY_BRANCH

    def _block(self, x: Any, attention: Callable, mlp: Callable, path_seeds: tuple, is_skippable: bool) -> Any:
        """The block of section 3.2: two branches, each with its norm, a residual and stochastic depth."""
        x = dropout.residual(x, attention, self.drop_path_rate, path_seeds[0], is_skippable)
        return dropout.residual(x, mlp, self.drop_path_rate, path_seeds[1], is_skippable)

    def _by_window(self, x: Any, grid: windows.WindowGrid) -> Any:
        bias = self.attention.position_bias(grid.tokens)

        def block(x: Any, masks: Any) -> Any:
            attention = lambda x: self.attention.attend(normalize(self.attention_norm, x), bias, masks)  # noqa: E731
            return self._block(x, attention, self._mlp, (None, None), True)

        bytes_each = max(self.attention.bytes_each(bias), grid.tokens * self._mlp_bytes())
        return grid.merge(kernels.over_windows(block, [grid.partition(x)], grid.shift_mask, bytes_each))

    def _draw_seeds(self, training: bool | None) -> dict[str, Any]:
        names = ("attention_path", "hidden", "output", "mlp_path")
        rates = (self.drop_path_rate, self.projection_dropout_rate, self.projection_dropout_rate, self.drop_path_rate)
        drawn = dropout.draw_seeds(self.seed_generator, rates, training)
        return {**dict(zip(names, drawn, strict=True)), "attention": self.attention.draw_seeds(training)}

    def _mlp(self, x: Any) -> Any:
        return linear(self.mlp_projection, linear_gelu(self.mlp_expansion, normalize(self.mlp_norm, x)))

    def _mlp_bytes(self) -> int:
        """Returns how many bytes of intermediate values `_mlp` needs for a token."""
        # The normalised, the hidden layer before and after its activation, and the output.
        return 4 * (2 * self.mlp_projection.units + 2 * self.mlp_expansion.units)

    def _expand(self, x: Any, training: bool | None) -> Any:
        return linear(self.mlp_expansion, normalize(self.mlp_norm, x, training), training)

    def _project(self, hidden: Any, seed: Any, training: bool | None) -> Any:
        hidden = dropout.dropout(kernels.gelu(hidden, training), self.projection_dropout_rate, seed)
        return linear(self.mlp_projection, hidden, training)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "window_size": self.window_size,
            "shifted": self.shifted,
            "mlp_ratio": self.mlp_ratio,
            "qkv_bias": self.qkv_bias,
            "projection_dropout_rate": self.projection_dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "drop_path_rate": self.drop_path_rate,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "use_rematerialization": self.use_rematerialization,
        }


def _unchanged(function: Callable) -> Callable:
    return function


@keras.saving.register_keras_serializable(package="videoswin_keras")
class VideoSwinStage(CompositeLayer):
    """Blocks of one resolution, with regular and shifted windows in turn.

    Args:
        num_heads: Integer. The channels must be a multiple of it.
        drop_path_rates: Floats in [0, 1), one per block: their number is the depth of the stage.
        window_size: Three integers, (frames, height, width) in tokens.
        **kwargs: The other arguments of `VideoSwinBlock`, and `name`, `dtype`, ….

    Input and output: (batch, frames, height, width, channels), floating, of any size. A stage whose `trainable` is
    False never drops anything, like a frozen batch normalisation.

    Example:

    >>> import numpy as np
    >>> stage = VideoSwinStage(num_heads=2, drop_path_rates=(0.0, 0.1), window_size=(2, 3, 3))
    >>> tuple(stage(np.ones((1, 4, 5, 7, 8), "float32")).shape)
    (1, 4, 5, 7, 8)

    Source: section 3.1 of arXiv 2106.13230.
    """

    def __init__(
        self,
        num_heads: int,
        drop_path_rates: tuple[float, ...],
        window_size: tuple[int, int, int] = (8, 7, 7),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        projection_dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        layer_norm_epsilon: float = 1e-5,
        use_rematerialization: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.drop_path_rates = tuple(drop_path_rates)
        self.block_config: dict[str, Any] = {
            "num_heads": num_heads,
            "window_size": windows.check_sides("window_size", window_size),
            "mlp_ratio": mlp_ratio,
            "qkv_bias": qkv_bias,
            "projection_dropout_rate": projection_dropout_rate,
            "attention_dropout_rate": attention_dropout_rate,
            "layer_norm_epsilon": layer_norm_epsilon,
            "use_rematerialization": use_rematerialization,
        }

    def build(self, input_shape: tuple) -> None:
        self.blocks = []
        for index, rate in enumerate(self.drop_path_rates):
            block = VideoSwinBlock(
                shifted=index % 2 == 1,
                drop_path_rate=rate,
                dtype=self.dtype_policy,
                name=f"block{index + 1}",
                **self.block_config,
            )
            block.build(input_shape)
            self.blocks.append(block)

    def call(self, x: Any, training: bool | None = None) -> Any:
        for block in self.blocks:
            x = block(x, training=training and self.trainable)
        return x

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "drop_path_rates": self.drop_path_rates, **self.block_config}

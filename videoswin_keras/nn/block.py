"""The transformer block of Video Swin, and a stage of them."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from videoswin_keras.nn import pieces, random, windows
from videoswin_keras.nn.attention import WindowAttention
from videoswin_keras.nn.composite import CompositeLayer
from videoswin_keras.nn.gradients import remat, remat_cheap, with_adjoint
from videoswin_keras.nn.initializers import RandomNormal
from videoswin_keras.nn.linear import linear, linear_gelu
from videoswin_keras.nn.pointwise import gelu, normalize


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
        self.projection_dropout_rate = random.check_rate("projection_dropout_rate", projection_dropout_rate)
        self.attention_dropout_rate = random.check_rate("attention_dropout_rate", attention_dropout_rate)
        self.drop_path_rate = random.check_rate("drop_path_rate", drop_path_rate)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.use_rematerialization = use_rematerialization

    def build(self, input_shape: tuple) -> None:
        self.seed_generator = random.seed_generator(self.projection_dropout_rate, self.drop_path_rate)
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
        if training:
            return self._transform(x, training)
        with pieces.after(x):  # casts of weights and the position bias; in training they are held anyway
            return self._transform(x, training)

    def _transform(self, x: Any, training: bool | None) -> Any:
        rates = (self.drop_path_rate, self.projection_dropout_rate, self.projection_dropout_rate, self.drop_path_rate)
        seeds = random.draw_seeds(self.seed_generator, rates, training)
        attention_seeds = self.attention.draw_seeds(training)
        float8 = self.is_float8

        def transform(x: Any) -> Any:
            path_seed, hidden_seed, output_seed, mlp_path_seed = seeds
            tiling = windows.Tiling(tuple(ops.shape(x)[1:4]), self.window_size, self.shifted)
            if tiling.is_exact and not training and not float8:
                return self._infer(x, tiling)
            cut: Callable[[Any], Any] = tiling.cut
            join: Callable[[Any], Any] = tiling.join
            if training:
                cut, join = with_adjoint(cut, join), with_adjoint(join, cut)
            lean = remat_cheap if training and not float8 else lambda function: function

            def attend(x: Any) -> Any:
                attended = lean(lambda x: cut(normalize(self.attention_norm, x, training)))(x)
                return join(self.attention(attended, seam=tiling.seam, training=training, seeds=attention_seeds))

            def perceive(x: Any) -> Any:
                if training or float8:
                    hidden = lean(lambda x: self._expand(x, training))(x)
                    output = lean(lambda hidden: self._project(hidden, hidden_seed, training))(hidden)
                else:
                    output = pieces.over_tokens(self._mlp, x, self._mlp_bytes())
                return random.dropout(output, self.projection_dropout_rate, output_seed)

            x = random.residual(x, attend, self.drop_path_rate, path_seed, is_skippable=not float8)
            return random.residual(x, perceive, self.drop_path_rate, mlp_path_seed, is_skippable=not float8)

        # Not of float8: TensorFlow's would leave its scales without their updates.
        return remat(transform)(x) if self.use_rematerialization and training and not float8 else transform(x)

    def _infer(self, x: Any, tiling: windows.Tiling) -> Any:
        """Computes the whole block window by window, where nothing is dropped and windows have no padding."""
        bias = self.attention.position_bias(tiling.tokens)

        def transform(x: Any, masks: Any) -> Any:
            x = x + self.attention.attend(self.attention_norm(x), bias, masks)
            return x + self._mlp(x)

        each = max(self.attention.bytes_each(bias), tiling.tokens * self._mlp_bytes())
        return tiling.join(pieces.over_windows(transform, [tiling.cut(x)], tiling.seam, each))

    def _mlp(self, x: Any) -> Any:
        return linear(self.mlp_projection, linear_gelu(self.mlp_expansion, self.mlp_norm(x)))

    def _mlp_bytes(self) -> int:
        """Returns how many bytes of intermediate values `_mlp` needs for a token."""
        # The normalised, the hidden layer before and after its activation, and the output.
        return 4 * (2 * self.mlp_projection.units + 2 * self.mlp_expansion.units)

    def _expand(self, x: Any, training: bool | None) -> Any:
        return linear(self.mlp_expansion, normalize(self.mlp_norm, x, training), training)

    def _project(self, hidden: Any, seed: Any, training: bool | None) -> Any:
        hidden = random.dropout(gelu(hidden, training), self.projection_dropout_rate, seed)
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

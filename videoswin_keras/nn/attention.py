"""Self-attention inside a 3D window, with a learned bias for every relative position."""

from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras.nn import pieces, random, windows
from videoswin_keras.nn.composite import CompositeLayer


@keras.saving.register_keras_serializable(package="videoswin_keras")
class WindowAttention(CompositeLayer):
    """Multi-head self-attention over the tokens of a window.

    The bias table has a row for every relative position of a full window, whatever the clip: a window of fewer
    tokens N (a clip smaller than the window) uses the leading N × N entries of the full index, as every released
    model does. For a window clipped in time only these are the right ones.

    Args:
        num_heads: Integer. The channels must be a multiple of it.
        window_size: Three integers, (frames, height, width) in tokens.
        qkv_bias: Whether the projection to query, key and value has a bias.
        attention_dropout_rate: Float in [0, 1). Rate at which attention weights are dropped in training.
        projection_dropout_rate: Float in [0, 1). Rate at which outputs are dropped in training.
        **kwargs: `name`, `dtype`, …, as for every Keras layer.

    Input: (windows, tokens, channels) floating, `tokens` at most the product of `window_size`.
    Output: same shape.

    Raises:
        ValueError: if the channels are not a multiple of `num_heads`, or there are more tokens than a window has.

    Example:

    >>> import numpy as np
    >>> attention = WindowAttention(num_heads=2, window_size=(2, 3, 3))
    >>> tuple(attention(np.ones((5, 18, 8), "float32")).shape)
    (5, 18, 8)

    Source: section 3.2 of arXiv 2106.13230.
    """

    def __init__(
        self,
        num_heads: int,
        window_size: tuple[int, int, int],
        qkv_bias: bool = True,
        attention_dropout_rate: float = 0.0,
        projection_dropout_rate: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.window_size = windows.check_sides("window_size", window_size)
        self.qkv_bias = qkv_bias
        self.attention_dropout_rate = random.check_rate("attention_dropout_rate", attention_dropout_rate)
        self.projection_dropout_rate = random.check_rate("projection_dropout_rate", projection_dropout_rate)
        self.seed_generator = keras.random.SeedGenerator(name="seed_generator")

    def build(self, input_shape: tuple) -> None:
        channels = input_shape[-1]
        if channels % self.num_heads:
            raise ValueError(
                f"The channels must be a multiple of `num_heads`. Received: {channels} channels, "
                f"num_heads={self.num_heads}."
            )
        # The official trunc_normal_(std=0.02) truncates at ±2, a hundred deviations away: a plain normal.
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.relative_position_bias_table = self.add_weight(
            name="relative_position_bias_table",
            shape=(windows.num_relative_positions(self.window_size), self.num_heads),
            initializer=normal,
        )
        self.qkv = keras.layers.Dense(
            3 * channels,
            use_bias=self.qkv_bias,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
            dtype=self.dtype_policy,
            name="qkv",
        )
        self.qkv.build(input_shape)
        self.projection = keras.layers.Dense(
            channels,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
            dtype=self.dtype_policy,
            name="projection",
        )
        self.projection.build(input_shape)

    def draw_seeds(self, training: bool | None) -> tuple:
        """Returns the seeds of one call: attention weights, outputs (None where nothing is dropped)."""
        rates = (self.attention_dropout_rate, self.projection_dropout_rate)
        return random.draw_seeds(self.seed_generator, rates, training)

    def position_bias(self, tokens: Any) -> Any:
        """Returns the bias (heads, tokens, tokens) of windows of `tokens` tokens."""
        index = windows.relative_position_index(self.window_size)
        if windows.is_static(tokens) and tokens > len(index):
            raise ValueError(f"A window of {self.window_size} has {len(index)} tokens. Received: {tokens} tokens.")
        if not windows.is_static(tokens):
            index = ops.convert_to_tensor(index)
        index = index[:tokens, :tokens]
        table = ops.transpose(ops.cast(self.relative_position_bias_table, self.compute_dtype))
        return ops.take(table, index, axis=1)

    def call(
        self,
        x: Any,
        seam: windows.Seam | None = None,
        training: bool | None = None,
        seeds: tuple | None = None,
        per_clip: Any = 1,
    ) -> Any:
        """Attends within each window.

        Args:
            x: Windows, (batch · windows, tokens, channels).
            seam: What `videoswin_keras.nn.windows.seam` returned for the windows of a clip: which pairs of tokens must
                not see each other.
            training: Whether to drop.
            seeds: What `draw_seeds` returned, where it was called ahead.
            per_clip: Integer. Windows of a clip. With a seam, as many as that has.
        """
        attention_seed, projection_seed = self.draw_seeds(training) if seeds is None else seeds
        count, tokens, channels = ops.shape(x)
        if seam is not None:
            per_clip = ops.shape(seam.kinds)[0]
        bias = self.position_bias(tokens)

        def attend(x: Any, masks: Any) -> Any:
            return self._attend(x, bias, masks, attention_seed)

        x = ops.reshape(x, (count // per_clip, per_clip, tokens, channels))
        if attention_seed is not None or self.qkv.quantization_mode == "float8":  # one draw, one scale for all windows
            with pieces.whole():
                x = pieces.over_windows(attend, x, seam, 0)
        else:  # attention weights, query, key, value, and the attended before and after the projection
            x = pieces.over_windows(attend, x, seam, 4 * tokens * (self.num_heads * tokens + 5 * channels))
        x = ops.reshape(x, (count, tokens, channels))
        return random.dropout(x, self.projection_dropout_rate, projection_seed)

    def _attend(self, x: Any, bias: Any, masks: Any, seed: Any) -> Any:
        """(batch, windows, tokens, channels) to the same, with masks (windows or 1, tokens, tokens) or None."""
        batch, count, tokens, channels = shape = ops.shape(x)
        heads, width = self.num_heads, channels // self.num_heads
        qkv = ops.reshape(self.qkv(x), (batch * count, tokens, 3, heads, width))
        if keras.backend.backend() == "torch" and seed is None:  # whose attention is fused; elsewhere this is faster:
            bias = ops.expand_dims(bias, 0)
            if masks is not None:
                bias = bias + ops.expand_dims(ops.cast(masks, bias.dtype), 1)
                bias = bias if masks.shape[0] == 1 else ops.tile(bias, (batch, 1, 1, 1))
            x = ops.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], bias=bias)
        else:
            qkv = ops.transpose(qkv, (2, 0, 3, 1, 4))
            query, key, value = qkv[0] * width**-0.5, qkv[1], qkv[2]
            logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) + bias
            if masks is not None:
                logits = ops.reshape(logits, (batch, count, heads, tokens, tokens))
                logits = logits + ops.expand_dims(ops.cast(masks, logits.dtype), 1)
                logits = ops.reshape(logits, (batch * count, heads, tokens, tokens))
            weights = ops.cast(ops.softmax(ops.cast(logits, "float32"), axis=-1), value.dtype)
            weights = random.dropout(weights, self.attention_dropout_rate, seed)
            x = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return self.projection(ops.reshape(x, shape))

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        store["window_size"] = np.array(self.window_size, "int32")

    def load_own_variables(self, store: Any) -> None:
        saved = tuple(int(side) for side in store["window_size"])
        if saved != self.window_size:
            raise ValueError(
                f"The saved bias table is for windows {saved}, this layer has window_size={self.window_size}. "
                "Build the model with the saved window, or let `videoswin_keras.load_checkpoint(..., "
                "resample_window=True)` resample the table."
            )
        super().load_own_variables({"0": store["0"]})

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "window_size": self.window_size,
            "qkv_bias": self.qkv_bias,
            "attention_dropout_rate": self.attention_dropout_rate,
            "projection_dropout_rate": self.projection_dropout_rate,
        }

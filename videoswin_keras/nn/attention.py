"""Self-attention inside a 3D window, with a learned bias for every relative position."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras import kernels
from videoswin_keras.kernels.plain import at_least_float32
from videoswin_keras.nn import dropout, windows
from videoswin_keras.nn.composite import CompositeLayer
from videoswin_keras.nn.dense import linear
from videoswin_keras.nn.initializers import RandomNormal


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
        ValueError: if the channels are not a multiple of `num_heads`, or there are more tokens than a window has,
            or another number of windows than `shift_mask` covers.

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
        self.attention_dropout_rate = dropout.check_rate("attention_dropout_rate", attention_dropout_rate)
        self.projection_dropout_rate = dropout.check_rate("projection_dropout_rate", projection_dropout_rate)

    def build(self, input_shape: tuple) -> None:
        self.seed_generator = dropout.seed_generator(self.attention_dropout_rate, self.projection_dropout_rate)
        channels = input_shape[-1]
        if channels % self.num_heads:
            raise ValueError(
                f"The channels must be a multiple of `num_heads`. Received: {channels} channels, "
                f"num_heads={self.num_heads}."
            )
        # The official trunc_normal_(std=0.02) truncates at ±2, a hundred deviations away: a plain normal.
        normal = RandomNormal(stddev=0.02)
        self.relative_position_bias_table = self.add_weight(
            name="relative_position_bias_table",
            shape=(windows.num_relative_positions(self.window_size), self.num_heads),
            initializer=normal,
        )
        self.qkv = keras.layers.Dense(
            3 * channels,
            use_bias=self.qkv_bias,
            kernel_initializer=RandomNormal(stddev=0.02),
            dtype=self.dtype_policy,
            name="qkv",
        )
        self.qkv.build(input_shape)
        self.projection = keras.layers.Dense(
            channels,
            kernel_initializer=RandomNormal(stddev=0.02),
            dtype=self.dtype_policy,
            name="projection",
        )
        self.projection.build(input_shape)

    def draw_seeds(self, training: bool | None) -> tuple:
        """Returns the seeds of one call: attention weights, outputs (None where nothing is dropped)."""
        rates = (self.attention_dropout_rate, self.projection_dropout_rate)
        return dropout.draw_seeds(self.seed_generator, rates, training)

    def position_bias(self, tokens: Any) -> Any:
        """Returns the bias (heads, tokens, tokens) of windows of `tokens` tokens."""
        most = math.prod(self.window_size)
        if windows.is_static(tokens) and tokens > most:
            raise ValueError(f"A window of {self.window_size} has {most} tokens. Received: {tokens} tokens.")
        index = windows.relative_position_index(self.window_size, tokens, ops)
        # Half precision is gathered up to nine times slower on PyTorch, and its gradients would be summed in it.
        table = at_least_float32(self.relative_position_bias_table)
        # A table of one head that was transposed would have a gradient of strides that PyTorch's DDP warns of.
        table = ops.transpose(table) if self.num_heads > 1 else ops.reshape(table, (1, table.shape[0]))
        return ops.cast(ops.take(table, index, axis=1), self.compute_dtype)

    def call(
        self,
        x: Any,
        shift_mask: windows.ShiftMask | None = None,
        training: bool | None = None,
        seeds: tuple | None = None,
    ) -> Any:
        """Attends within each window.

        Args:
            x: (windows, tokens, channels), or (batch, windows, tokens, channels).
            shift_mask: Which pairs of tokens must not see each other, for the windows of a clip.
            training: Whether to drop.
            seeds: The result of `draw_seeds`, if it was called ahead.
        """
        attention_seed, projection_seed = self.draw_seeds(training) if seeds is None else seeds
        shape = ops.shape(x)
        x = x if len(shape) == 4 else ops.expand_dims(x, 0)
        count = ops.shape(x)[1]
        if shift_mask is not None and windows.is_static(count) and len(shift_mask.patterns) != count:
            raise ValueError(
                f"The shift mask covers {len(shift_mask.patterns)} windows. Received: {count}. "
                "Give windows of several clips as (batch, windows, tokens, channels)."
            )
        bias = self.position_bias(shape[-2])
        if attention_seed is not None or self.is_float8:  # one draw, and one scale, for all windows
            x = self.attend(x, bias, None if shift_mask is None else shift_mask.masks(), attention_seed)
        elif training:
            x = kernels.window_attention_in_training(linear(self.qkv, x, training), bias, shift_mask)
            x = linear(self.projection, x, training)
        else:
            attend = lambda x, masks: self.attend(x, bias, masks)  # noqa: E731
            x = kernels.over_windows(attend, [x], shift_mask, self.bytes_each(bias))
        x = x if len(shape) == 4 else ops.squeeze(x, 0)
        return dropout.dropout(x, self.projection_dropout_rate, projection_seed)

    def attend(self, x: Any, bias: Any, masks: Any, seed: Any = None) -> Any:
        """Attends within each window of a chunk, all at once.

        Args:
            x: (batch, windows, tokens, channels).
            bias: The result of `position_bias`.
            masks: (windows or 1, tokens, tokens), or None.
            seed: The seed of the attention weights' dropout, or None.
        """
        drop = None if seed is None else lambda x: dropout.dropout(x, self.attention_dropout_rate, seed)
        return linear(self.projection, kernels.window_attention(linear(self.qkv, x), bias, masks, drop))

    def attention_weights(self, x: Any, shift_mask: windows.ShiftMask | None = None) -> Any:
        """Returns how much the tokens of each window attend to each other: (windows, heads, tokens, tokens), float32.

        Args:
            x: (windows, tokens, channels).
            shift_mask: As in `call`.
        """
        bias = self.position_bias(ops.shape(x)[-2])
        masks = None if shift_mask is None else shift_mask.masks()
        return kernels.attention_weights(ops.expand_dims(linear(self.qkv, x), 0), bias, masks)

    def bytes_each(self, bias: Any) -> Any:
        """Returns how many bytes of intermediate values `attend` needs for a window."""
        return kernels.window_bytes(bias, self.projection.units)

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        store["window_size"] = np.array(self.window_size, "int32")

    def load_own_variables(self, store: Any) -> None:
        saved = windows.check_sides("window_size", store["window_size"])
        if saved != self.window_size:
            raise ValueError(
                f"The saved bias table is for windows {saved}, this layer has window_size={self.window_size}. "
                "Build the model with the saved window, or let `videoswin_keras.load_checkpoint(..., "
                "resample_window=True)` resample the table."
            )
        super().load_own_variables(store)

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

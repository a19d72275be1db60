"""Feedback-Attention Memory: a recurrent cell that carries the past of a clip in constant space."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras import kernels
from videoswin_keras.kernels.plain import split_heads
from videoswin_keras.nn.composite import CompositeLayer
from videoswin_keras.nn.dense import linear
from videoswin_keras.nn.initializers import RandomNormal, RandomUniform

HEAD_WIDTH = 32  # channels of an attention head, as everywhere in Video Swin


@keras.saving.register_keras_serializable(package="videoswin_keras")
class CrossAttention(CompositeLayer):
    """Multi-head attention of queries to other tokens, some of which cannot be seen.

    Args:
        **kwargs: `name`, `dtype`, …, as for every Keras layer.

    Input: queries (batch, queries, channels), floating; `key_value` (batch, tokens, 2 · channels), the result of
    `project` for the other tokens; `visible` (batch, tokens), boolean. Heads are 32 channels wide; fewer channels make
    one head.
    Output: (batch, queries, channels); exactly zero where no token is visible.

    Raises:
        ValueError: if there are more than 32 channels, and no multiple of 32.

    Example:

    >>> import numpy as np
    >>> attention = CrossAttention()
    >>> attention.build((None, None, 64))
    >>> queries, tokens = np.ones((1, 4, 64), "float32"), np.ones((1, 7, 64), "float32")
    >>> tuple(attention(queries, attention.project(tokens), np.ones((1, 7), bool)).shape)
    (1, 4, 64)
    """

    def build(self, x_shape: tuple, *_: Any) -> None:
        channels = x_shape[-1]
        if channels > HEAD_WIDTH and channels % HEAD_WIDTH:
            raise ValueError(
                f"A memory needs channels that are a multiple of {HEAD_WIDTH}, or fewer. Received: {channels}."
            )
        self.num_heads = max(channels // HEAD_WIDTH, 1)
        for name, outputs in (("query", channels), ("key_value", 2 * channels), ("projection", channels)):
            bound = math.sqrt(6 / (channels + outputs))
            layer = keras.layers.Dense(
                outputs, kernel_initializer=RandomUniform(-bound, bound), dtype=self.dtype_policy, name=name
            )
            layer.build((None, None, channels))
            setattr(self, name, layer)

    def project(self, tokens: Any) -> Any:
        """Returns keys and values, side by side, of tokens (…, channels): (…, 2 · channels)."""
        return linear(self.key_value, tokens)

    def call(self, x: Any, key_value: Any, visible: Any, training: bool | None = None) -> Any:
        key, value = (split_heads(part, self.num_heads) for part in ops.split(key_value, 2, axis=-1))
        attended = kernels.cross_attention(linear(self.query, x), key, value, visible, training)
        attended = linear(self.projection, attended)
        anything = ops.reshape(ops.any(visible, axis=1), (-1, 1, 1))
        return ops.where(anything, attended, ops.zeros((), attended.dtype))

    def compute_output_shape(self, x_shape: tuple, *_: Any) -> tuple:
        return tuple(x_shape)


@keras.saving.register_keras_serializable(package="videoswin_keras")
class FeedbackAttentionMemory(CompositeLayer):
    """A recurrent memory of fixed size. The tokens of a clip read it, and then it stores a summary of the clip.

    The tokens read a queue of the summaries of the last `memory_length` clips, through a gate that starts at zero:
    a new memory changes nothing until it is trained. Then the memory summarises the tokens after they have read. The
    queries of a summary are the summary before it, so a summary can hand on information for far longer than the queue
    reaches.

    A cell of Keras's protocol: `state_size`, `get_initial_state`, and `call(inputs, states)`, which returns the
    output and the new states and keeps nothing. In `keras.layers.RNN` it needs `FlatMemoryCell`. A caller may store the
    result of `project` for each slot of the queue and give it as `projected`, with zeros for slots that are not real.
    The queue is then its newest slot alone, and so is the new queue.

    Args:
        num_tokens: Integer. Tokens of a summary.
        memory_length: Integer. Clips in the queue. It shapes no weight, so it may differ between training and use.
        layer_norm_epsilon: Float. Epsilon of the layer normalisations.
        **kwargs: `name`, `dtype`, …, as for every Keras layer.

    Input: tokens of a clip (batch, …, channels), floating, in any arrangement; and the states: `queue` (batch,
    memory_length, num_tokens, channels), float32, the newest summary last, and `filled` (batch,), int32, how many of
    its newest slots are real. The channels are at most 32 or a multiple of 32.
    Output: the shape of the tokens, and the list of the new states.

    Raises:
        ValueError: if a number is not positive, or the queue is not that of this memory and of these streams.

    Example:

    >>> import numpy as np
    >>> memory = FeedbackAttentionMemory(num_tokens=4, memory_length=3)
    >>> tokens = np.ones((2, 10, 64), "float32")
    >>> memory.build(tokens.shape)
    >>> output, (queue, filled) = memory(tokens, memory.get_initial_state(batch_size=2))
    >>> tuple(output.shape), tuple(queue.shape), [int(n) for n in filled]
    ((2, 10, 64), (2, 3, 4, 64), [1, 1])

    Source: arXiv 2404.09173 for the feedback (its attention to memory inside every layer is a cell after a stage here).
    """

    def __init__(self, num_tokens: int = 128, memory_length: int = 25, layer_norm_epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(**kwargs, autocast=False)  # the queue stays float32 whatever the compute dtype
        if num_tokens < 1 or memory_length < 1:
            raise ValueError(
                "`num_tokens` and `memory_length` must be at least 1. "
                f"Received: num_tokens={num_tokens}, memory_length={memory_length}."
            )
        self.num_tokens = num_tokens
        self.memory_length = memory_length
        self.layer_norm_epsilon = layer_norm_epsilon

    def build(self, input_shape: tuple, *_: Any) -> None:
        channels = input_shape[-1]
        self.channels = channels
        self.gate = self.add_weight(name="gate", shape=(channels,), initializer="zeros")
        self.age_scale = self.add_weight(name="age_scale", shape=(), initializer="ones")
        # Of the scale of a summary, which is normalised: smaller ones would let all tokens summarise alike.
        self.tokens = self.add_weight(
            name="tokens",
            shape=(self.num_tokens, channels),
            initializer=RandomNormal(stddev=1.0),
        )
        for name in ("read_norm", "queue_norm", "query_norm", "clip_norm", "feedback_norm", "summary_norm"):
            norm = keras.layers.LayerNormalization(epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name=name)
            norm.build((None, None, channels))
            setattr(self, name, norm)
        for name in ("read_attention", "write_attention"):
            attention = CrossAttention(dtype=self.dtype_policy, name=name)
            attention.build((None, None, channels))
            setattr(self, name, attention)

    @property
    def state_size(self) -> list[tuple[int, ...]]:
        return [(self.memory_length, self.num_tokens, self.channels), ()]

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        """Returns the states of `batch_size` streams that have seen nothing."""
        queue, filled = self.state_size
        return [ops.zeros((batch_size, *queue), "float32"), ops.zeros((batch_size, *filled), "int32")]

    def project(self, queue: Any) -> Any:
        """Returns keys and values of slots (batch, slots, num_tokens, channels), without their ages.

        They are side by side: (batch, slots, num_tokens, 2 · channels).
        """
        return self.read_attention.project(self.queue_norm(queue))

    def call(
        self, inputs: Any, states: list[Any], projected: Any = None, training: bool | None = None
    ) -> tuple[Any, list[Any]]:
        queue, filled = states
        batch, slots = inputs.shape[0], self.memory_length if projected is None else 1
        _check_shape("a queue", queue, (batch, slots, self.num_tokens, self.channels))
        if projected is not None:
            _check_shape("`projected`", projected, (batch, self.memory_length, self.num_tokens, 2 * self.channels))
        shape = ops.shape(inputs)
        x = ops.reshape(ops.cast(inputs, self.compute_dtype), (shape[0], math.prod(shape[1:-1]), self.channels))
        places = ops.expand_dims(ops.arange(self.memory_length, dtype="int32"), 0)
        real = places >= self.memory_length - ops.expand_dims(filled, 1)
        # A slot of the queue that is not real may hold anything, even NaN.
        queue = ops.where(ops.expand_dims(ops.expand_dims(real[:, -slots:], 2), 3), queue, 0.0)
        if projected is None:
            projected = self.project(ops.cast(queue, self.compute_dtype))
        x = self._read(x, ops.cast(projected, self.compute_dtype), real, training)
        summary = self._summary(x, ops.cast(queue[:, -1], self.compute_dtype), real[:, -1], training)
        summary = ops.expand_dims(ops.cast(summary, "float32"), 1)
        queue = ops.concatenate([queue[:, 1:], summary], axis=1)
        return ops.reshape(x, shape), [queue, ops.minimum(filled + 1, self.memory_length)]

    def _read(self, x: Any, projected: Any, real: Any, training: bool | None) -> Any:
        batch, count = ops.shape(x)[0], self.memory_length * self.num_tokens
        ages = ops.expand_dims(ops.convert_to_tensor(age_encoding(self.memory_length, self.channels)), 1)
        ages = ops.cast(ages * ops.cast(self.age_scale, "float32"), self.compute_dtype)
        bias = ops.cast(self.read_attention.key_value.bias, self.compute_dtype)  # which the slots have already
        projected = projected + (self.read_attention.project(ages) - bias)
        projected = ops.reshape(projected, (batch, count, 2 * self.channels))
        visible = ops.repeat(real, self.num_tokens, axis=1)
        remembered = self.read_attention(self.read_norm(x), projected, visible, training=training)
        return x + ops.tanh(ops.cast(self.gate, self.compute_dtype)) * remembered

    def _summary(self, x: Any, newest: Any, is_real: Any, training: bool | None) -> Any:
        batch, clip_tokens, _ = ops.shape(x)
        queries = newest + ops.cast(self.tokens, self.compute_dtype)  # `newest` is zero where nothing is remembered
        tokens = ops.concatenate([self.clip_norm(x), self.feedback_norm(newest)], axis=1)
        is_real = ops.broadcast_to(ops.expand_dims(is_real, 1), (batch, self.num_tokens))
        visible = ops.concatenate([ops.ones((batch, clip_tokens), "bool"), is_real], axis=1)
        written = self.write_attention(
            self.query_norm(queries), self.write_attention.project(tokens), visible, training=training
        )
        return self.summary_norm(queries + written)

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        store["memory_length"] = np.array(self.memory_length, "int32")  # for who builds the model from its weights

    def compute_output_shape(self, input_shape: tuple, states_shape: Any = None) -> tuple:
        batch = input_shape[0]
        return tuple(input_shape), [(batch, *size) for size in self.state_size]

    def compute_output_spec(
        self, inputs: Any, states: Any, projected: Any = None, training: bool | None = None
    ) -> tuple:
        output = keras.KerasTensor(inputs.shape, self.compute_dtype)
        return output, [keras.KerasTensor(state.shape, state.dtype) for state in states]

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_tokens": self.num_tokens,
            "memory_length": self.memory_length,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }


def _check_shape(name: str, x: Any, expected: tuple) -> None:
    if len(x.shape) != len(expected) or any(
        None not in (got, want) and got != want for got, want in zip(x.shape, expected, strict=True)
    ):
        raise ValueError(
            f"The memory takes {name} of shape (batch, slots, num_tokens, channels) {expected}. "
            f"Received: {tuple(x.shape)}. Is the state of another model, or of other streams?"
        )


def age_encoding(memory_length: int, channels: int) -> np.ndarray:
    """Returns the encoding of each slot's age in clips, oldest slot first: float32 (memory_length, channels).

    It is sine and cosine of the age at frequencies from 1 to 1/10000, as for the positions of a text.
    """
    ages = np.arange(memory_length, 0, -1)[:, None]
    angles = ages * 10000.0 ** -(np.arange(0, channels, 2) / channels)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :channels].astype("float32")


@keras.saving.register_keras_serializable(package="videoswin_keras")
class FlatMemoryCell(keras.layers.Layer):
    """A `FeedbackAttentionMemory` for `keras.layers.RNN`, which in Keras 3.15 takes only vectors.

    Args:
        memory: `FeedbackAttentionMemory`.
        tokens: Integer. Tokens of a clip.
        channels: Integer. Channels of a token.
        **kwargs: `name`, `dtype`, …, as for every Keras layer.

    Input: (batch, tokens · channels). States: (batch, memory_length · num_tokens · channels), and (batch, 1), both
    float32. Output: (batch, tokens · channels).

    Example:

    >>> import numpy as np
    >>> cell = FlatMemoryCell(FeedbackAttentionMemory(num_tokens=4, memory_length=3), tokens=10, channels=32)
    >>> tuple(keras.layers.RNN(cell, return_sequences=True)(np.ones((2, 5, 320), "float32")).shape)
    (2, 5, 320)
    """

    def __init__(self, memory: FeedbackAttentionMemory, tokens: int, channels: int, **kwargs: Any):
        super().__init__(**kwargs, autocast=False)
        self.memory = keras.saving.deserialize_keras_object(memory) if isinstance(memory, dict) else memory
        self.tokens, self.channels = tokens, channels
        self.state_size = [self.memory.memory_length * self.memory.num_tokens * channels, 1]
        self.output_size = tokens * channels

    def build(self, input_shape: tuple) -> None:
        if not self.memory.built:
            self.memory.build((None, self.tokens, self.channels))

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        return [ops.zeros((batch_size, size), "float32") for size in self.state_size]

    def call(self, inputs: Any, states: list[Any], training: bool | None = None) -> tuple[Any, list[Any]]:
        batch = ops.shape(inputs)[0]
        x = ops.reshape(inputs, (batch, self.tokens, self.channels))
        queue = ops.reshape(states[0], (batch, self.memory.memory_length, self.memory.num_tokens, self.channels))
        filled = ops.cast(ops.reshape(states[1], (batch,)), "int32")
        x, (queue, filled) = self.memory(x, [queue, filled], training=training)
        filled = ops.cast(ops.reshape(filled, (batch, 1)), "float32")
        return ops.reshape(x, (batch, self.output_size)), [ops.reshape(queue, (batch, self.state_size[0])), filled]

    def get_config(self) -> dict:
        memory = keras.saving.serialize_keras_object(self.memory)
        return {**super().get_config(), "memory": memory, "tokens": self.tokens, "channels": self.channels}

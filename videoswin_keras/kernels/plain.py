"""Each operation, defined with `keras.ops` in the most readable way. These definitions are correct on every backend.

`torch.py`, `jax.py`, `tensorflow.py` and `attention.py` override some of them by the same name with faster versions.
One test holds each override against its definition here, in value and gradient.

Tensors are floating unless stated otherwise. `training` says that a gradient will be taken.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

# Added to the logits of tokens that must not be seen: exp of it is 0, and float16 holds it. The official code adds
# −100, which in float32 gives the same unless logits differ by more than 80. But exp(−100) is a denormal number, and
# PyTorch multiplies those many times more slowly on processors by Intel.
HIDDEN = -3e4

# How many bytes of intermediate values a chunk may need on each kind of device.
CHUNK_BYTES = {"cpu": 16 * 2**20, "gpu": 256 * 2**20}

# Whether chunks are taken by a loop in Python. Otherwise `loop` takes them, and all have one length.
LOOPS_IN_PYTHON = False

# Whether the softmax of half precision is rounded to it.
ROUNDS_SOFTMAX = False


def linear(x: Any, kernel: Any, bias: Any = None, training: bool | None = None) -> Any:
    """Returns x · kernel + bias: `x` (…, inputs), `kernel` (inputs, outputs), `bias` (outputs,), all of one dtype."""
    x = ops.matmul(x, kernel)
    return x if bias is None else x + bias


def linear_gelu(x: Any, kernel: Any, bias: Any = None) -> Any:
    """Returns gelu(x · kernel + bias), with the shapes of `linear`."""
    return gelu(linear(x, kernel, bias))


def gelu(x: Any, training: bool | None = None) -> Any:
    """Returns x · Φ(x) = x · (1 + erf(x / √2)) / 2.

    `ops.gelu` computes the complementary error function on JAX and TensorFlow, which is slower on a CPU.
    """
    wide = at_least_float32(x)
    return ops.cast(0.5 * wide * (1 + ops.erf(wide * 0.5**0.5)), x.dtype)


def layer_normalization(x: Any, scale: Any, shift: Any, epsilon: float, training: bool | None = None) -> Any:
    """Normalises `x` (…, channels) over its channels; `scale` and `shift` are (channels,)."""
    return ops.layer_normalization(x, scale, shift, axis=-1, epsilon=epsilon)


def window_attention(qkv: Any, bias: Any, masks: Any = None, drop: Callable[[Any], Any] | None = None) -> Any:
    """Attends within each window: softmax(query · keyᵀ / √width + bias + mask) · value.

    Args:
        qkv: (batch, windows, tokens, 3 · channels): query, key and value, each head after head.
        bias: (heads, tokens, tokens), added to the products of query and key.
        masks: (windows or 1, tokens, tokens), added as well; None where all tokens of a window see each other.
        drop: Dropout of the attention weights, or None.

    Returns:
        (batch, windows, tokens, channels).
    """
    query, key, value = split_qkv(qkv, bias)
    weights = ops.cast(ops.softmax(at_least_float32(attention_logits(query, key, bias, masks))), qkv.dtype)
    return join_heads(ops.matmul(weights if drop is None else drop(weights), value), qkv)


def window_attention_in_training(qkv: Any, bias: Any, shift_mask: Any = None) -> Any:
    """Attends as `window_attention` does; `shift_mask` is a `windows.ShiftMask` or None."""
    return window_attention(qkv, bias, None if shift_mask is None else shift_mask.masks())


def cross_attention(query: Any, key: Any, value: Any, visible: Any, training: bool | None = None) -> Any:
    """Attends to other tokens, of which only some are visible.

    Args:
        query: (batch, queries, channels).
        key: (batch, heads, tokens, width), of the same dtype.
        value: The same.
        visible: (batch, tokens), boolean. Keys and values of the other tokens must be finite, and their products with
            queries far below 3e4. Where no token is visible, the result is finite and has no meaning.
        training: Whether a gradient will be taken.

    Returns:
        (batch, queries, channels).
    """
    _, queries, channels = ops.shape(query)
    query = split_heads(query, ops.shape(key)[1]) * ops.shape(key)[-1] ** -0.5
    logits = at_least_float32(ops.matmul(query, transpose(key)))
    logits = ops.where(ops.expand_dims(visible, (1, 2)), logits, HIDDEN)
    attended = ops.matmul(ops.cast(ops.softmax(logits), value.dtype), value)
    return ops.reshape(ops.transpose(attended, (0, 2, 1, 3)), (-1, queries, channels))


def matmul(one: Any, other: Any) -> Any:
    """Returns one · other, of the same dtype."""
    return ops.matmul(one, other)


def matmul_wide(one: Any, other: Any) -> Any:
    """Returns one · other; a backend may return it in float32."""
    return ops.matmul(one, other)


def matmul_nt(one: Any, other: Any) -> Any:
    """Returns one · otherᵀ; a backend may return it in float32."""
    return ops.matmul(one, transpose(other))


def matmul_tn(one: Any, other: Any) -> Any:
    """Returns oneᵀ · other, of the same dtype."""
    return ops.matmul(transpose(one), other)


def softmax_parts(logits: Any) -> tuple[Any, Any]:
    """Returns weights and a total. The softmax of `logits` is weights / total, or the weights where the total is None.

    Both are at least float32, but on PyTorch, whose functions compute in float32 and round once.
    """
    return ops.softmax(at_least_float32(logits), axis=-1), None


def softmax_gradient(upstream: Any, weights: Any) -> Any:
    """Returns the gradient of the logits whose softmax is `weights`; `upstream` is the gradient of the weights."""
    weights = at_least_float32(weights)
    gradient = weights * at_least_float32(upstream)
    return gradient - weights * ops.sum(gradient, axis=-1, keepdims=True)


def fused_attention(query: Any, key: Any, value: Any, bias: Any) -> Any:
    """Attends (batch, heads, tokens, width) by softmax(query · keyᵀ / √width + bias) · value."""
    logits = ops.matmul(query * ops.shape(query)[-1] ** -0.5, transpose(key)) + bias
    return ops.matmul(ops.cast(ops.softmax(at_least_float32(logits)), value.dtype), value)


def add_branch(x: Any, branch: Callable[[Any], Any], is_kept: Any, rate: float, is_skippable: bool) -> Any:
    """Returns x + branch(x) / (1 − rate) for the samples that are kept, and x for the others.

    Args:
        x: (batch, …).
        branch: Returns the shape of its argument.
        is_kept: (batch,), boolean.
        rate: The rate at which samples are dropped.
        is_skippable: Whether the branch of a dropped sample need not be computed.
    """
    scales = ops.cast(ops.cast(is_kept, "float32") / (1 - rate), x.dtype)
    return x + branch(x) * ops.reshape(scales, (-1,) + (1,) * (len(x.shape) - 1))


def over_windows(function: Callable, tensors: list, shift_mask: Any, bytes_each: Any, by_mask: bool = True) -> Any:
    """Returns `function(*tensors, masks)`; a faster version computes it for a few windows at a time.

    Args:
        function: Takes chunks of the tensors, and masks (windows or 1, tokens, tokens), None where there are none.
            Returns the shape of the first, or fewer channels, and treats each window alone; or a tuple of that and of
            a tensor that is summed over the chunks. A chunk may hold windows of several clips, as if of one: tensors
            that differ between clips must be among the `tensors`.
        tensors: Each (batch, windows, tokens, channels), the first with the most channels. The second axis may also be
            that of heads.
        shift_mask: The masks of the windows, a `windows.ShiftMask`, or None.
        bytes_each: Bytes of intermediate values that a window needs.
    """
    return function(*tensors, None if shift_mask is None else shift_mask.masks())


def over_tokens(function: Callable[[Any], Any], x: Any, bytes_each: Any) -> Any:
    """Returns `function(x)`; a faster version computes it for a few tokens at a time.

    Args:
        function: From (batch, tokens, channels) to the same shape, each token alone. A chunk may hold tokens of
            several clips, as if of one.
        x: (batch, …, channels), with at least one axis between.
        bytes_each: Bytes of intermediate values that a token needs.
    """
    return function(x)


def loop(function: Callable, chunks: list) -> tuple[Any, Any]:
    """Returns the outputs of `function(*chunk)` for all chunks, and the sum of its terms or None.

    `chunks` are tensors (chunks, …). `function` is as in `over_windows`, without masks.
    """
    outputs, terms = output_and_term(ops.map(lambda chunk: function(*chunk), tuple(chunks)))
    return outputs, None if terms is None else ops.sum(terms, axis=0)


def rows_of_batch(tensors: list) -> list:
    """Returns tensors (batch, count, …), or (1, batch · count, …) where chunks of such are faster."""
    return tensors


def can_loop(x: Any) -> bool:
    """Whether a loop or a condition on `x` has no cost of its own."""
    return True


def recompute(function: Callable) -> Callable:
    """Returns `function` with a backward pass that recomputes it and stores only its arguments.

    Its first argument and its first output are floating. Every tensor that needs a gradient is an argument or a
    weight: on TensorFlow others would get none. On JAX it has no forward-mode derivatives.
    """
    return keras.remat(function)


def recompute_cheap(function: Callable) -> Callable:
    """Returns `recompute(function)` where that pays for a function that costs little beside one matrix product."""
    return function


def with_gradients(function: Callable, gradients: Callable, *inputs: Any) -> Any:
    """Computes `function(*inputs)`, which returns an output and a tuple to store, and returns the output.

    `gradients(*inputs, *stored, upstream)` returns the gradient of each input from that of the output. Here the
    backend differentiates `function` itself.
    """
    return function(*inputs)[0]


def with_adjoint(function: Callable[[Any], Any], adjoint: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns the linear `function` with `adjoint` for its gradient, which stores nothing."""
    return function


def after(x: Any) -> contextlib.AbstractContextManager:
    """Returns a context in which every operation of a graph waits for `x`, even one that does not need it."""
    return contextlib.nullcontext()


def without_gradients() -> contextlib.AbstractContextManager:
    """Returns a context in which nothing is stored for a backward pass."""
    return contextlib.nullcontext()


def give_back_after_compilations() -> None:
    """From now on gives the system back the memory that compilations in this process have freed."""


def has_values(x: Any) -> bool:
    """Whether `x` is concrete: not traced, nor a shape alone."""
    return True


def output_and_term(outputs: Any) -> tuple[Any, Any]:
    """Returns the output of a function for `over_windows`, and the term to be summed or None."""
    return (outputs[0], outputs[1]) if isinstance(outputs, tuple | list) else (outputs, None)


def at_least_float32(x: Any) -> Any:
    """Returns `x` in float32, or in float64 if that is its dtype."""
    return x if keras.backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


def attention_logits(query: Any, key: Any, bias: Any, masks: Any, product: Callable = matmul) -> Any:
    """Returns query · keyᵀ / √width + bias + mask: (windows, heads, tokens, tokens)."""
    logits = product(query * ops.shape(query)[-1] ** -0.5, transpose(key)) + bias
    if masks is None:
        return logits
    count, heads, tokens, _ = shape = ops.shape(logits)
    different = ops.shape(masks)[0]
    logits = ops.reshape(logits, (count // different, different, heads, tokens, tokens))
    return ops.reshape(logits + ops.expand_dims(ops.cast(masks, logits.dtype), 1), shape)


def split_qkv(qkv: Any, bias: Any) -> tuple[Any, Any, Any]:
    """Returns query, key and value, each (batch · windows, heads, tokens, width)."""
    batch, count, _, channels = ops.shape(qkv)
    *_, heads, tokens, _ = ops.shape(bias)  # its tokens, for tf2onnx: see `windows.WindowGrid.merge`
    qkv = ops.reshape(qkv, (batch * count, tokens, 3, heads, channels // (3 * heads)))
    qkv = ops.transpose(qkv, (2, 0, 3, 1, 4))
    return qkv[0], qkv[1], qkv[2]


def split_heads(x: Any, heads: int) -> Any:
    """(batch, …, tokens, channels) → (batch · …, heads, tokens, width)."""
    tokens, channels = ops.shape(x)[-2:]
    return ops.transpose(ops.reshape(x, (-1, tokens, heads, channels // heads)), (0, 2, 1, 3))


def join_heads(x: Any, qkv: Any) -> Any:
    """(batch · windows, heads, tokens, width) → (batch, windows, tokens, channels)."""
    batch, count, tokens, channels = ops.shape(qkv)
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, count, tokens, channels // 3))


def transpose(x: Any) -> Any:
    """Swaps the last two axes of (batch, heads, rows, columns)."""
    return ops.transpose(x, (0, 1, 3, 2))

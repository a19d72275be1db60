"""Attention of a few windows: the products of query, key and value, and the softmax between them.

A window of 392 tokens has 392 × 392 attention weights for each head: as many values as the rest of its block. So in
training those of many windows are not kept for the backward pass but computed again there (`attend_in_training`), as
fused attention does on a GPU. The position bias rules out the fused ones: on PyTorch they have no gradient for it.

Source: sections 3.1 and B of arXiv 2205.14135.
"""

import math
from typing import Any

import keras
from keras import ops

from videoswin_keras.nn import pieces, random, windows
from videoswin_keras.nn.gradients import with_gradients
from videoswin_keras.nn.pointwise import widened

KEPT_BYTES = 16 * 2**20  # of a block's attention weights, counted as float32: up to which training keeps them


def attend(qkv: Any, bias: Any, masks: Any, dropout_rate: float = 0.0, seed: Any = None) -> Any:
    """Returns what the tokens of each window attend to.

    Args:
        qkv: (batch, windows, tokens, 3 · channels), floating: query, key and value, each head by head.
        bias: (heads, tokens, tokens), floating: added to the products of query and key.
        masks: (windows or 1, tokens, tokens), or None: added as well.
        dropout_rate: At which attention weights are dropped.
        seed: Of what is dropped; None drops nothing.

    Returns:
        (batch, windows, tokens, channels).
    """
    bias = ops.cast(bias, qkv.dtype)  # which may be another under `torch.amp.autocast`
    query, key, value = _split(qkv, bias)
    if keras.backend.backend() == "torch" and seed is None:  # whose attention is fused; elsewhere this is slower
        bias = ops.expand_dims(bias, 0)
        if masks is not None:
            bias = bias + ops.expand_dims(ops.cast(masks, bias.dtype), 1)
            bias = bias if masks.shape[0] == 1 else ops.tile(bias, (ops.shape(qkv)[0], 1, 1, 1))
        from videoswin_keras.nn import torch_functions

        return _joined(torch_functions.attention(query, key, value, bias), qkv)
    return _joined(_attended(_logits(query, key, bias, masks), value, dropout_rate, seed), qkv)


def attention_weights(qkv: Any, bias: Any, masks: Any) -> Any:
    """Returns the weights by which `attend` takes the mean, at least in float32: (windows, heads, tokens, tokens)."""
    query, key, _ = _split(qkv, bias)
    return _softmax(widened(_logits(query, key, bias, masks)))


def attend_in_training(qkv: Any, bias: Any, seam: windows.Seam | None) -> Any:
    """Attends as `attend` does; the backward pass computes the attention weights again, unless they are few.

    No forward-mode derivatives.
    """
    bias = ops.cast(bias, qkv.dtype)
    batch, count, *_ = ops.shape(qkv)
    each = weights_bytes(bias)
    # PyTorch's fused attention computes in float32 whatever it is given; weights that are kept would be rounded before.
    is_exact = keras.backend.backend() != "torch" or keras.backend.standardize_dtype(qkv.dtype) == "float32"
    if is_exact and windows.is_static(batch, count, each) and batch * count * each <= KEPT_BYTES:
        return _attend_keeping(qkv, bias, seam)
    each = 3 * each  # on the way back: the weights, their gradients and those of the logits

    def outputs(qkv: Any, bias: Any) -> tuple[Any, tuple]:
        bias = ops.stop_gradient(bias)  # PyTorch's fused attention wants it, though nothing is recorded here
        return pieces.over_windows(lambda qkv, masks: attend(qkv, bias, masks), [qkv], seam, each), ()

    def gradients(qkv: Any, bias: Any, upstream: Any) -> tuple[Any, Any]:
        def of_windows(qkv: Any, upstream: Any, masks: Any) -> tuple[Any, Any]:
            query, key, _ = _split(qkv, bias)
            return _gradients(qkv, _softmax(_logits(query, key, bias, masks)), upstream)

        d_qkv, d_bias = pieces.over_windows(of_windows, [qkv, upstream], seam, each, by_mask=False)
        return d_qkv, ops.cast(d_bias, bias.dtype)

    return with_gradients(outputs, gradients, qkv, bias)


def _attend_keeping(qkv: Any, bias: Any, seam: windows.Seam | None) -> Any:
    """Attends as `attend` does; the attention weights are kept for the backward pass."""

    def outputs(qkv: Any, bias: Any) -> tuple[Any, tuple]:
        query, key, value = _split(qkv, bias)
        logits = _logits(query, key, bias, None if seam is None else seam.masks(seam.kinds))
        weights = ops.cast(_softmax(logits), value.dtype)
        return _joined(ops.cast(_product(weights, value), value.dtype), qkv), (weights,)

    def gradients(qkv: Any, bias: Any, weights: Any, upstream: Any) -> tuple[Any, Any]:
        d_qkv, d_bias = _gradients(qkv, weights, upstream)
        return d_qkv, ops.cast(d_bias, bias.dtype)

    return with_gradients(outputs, gradients, qkv, bias)


def attend_to(query: Any, key: Any, value: Any, visible: Any, in_pieces: bool) -> Any:
    """Returns what queries attend to among other tokens.

    Args:
        query: (batch, queries, channels), floating.
        key: (batch, heads, tokens, width), of the same dtype.
        value: The same.
        visible: (batch, tokens), boolean. Keys and values of the others must be finite, and their products with
            queries far below 3e4. Where no token is, what is returned is finite and means nothing.
        in_pieces: Whether to take a few heads at a time: for calls without gradients, where nothing is fused.

    Returns:
        (batch, queries, channels).
    """
    queries, channels = ops.shape(query)[1:]  # before they are split, for tf2onnx: see `windows.Tiling.join`
    query = split_heads(query, ops.shape(key)[1])
    if keras.backend.backend() == "torch":
        from videoswin_keras.nn import torch_functions

        bias = ops.cast(ops.where(ops.expand_dims(ops.expand_dims(visible, 1), 1), 0.0, windows.HIDDEN), query.dtype)
        attended = torch_functions.attention(query, key, value, bias)
    else:
        visible = ops.expand_dims(ops.expand_dims(visible, 1), 3)
        arrays = [query, key, value, ops.broadcast_to(visible, (*ops.shape(key)[:-1], 1))]
        if in_pieces:
            bytes_each = 4 * queries * ops.shape(key)[2]  # attention weights of a head
            attended = pieces.over_windows(lambda *heads: _attended_where(*heads[:-1]), arrays, None, bytes_each)
        else:
            attended = _attended_where(*arrays)
    return ops.reshape(ops.transpose(attended, (0, 2, 1, 3)), (-1, queries, channels))


def _attended_where(query: Any, key: Any, value: Any, visible: Any) -> Any:
    """Attends by explicit products to the tokens that are visible: (batch, heads, tokens, 1)."""
    query = query * ops.shape(query)[-1] ** -0.5
    if not pieces.is_on_cpu(query):
        logits = _product(query, _transposed(key))
        return _attended(ops.where(_transposed(visible), logits, windows.HIDDEN), value)
    # What hides the others is one more channel of the keys: it takes no pass over the logits. As a bias TensorFlow 2.21
    # fuses it in a loop with oneDNN, and returns empty tensors.
    hidden = ops.cast(ops.where(visible, 0.0, windows.HIDDEN), key.dtype)
    query = ops.concatenate([query, ops.ones_like(query[..., :1])], axis=-1)
    return _attended(_product(query, _transposed(ops.concatenate([key, hidden], axis=-1))), value)


def split_heads(x: Any, heads: int) -> Any:
    """(batch, …, tokens, channels) → (batch · …, heads, tokens, width)."""
    tokens, channels = ops.shape(x)[-2:]
    return ops.transpose(ops.reshape(x, (-1, tokens, heads, channels // heads)), (0, 2, 1, 3))


def weights_bytes(bias: Any) -> Any:
    """Returns the bytes of a window's attention weights."""
    return 4 * math.prod(ops.shape(bias))


def _gradients(qkv: Any, weights: Any, upstream: Any) -> tuple[Any, Any]:
    """Returns the gradients of `qkv`, and at least in float32 of the bias."""
    query, key, value = _split(qkv, weights)
    upstream = split_heads(upstream, ops.shape(weights)[1])
    d_value = _product_of_transposed(ops.cast(weights, value.dtype), upstream)
    d_logits = _through_softmax(_product_with_transposed(upstream, value), weights)
    d_bias = _sum_over_windows(d_logits)
    d_logits = ops.cast(d_logits, qkv.dtype)
    scale = ops.shape(query)[-1] ** -0.5
    d_query = ops.cast(_product(d_logits, key * scale), qkv.dtype)
    d_key = _product_of_transposed(d_logits, query * scale)
    d_qkv = ops.stack([ops.transpose(x, (0, 2, 1, 3)) for x in (d_query, d_key, d_value)], axis=2)
    return ops.reshape(d_qkv, ops.shape(qkv)), d_bias


def _attended(logits: Any, value: Any, dropout_rate: float = 0.0, seed: Any = None) -> Any:
    """Attends by explicit products, where nothing is fused."""
    weights, total = _weights(logits)
    attended = _product(random.dropout(ops.cast(weights, value.dtype), dropout_rate, seed), value)
    return ops.cast(attended if total is None else ops.cast(attended, total.dtype) / total, value.dtype)


def _logits(query: Any, key: Any, bias: Any, masks: Any) -> Any:
    """Returns (windows, heads, tokens, tokens)."""
    logits = _product(query * ops.shape(query)[-1] ** -0.5, _transposed(key)) + bias
    if masks is None:
        return logits
    count, heads, tokens, _ = shape = ops.shape(logits)
    kinds = ops.shape(masks)[0]
    logits = ops.reshape(logits, (count // kinds, kinds, heads, tokens, tokens))
    return ops.reshape(logits + ops.expand_dims(ops.cast(masks, logits.dtype), 1), shape)


def _product(one: Any, other: Any) -> Any:
    """Returns one · other; of bfloat16 on JAX on a CPU in float32."""
    if pieces.multiplies_in_float32(one, one.dtype):
        from videoswin_keras.nn import jax_functions

        return jax_functions.wide_product(one, other)
    return _matmul(one, other)


def _product_with_transposed(one: Any, other: Any) -> Any:
    """Returns one · otherᵀ; of bfloat16 on JAX on a CPU in float32."""
    if pieces.multiplies_in_float32(one, one.dtype):
        from videoswin_keras.nn import jax_functions

        return jax_functions.product_with_transposed(one, other)
    return _matmul(one, _transposed(other))


def _product_of_transposed(one: Any, other: Any) -> Any:
    """Returns oneᵀ · other, of the same dtype; on JAX on a CPU the smaller of the two is transposed."""
    if keras.backend.backend() == "jax" and pieces.is_on_cpu(one):
        from videoswin_keras.nn import jax_functions

        return jax_functions.product_of_transposed(one, other)
    return _matmul(_transposed(one), other)


def _matmul(one: Any, other: Any) -> Any:
    """Returns one · other, of the same dtype."""
    if keras.backend.backend() == "torch":
        from videoswin_keras.nn import torch_functions

        return torch_functions.product(one, other)
    return ops.matmul(one, other)


def _weights(logits: Any) -> tuple[Any, Any]:
    """Returns attention weights of the same shape, and what they are to be divided by or None.

    They are at least float32; on PyTorch, whose functions compute in it and round once, of the dtype of `logits`.
    """
    if keras.backend.backend() == "torch":
        return ops.softmax(logits, axis=-1), None
    dtype = keras.backend.standardize_dtype(logits.dtype)
    logits = widened(logits)
    if keras.backend.backend() != "jax" or dtype == "float16":
        return ops.softmax(logits, axis=-1), None
    weights = ops.exp(logits - ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True)))
    # XLA is faster where outputs are divided, not weights; in float16 they would overflow.
    return weights, ops.sum(weights, axis=-1, keepdims=True)


def _softmax(logits: Any) -> Any:
    """Returns attention weights of the same shape, of the dtype that `_weights` returns."""
    weights, total = _weights(logits)
    return weights if total is None else weights / total


def _through_softmax(gradient: Any, weights: Any) -> Any:
    """Returns the gradient of the logits, from that of the softmax and from the softmax itself."""
    if keras.backend.backend() == "torch":
        from videoswin_keras.nn import torch_functions

        return torch_functions.softmax_backward(gradient, weights)
    weights = widened(weights)
    gradient = weights * widened(gradient)
    return gradient - weights * ops.sum(gradient, axis=-1, keepdims=True)


def _sum_over_windows(x: Any) -> Any:
    """Sums over the first axis, at least in float32."""
    if not pieces.is_on_cpu(x):
        return ops.sum(widened(x), axis=0)
    count, *shape = ops.shape(x)  # as a product: XLA's own sum is eighty times slower on a CPU
    flat = ops.reshape(x, (count, math.prod(shape)))
    return widened(ops.reshape(_matmul(ops.ones((1, count), x.dtype), flat), shape))


def _split(qkv: Any, bias: Any) -> tuple[Any, Any, Any]:
    """Returns query, key and value, each (batch · windows, heads, tokens, width)."""
    batch, count, _, channels = ops.shape(qkv)
    *_, heads, tokens, _ = ops.shape(bias)  # its tokens, for tf2onnx: see `windows.Tiling.join`
    qkv = ops.reshape(qkv, (batch * count, tokens, 3, heads, channels // (3 * heads)))
    qkv = ops.transpose(qkv, (2, 0, 3, 1, 4))
    return qkv[0], qkv[1], qkv[2]


def _joined(x: Any, qkv: Any) -> Any:
    """(batch · windows, heads, tokens, width) → (batch, windows, tokens, channels)."""
    batch, count, tokens, channels = ops.shape(qkv)
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, count, tokens, channels // 3))


def _transposed(x: Any) -> Any:
    return ops.transpose(x, (0, 1, 3, 2))

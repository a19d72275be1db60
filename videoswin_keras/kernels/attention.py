"""Attention in chunks, with a backward pass of its own: overrides that every backend shares.

A window of 392 tokens has 392 × 392 attention weights for each head: as many values as the rest of its block. So in
training the weights of many windows are not stored for the backward pass but recomputed there, as fused attention does
on a GPU. The position bias rules out fused attention in training: PyTorch's has no gradient for it.

Source: sections 3.1 and B of arXiv 2205.14135.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from videoswin_keras.kernels import chunks, device, plain
from videoswin_keras.kernels.dispatch import fast
from videoswin_keras.kernels.plain import (
    HIDDEN,
    at_least_float32,
    attention_logits,
    join_heads,
    split_heads,
    split_qkv,
    transpose,
)

STORED_BYTES = 16 * 2**20  # up to which training stores the attention weights of a block, counted as float32
_IS_FUSED = fast.fused_attention is not plain.fused_attention


def window_attention(qkv: Any, bias: Any, masks: Any = None, drop: Callable[[Any], Any] | None = None) -> Any:
    bias = ops.cast(bias, qkv.dtype)  # which may be another under `torch.amp.autocast`
    query, key, value = split_qkv(qkv, bias)
    if not _IS_FUSED or drop is not None:
        return join_heads(_attend(_logits(query, key, bias, masks), value, drop), qkv)
    bias = ops.expand_dims(bias, 0)
    if masks is not None:
        bias = bias + ops.expand_dims(ops.cast(masks, bias.dtype), 1)
        bias = bias if masks.shape[0] == 1 else ops.tile(bias, (ops.shape(qkv)[0], 1, 1, 1))
    return join_heads(fast.fused_attention(query, key, value, bias), qkv)


def window_attention_in_training(qkv: Any, bias: Any, shift_mask: Any = None) -> Any:
    """Recomputes the attention weights in the backward pass, unless they are few. No forward-mode derivatives."""
    bias = ops.cast(bias, qkv.dtype)
    batch, count, *_ = ops.shape(qkv)
    bytes_each = _weights_bytes(bias)
    # PyTorch's fused attention computes in float32 whatever its input; stored weights would be rounded before.
    is_exact = not fast.ROUNDS_SOFTMAX or keras.backend.standardize_dtype(qkv.dtype) == "float32"
    if is_exact and chunks.is_known(batch, count, bytes_each) and batch * count * bytes_each <= STORED_BYTES:
        return _attend_and_store(qkv, bias, shift_mask)
    bytes_each = 3 * bytes_each  # in the backward pass: the weights, their gradients and those of the logits

    def outputs(qkv: Any, bias: Any) -> tuple[Any, tuple]:
        bias = ops.stop_gradient(bias)  # PyTorch's fused attention asks for it, though nothing is recorded here
        attend = lambda qkv, masks: window_attention(qkv, bias, masks)  # noqa: E731
        return chunks.over_windows(attend, [qkv], shift_mask, bytes_each), ()

    def gradients(qkv: Any, bias: Any, upstream: Any) -> tuple[Any, Any]:
        def of_chunk(qkv: Any, upstream: Any, masks: Any) -> tuple[Any, Any]:
            query, key, _ = split_qkv(qkv, bias)
            return _gradients(qkv, _softmax(_logits(query, key, bias, masks)), upstream)

        d_qkv, d_bias = chunks.over_windows(of_chunk, [qkv, upstream], shift_mask, bytes_each, by_mask=False)
        return d_qkv, ops.cast(d_bias, bias.dtype)

    return fast.with_gradients(outputs, gradients, qkv, bias)


def cross_attention(query: Any, key: Any, value: Any, visible: Any, training: bool | None = None) -> Any:
    """Takes a few heads at a time where nothing is fused and no gradient is taken."""
    queries, channels = ops.shape(query)[1:]  # before they are split, for tf2onnx: see `windows.WindowGrid.merge`
    query = split_heads(query, ops.shape(key)[1])
    if _IS_FUSED:
        bias = ops.cast(ops.where(ops.expand_dims(ops.expand_dims(visible, 1), 1), 0.0, HIDDEN), query.dtype)
        attended = fast.fused_attention(query, key, value, bias)
    else:
        visible = ops.expand_dims(ops.expand_dims(visible, 1), 3)
        tensors = [query, key, value, ops.broadcast_to(visible, (*ops.shape(key)[:-1], 1))]
        if training:
            attended = _attend_to_visible(*tensors)
        else:
            bytes_each = 4 * queries * ops.shape(key)[2]  # of the attention weights of a head
            attended = chunks.over_windows(lambda *heads: _attend_to_visible(*heads[:-1]), tensors, None, bytes_each)
    return ops.reshape(ops.transpose(attended, (0, 2, 1, 3)), (-1, queries, channels))


def attention_weights(qkv: Any, bias: Any, masks: Any) -> Any:
    """Returns the weights by which `window_attention` takes the mean: (windows, heads, tokens, tokens), ≥ float32."""
    query, key, _ = split_qkv(qkv, bias)
    return _softmax(at_least_float32(_logits(query, key, bias, masks)))


def window_bytes(bias: Any, channels: int) -> Any:
    """Returns the bytes of intermediate values of a window: from `channels` to query, key, value, attended, output."""
    weights = 0 if _IS_FUSED else _weights_bytes(bias)
    return weights + 4 * 5 * ops.shape(bias)[-1] * channels


def _weights_bytes(bias: Any) -> Any:
    return 4 * math.prod(ops.shape(bias))


def _attend_and_store(qkv: Any, bias: Any, shift_mask: Any) -> Any:
    """Stores the attention weights for the backward pass."""

    def outputs(qkv: Any, bias: Any) -> tuple[Any, tuple]:
        query, key, value = split_qkv(qkv, bias)
        logits = _logits(query, key, bias, None if shift_mask is None else shift_mask.masks())
        weights = ops.cast(_softmax(logits), value.dtype)
        return join_heads(ops.cast(fast.matmul_wide(weights, value), value.dtype), qkv), (weights,)

    def gradients(qkv: Any, bias: Any, weights: Any, upstream: Any) -> tuple[Any, Any]:
        d_qkv, d_bias = _gradients(qkv, weights, upstream)
        return d_qkv, ops.cast(d_bias, bias.dtype)

    return fast.with_gradients(outputs, gradients, qkv, bias)


def _gradients(qkv: Any, weights: Any, upstream: Any) -> tuple[Any, Any]:
    """Returns the gradients of `qkv`, and at least in float32 of the bias."""
    query, key, value = split_qkv(qkv, weights)
    upstream = split_heads(upstream, ops.shape(weights)[1])
    d_value = fast.matmul_tn(ops.cast(weights, value.dtype), upstream)
    d_logits = fast.softmax_gradient(fast.matmul_nt(upstream, value), weights)
    d_bias = _sum_over_windows(d_logits)
    d_logits = ops.cast(d_logits, qkv.dtype)
    scale = ops.shape(query)[-1] ** -0.5
    d_query = ops.cast(fast.matmul_wide(d_logits, key * scale), qkv.dtype)
    d_key = fast.matmul_tn(d_logits, query * scale)
    d_qkv = ops.stack([ops.transpose(x, (0, 2, 1, 3)) for x in (d_query, d_key, d_value)], axis=2)
    return ops.reshape(d_qkv, ops.shape(qkv)), d_bias


def _attend(logits: Any, value: Any, drop: Callable[[Any], Any] | None = None) -> Any:
    weights, total = fast.softmax_parts(logits)
    weights = ops.cast(weights, value.dtype)
    attended = fast.matmul_wide(weights if drop is None else drop(weights), value)
    return ops.cast(attended if total is None else ops.cast(attended, total.dtype) / total, value.dtype)


def _attend_to_visible(query: Any, key: Any, value: Any, visible: Any) -> Any:
    """Attends to the tokens that are visible: (batch, heads, tokens, 1)."""
    query = query * ops.shape(query)[-1] ** -0.5
    if not device.is_on_cpu(query):
        logits = fast.matmul_wide(query, transpose(key))
        return _attend(ops.where(transpose(visible), logits, HIDDEN), value)
    # One more channel of the keys hides the other tokens, which takes no pass over the logits. TensorFlow 2.21 would
    # fuse a bias in a loop with oneDNN, and return empty tensors.
    hidden = ops.cast(ops.where(visible, 0.0, HIDDEN), key.dtype)
    query = ops.concatenate([query, ops.ones_like(query[..., :1])], axis=-1)
    return _attend(fast.matmul_wide(query, transpose(ops.concatenate([key, hidden], axis=-1))), value)


def _logits(query: Any, key: Any, bias: Any, masks: Any) -> Any:
    return attention_logits(query, key, bias, masks, fast.matmul_wide)


def _softmax(logits: Any) -> Any:
    weights, total = fast.softmax_parts(logits)
    return weights if total is None else weights / total


def _sum_over_windows(x: Any) -> Any:
    """Sums over the first axis, at least in float32."""
    if not device.is_on_cpu(x):
        return ops.sum(at_least_float32(x), axis=0)
    count, *shape = ops.shape(x)  # as a product: XLA's own sum is eighty times slower on a CPU
    flat = ops.reshape(x, (count, math.prod(shape)))
    return at_least_float32(ops.reshape(fast.matmul(ops.ones((1, count), x.dtype), flat), shape))

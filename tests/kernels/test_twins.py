"""Every fast version of an operation against its plain definition: values and gradients, each dtype, odd sizes."""

import numpy as np
import pytest
from gradients import compiled, gradients_of
from keras import ops

from videoswin_keras import kernels
from videoswin_keras.kernels import attention, chunks, plain
from videoswin_keras.kernels.dispatch import fast
from videoswin_keras.nn.windows import ShiftMask

# Not float64, which `keras.ops` rounds to float32: those tests are against numpy.
ROUNDING = {"float32": 3e-6, "bfloat16": 2**-6, "float16": 2**-9}
KEPT = np.array([True, False, True])
MASK = ShiftMask(np.array([[0] * 7, [0, 0, 0, 1, 1, 1, 1]], "int32"), np.array([0, 0, 1], "int32"))
QKV, BIAS = (2, 3, 7, 18), (2, 7, 7)  # windows of 7 tokens, two heads of width 3


def masked_mean(x, masks):
    """Treats each window alone: the mean over the tokens that see each other, and a sum over all windows."""
    visible = ops.ones((1, 7, 7), x.dtype) if masks is None else ops.cast(masks == 0, x.dtype)
    return ops.einsum("wij,bwjc->bwic", visible, x) if masks is not None else visible[0] @ x


def over_windows(op, x, with_term):
    def function(x, masks):
        output = ops.tanh(masked_mean(x, masks))
        return (output, ops.sum(output, axis=(0, 1))) if with_term else output

    outputs = op(function, [x], MASK, 4, by_mask=False)
    return ops.concatenate([ops.reshape(part, (-1,)) for part in outputs]) if with_term else outputs


def loop(op, x, y):
    def function(x, y):
        return x * y, ops.sum(x * y, axis=0)

    output, term = op(function, [x, y])
    return ops.concatenate([ops.reshape(output, (-1,)), ops.reshape(term, (-1,))])


def with_gradients(op, x, weight):
    def function(x, weight):
        return ops.matmul(ops.sin(x), weight), (ops.cos(x),)

    def gradients(x, weight, cosine, upstream):
        d_x = ops.matmul(upstream, ops.transpose(weight)) * cosine
        return d_x, ops.matmul(ops.transpose(ops.sin(x)), upstream)

    return op(function, gradients, x, weight)


def softmax_parts(op, logits):
    weights, total = op(logits)
    return weights if total is None else weights / total


def cross_attention(op, query, key, value, training):
    return op(query, key, value, ops.convert_to_tensor(np.arange(9) < [[4], [9]]), training)


def within(op, x):
    with op(x):
        return 2 * x


# Each operation: how it is called, and the shapes of the tensors that it is called with.
CASES = {
    "linear": [
        (lambda op, x, kernel, bias: op(x, kernel, bias), [(2, 3, 5), (5, 7), (7,)]),
        (lambda op, x, kernel: op(x, kernel, None, training=True), [(2, 3, 7), (7, 5)]),
        (lambda op, x, kernel, bias: op(x, kernel, bias, training=True), [(1, 49, 33), (33, 17), (17,)]),
    ],
    "linear_gelu": [(lambda op, x, kernel, bias: op(x, kernel, bias), [(2, 3, 5), (5, 7), (7,)])],
    "gelu": [(lambda op, x: op(x), [(3, 5, 7)]), (lambda op, x: op(x, training=True), [(3, 5, 7)])],
    "layer_normalization": [
        (lambda op, x, scale, shift: op(x, scale, shift, 1e-5), [(2, 3, 5, 7), (7,), (7,)]),
        (lambda op, x, scale, shift: op(x, scale, shift, 1e-5, training=True), [(2, 3, 5, 7), (7,), (7,)]),
    ],
    "window_attention": [
        (lambda op, qkv, bias: op(qkv, bias), [QKV, BIAS]),
        (lambda op, qkv, bias: op(qkv, bias, MASK.masks()), [QKV, BIAS]),
        (lambda op, qkv, bias: op(qkv, bias, MASK.masks()[-1:], lambda weights: weights * 2), [QKV, BIAS]),
    ],
    "window_attention_in_training": [
        (lambda op, qkv, bias: op(qkv, bias), [QKV, BIAS]),
        (lambda op, qkv, bias: op(qkv, bias, MASK), [QKV, BIAS]),
    ],
    "cross_attention": [
        (lambda op, *x: cross_attention(op, *x, training=True), [(2, 5, 6), (2, 2, 9, 3), (2, 2, 9, 3)]),
        (lambda op, *x: cross_attention(op, *x, training=False), [(2, 5, 6), (2, 2, 9, 3), (2, 2, 9, 3)]),
    ],
    "over_windows": [
        (lambda op, x: over_windows(op, x, with_term=False), [(2, 3, 7, 5)]),
        (lambda op, x: over_windows(op, x, with_term=True), [(2, 3, 7, 5)]),
    ],
    "over_tokens": [(lambda op, x: op(ops.tanh, x, 4), [(2, 3, 5, 7)])],
    "add_branch": [
        (lambda op, x: op(x, ops.tanh, ops.convert_to_tensor(KEPT), 0.25, True), [(3, 5)]),
        (lambda op, x: op(x, ops.tanh, ops.convert_to_tensor(KEPT), 0.25, False), [(3, 5)]),
        (lambda op, x: op(x, ops.tanh, ops.convert_to_tensor(KEPT[:1]), 0.25, True), [(1, 5)]),
        (lambda op, x: op(x, ops.tanh, ops.convert_to_tensor(KEPT[1:2]), 0.25, True), [(1, 5)]),
    ],
    "matmul": [(lambda op, one, other: op(one, other), [(2, 3, 5, 7), (2, 3, 7, 4)])],
    "matmul_wide": [(lambda op, one, other: op(one, other), [(2, 3, 5, 7), (2, 3, 7, 4)])],
    "matmul_nt": [(lambda op, one, other: op(one, other), [(2, 3, 5, 7), (2, 3, 4, 7)])],
    "matmul_tn": [
        (lambda op, one, other: op(one, other), [(2, 3, 7, 5), (2, 3, 7, 4)]),
        (lambda op, one, other: op(one, other), [(2, 3, 7, 4), (2, 3, 7, 5)]),
    ],
    "softmax_parts": [(softmax_parts, [(2, 3, 5, 7)])],
    "softmax_gradient": [(lambda op, upstream, x: op(upstream, ops.softmax(x)), [(2, 3, 5, 7), (2, 3, 5, 7)])],
    "fused_attention": [
        (lambda op, *x: op(*x, ops.ones((1, 1, 1, 9), x[0].dtype)), [(2, 2, 5, 3), (2, 2, 9, 3), (2, 2, 9, 3)])
    ],
    "loop": [(loop, [(3, 5, 7), (3, 5, 7)])],
    "rows_of_batch": [(lambda op, x: ops.reshape(op([x])[0], (-1, 5)), [(2, 3, 5)])],
    "recompute": [(lambda op, x, weight: op(lambda x: ops.matmul(ops.sin(x), weight))(x), [(3, 5), (5, 7)])],
    "recompute_cheap": [(lambda op, x: op(ops.tanh)(x), [(3, 5)])],
    "with_gradients": [(with_gradients, [(3, 5), (5, 7)])],
    "with_adjoint": [(lambda op, x: op(lambda x: 2 * x, lambda upstream: 2 * upstream)(x), [(3, 5)])],
    "after": [(within, [(3, 5)])],
}
NOT_NUMBERS = {"can_loop", "give_back_after_compilations", "has_values", "without_gradients"}

FASTEST = {name: getattr(fast, name) for name in vars(plain) if callable(getattr(plain, name))}
FASTEST |= {name: getattr(attention, name) for name in vars(attention) if name in FASTEST}
FASTEST |= {name: getattr(chunks, name) for name in ("over_windows", "over_tokens")}
OVERRIDES = [
    name for name, function in FASTEST.items() if function is not getattr(plain, name) and name not in NOT_NUMBERS
]


def test_every_override_has_a_twin():
    assert OVERRIDES
    assert {*OVERRIDES} <= CASES.keys()


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("name", "case"), [(name, case) for name in OVERRIDES for case in range(len(CASES[name]))])
@pytest.mark.filterwarnings("ignore:Setting the dtype on a NumPy array:DeprecationWarning")  # of TensorFlow's loops
@pytest.mark.usefixtures("emulated")
def test_twins(name, case, dtype, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", {"cpu": 2**7, "gpu": 2**7})
    monkeypatch.setattr(attention, "STORED_BYTES", 0)
    call, shapes = CASES[name][case]
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=shape).astype("float32") for shape in shapes]
    arrays = [ops.convert_to_numpy(ops.cast(ops.cast(array, dtype), "float32")) for array in arrays]

    def computed(op):
        def outputs(*tensors):
            return ops.cast(call(op, *(ops.cast(tensor, dtype) for tensor in tensors)), "float32")

        def loss(*tensors):
            output = outputs(*tensors)
            weights = np.random.default_rng(1).normal(size=output.shape)
            return ops.sum(output * ops.cast(weights, output.dtype))

        value = compiled(outputs)(*map(ops.convert_to_tensor, arrays))
        return [ops.convert_to_numpy(value), *gradients_of(compiled(loss), *arrays)]

    for found, expected in zip(computed(FASTEST[name]), computed(getattr(plain, name)), strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= ROUNDING[dtype] * max(1, np.abs(expected).max())


def test_plain_only_runs_no_override():
    """And the overrides are back after it."""
    x, kernel = ops.ones((2, 3)), ops.ones((3, 4))
    calls = []
    linear = kernels.operation("linear", lambda *arguments, **options: calls.append(1) or plain.linear(*arguments))
    linear(x, kernel)
    with kernels.plain_only():
        linear(x, kernel)
    assert len(calls) == 1
    linear(x, kernel)
    assert len(calls) == 2

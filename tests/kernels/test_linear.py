"""Dense layers with and without GELU against double precision."""

import contextlib
import math

import keras
import numpy as np
import pytest
from gradients import compiled, gradients_of, outputs_and_gradients
from keras import ops

from videoswin_keras import kernels
from videoswin_keras.nn.dense import linear, linear_gelu


def dense(use_bias, dtype="float32", inputs=5, outputs=7):
    keras.utils.set_random_seed(0)
    layer = keras.layers.Dense(outputs, use_bias=use_bias, bias_initializer="normal", dtype=dtype)
    layer.build((None, inputs))
    return layer


def by_hand(layer, x):
    weights = [weight.astype("float64") for weight in layer.get_weights()]
    outputs = x.astype("float64") @ weights[0] + (weights[1] if layer.use_bias else 0)
    return outputs, 0.5 * outputs * (1 + np.vectorize(math.erf)(outputs / 2**0.5))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("records_gradients", [True, False])
@pytest.mark.usefixtures("library")
def test_float32(use_bias, records_gradients):
    layer = dense(use_bias)
    x = 5 * np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    expected, expected_gelu = by_hand(layer, x)
    with recording(records_gradients):
        outputs, activated = linear(layer, ops.convert_to_tensor(x)), linear_gelu(layer, ops.convert_to_tensor(x))
    np.testing.assert_allclose(ops.convert_to_numpy(outputs), expected, atol=3e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(activated), expected_gelu, atol=3e-6)


@pytest.mark.parametrize("records_gradients", [True, False])
def test_low_rank_weights_are_added(records_gradients):
    layer = dense(use_bias=True)
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape, "float32"))
    x = ops.ones((2, 5))
    with recording(records_gradients):
        np.testing.assert_allclose(ops.convert_to_numpy(linear(layer, x)), ops.convert_to_numpy(layer(x)), atol=1e-6)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("widths", [(5, 7), (7, 5)])
@pytest.mark.parametrize("batch", [2, 0])  # none: of samples whose branch is dropped
@pytest.mark.usefixtures("library")
def test_gradients(use_bias, trainable, widths, batch):
    layer = dense(use_bias, inputs=widths[0], outputs=widths[1])
    layer.trainable = trainable
    generator = np.random.default_rng(0)
    x, sought = (generator.normal(size=(batch, 3, width)).astype("float32") for width in widths)
    (found,) = gradients_of(lambda x: ops.sum(ops.convert_to_tensor(sought) * linear(layer, x)), x)
    np.testing.assert_allclose(found, sought @ layer.get_weights()[0].T, atol=2e-6)
    if keras.backend.backend() == "torch":  # elsewhere it is Keras's own layer
        expected = [np.einsum("bti,bto->io", x, sought), sought.sum((0, 1))][: len(layer.weights)]
        for variable, gradient in zip(layer.weights, expected, strict=True):
            if trainable:
                np.testing.assert_allclose(variable.value.grad.numpy(), gradient, atol=2e-6)
            else:
                assert variable.value.grad is None


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("widths", [(5, 7), (7, 5)])
@pytest.mark.usefixtures("library")
def test_gradients_of_weights(use_bias, training, widths):
    generator = np.random.default_rng(0)
    x, sought = (generator.normal(size=(2, 3, width)).astype("float32") for width in widths)
    kernel, bias = (generator.normal(size=shape).astype("float32") for shape in (widths, widths[1:]))

    def total(x, kernel, *bias):
        return ops.sum(ops.convert_to_tensor(sought) * kernels.linear(x, kernel, *bias or [None], training=training))

    found = gradients_of(compiled(total), x, kernel, *[bias] * use_bias)
    expected = sought @ kernel.T, np.einsum("bti,bto->io", x, sought), sought.sum((0, 1))
    for one, other in zip(found, expected[: 2 + use_bias], strict=True):
        np.testing.assert_allclose(one, other, atol=3e-6)


@pytest.mark.parametrize("widths", [(5, 7), (7, 5)])
@pytest.mark.usefixtures("library")
def test_a_gradient_that_is_broadcast(widths):
    """As that of a sum: PyTorch's has no strides."""
    layer = dense(True, inputs=widths[0], outputs=widths[1])
    x = np.random.default_rng(0).normal(size=(2, 3, widths[0])).astype("float32")
    (found,) = gradients_of(lambda x: ops.sum(linear(layer, x)), x)
    np.testing.assert_allclose(found, np.ones((2, 3, widths[1])) @ layer.get_weights()[0].T, atol=2e-6)
    if keras.backend.backend() == "torch":
        expected = np.repeat(x.sum((0, 1))[:, None], widths[1], axis=1)
        np.testing.assert_allclose(layer.kernel.value.grad.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("widths", [(5, 7), (7, 5)])
@pytest.mark.usefixtures("library")
def test_second_derivatives(widths):
    """Of the sum of the squares of a kernel's gradient, by the rows it is a product with."""
    if keras.backend.backend() != "torch":
        return  # Keras's own layer
    import torch

    layer = dense(False, inputs=widths[0], outputs=widths[1])
    generator = np.random.default_rng(0)
    x, sought = (torch.from_numpy(generator.normal(size=(6, width))).float() for width in widths)
    x.requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad((linear(layer, x) * sought).sum(), layer.kernel.value, create_graph=True)
        (found,) = torch.autograd.grad(gradient.square().sum(), x)
    x = x.detach()
    np.testing.assert_allclose(found, 2 * sought @ (x.T @ sought).T, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "outputs", "most"), [((2, 3, 4, 5), 7, 3), ((1, 3, 5, 64), 96, 1), ((2, 7, 7, 96), 64, 1)]
)
@pytest.mark.usefixtures("emulated", "library")
def test_bfloat16(shape, outputs, most, use_bias):
    """Of integers, so that products are exact, and of their gradients only the sums are rounded."""
    layer = dense(use_bias, "mixed_bfloat16", shape[-1], outputs)
    generator = np.random.default_rng(0)
    layer.set_weights([generator.integers(-most, most + 1, weight.shape) for weight in layer.weights])

    class Linear(keras.layers.Layer):
        def __init__(self):
            super().__init__(dtype="mixed_bfloat16")
            self.layer = layer

        def call(self, x):
            return linear(layer, x)

    x = generator.integers(-most, most + 1, shape).astype("float32")
    found, gradients = outputs_and_gradients(keras.Sequential([keras.Input(x.shape[1:]), Linear()]), x)
    expected, _ = by_hand(layer, x)
    np.testing.assert_array_equal(found, expected)
    sums = [np.einsum("btfi,btfo->io", x, 2 * expected), 2 * expected.sum((0, 1, 2))][: len(layer.weights)]
    for found, gradient in zip(gradients.values(), sums, strict=True):
        np.testing.assert_allclose(found, gradient, rtol=2**-7)
    upstream = np.ones((*shape[:-1], outputs))
    (found,) = gradients_of(lambda x: ops.sum(ops.cast(linear(layer, ops.cast(x, "bfloat16")), "float32")), x)
    np.testing.assert_allclose(found, upstream @ layer.get_weights()[0].T)


@pytest.mark.one_backend
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.usefixtures("library")
def test_gelu_of_emulated_half_precision_is_rounded_once(dtype, monkeypatch):
    import torch

    from videoswin_keras.kernels import torch as torch_kernels

    dtype = getattr(torch, dtype)
    monkeypatch.setattr(torch_kernels, "_emulated", lambda: frozenset([dtype]))
    generator = torch.Generator().manual_seed(0)
    x, kernel, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((64, 9), (9, 9), 9))
    before = [operand.clone() for operand in (x, kernel, bias)]
    with torch.no_grad():
        found = torch_kernels.linear_gelu(x, kernel, bias)
    expected = torch.nn.functional.gelu(x.double() @ kernel.double() + bias.double())
    # Half a unit in the last place, and float32's own error where a GELU is nearly nothing.
    unit = torch.finfo(dtype).eps
    assert ((found.double() - expected).abs() <= 0.501 * unit * expected.abs() + 2e-6).all()
    for operand, kept in zip((x, kernel, bias), before, strict=True):
        assert torch.equal(operand, kept)


@pytest.mark.parametrize("rows", [64, 49])
def test_bfloat16_of_what_is_transposed(rows):
    """XLA folds such transposes into a product that then fails when it runs."""
    layer = dense(False, "mixed_bfloat16", 64, 96)
    generator = np.random.default_rng(0)
    kernel, one, other = (generator.integers(-1, 2, shape).astype("float32") for shape in ((64, 96), *2 * [(64, rows)]))
    layer.set_weights([kernel])

    def of_transposed(one, other):
        one, other = (ops.transpose(ops.cast(ops.convert_to_tensor(x), "bfloat16")) for x in (one, other))
        return linear(layer, ops.where(one > 0, one, other))

    found = ops.convert_to_numpy(ops.cast(compiled(of_transposed)(one, other), "float32"))
    np.testing.assert_array_equal(found, np.where(one > 0, one, other).T @ kernel)

    sought = generator.normal(size=(96, rows))

    def transposed_afterwards(x):
        outputs = ops.cast(ops.transpose(linear(layer, ops.cast(x, "bfloat16"))), "float32")
        return ops.sum(ops.softmax(outputs / 8) * ops.convert_to_tensor(sought, "float32"))

    (found,) = gradients_of(compiled(transposed_afterwards), one.T)
    weights = np.exp((one.T @ kernel).T / 8)
    weights /= weights.sum(-1, keepdims=True)
    d_outputs = weights * (sought - (weights * sought).sum(-1, keepdims=True)) / 8
    expected = d_outputs.T @ kernel.T
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


def test_quantized():
    layer = dense(use_bias=True)
    layer.quantize("int8")
    x = ops.ones((2, 5))
    np.testing.assert_allclose(ops.convert_to_numpy(linear(layer, x)), ops.convert_to_numpy(layer(x)), atol=1e-6)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("instructions", "capabilities", "expected"),
    [
        ("AVX512", {"cpu_name": "AMD EPYC"}, True),
        ("AVX512", {"cpu_name": "Intel Xeon"}, False),
        ("AVX512", {}, True),
        ("AVX512", None, True),
        ("AVX2", {"cpu_name": "AMD EPYC"}, False),
        ("AVX2", None, False),
    ],
)
def test_which_processor(instructions, capabilities, expected, monkeypatch):
    """Of a PyTorch with MKL and oneDNN; older ones cannot tell whose it is."""
    import torch

    from videoswin_keras.kernels import torch as torch_kernels

    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert torch_kernels._has_fast_onednn.__wrapped__() is expected


@pytest.mark.one_backend
def test_compiled_as_one_graph():
    import torch

    x, kernel, bias = torch.ones(2, 5), torch.ones(5, 7), torch.ones(7)
    graph = torch.compile(kernels.linear, backend="eager", fullgraph=True)
    np.testing.assert_array_equal(graph(x, kernel, bias), np.full((2, 7), 6.0))


@pytest.fixture(params=["oneDNN", "MKL"] if keras.backend.backend() == "torch" else [None])
def library(request, monkeypatch):
    """On PyTorch, which of its libraries multiplies; not what it may use of the processor."""
    if keras.backend.backend() == "torch":
        from videoswin_keras.kernels import torch as torch_kernels

        monkeypatch.setattr(torch_kernels, "_has_fast_onednn", lambda: request.param == "oneDNN")


def recording(on):
    """Makes PyTorch record gradients, or not."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.set_grad_enabled(on)

"""PyTorch's overrides: its fused functions, and gradients that store no more than they need.

`torch.amp.autocast` reaches only functions that are PyTorch's own. So products here take the dtype that it asks for,
and operations with gradients of their own compute without it, in both directions, in the dtypes they were given.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim.adam import adam

from videoswin_keras.kernels import device, plain

# PyTorch's fused functions keep most of their intermediate values in the cache, however large the chunk.
CHUNK_BYTES = {"cpu": 64 * 2**20, "gpu": 256 * 2**20}
LOOPS_IN_PYTHON = True
ROUNDS_SOFTMAX = True


def linear(
    x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None = None, training: bool | None = None
) -> torch.Tensor:
    x, kernel, bias = autocast(x, kernel, bias)
    with without_autocast(x):
        if takes_wide_linear(x):
            return WideLinear.apply(x, kernel, bias) if torch.is_grad_enabled() else wide_linear(x, kernel.t(), bias)
        return torch.nn.functional.linear(x, kernel.t(), bias)


def linear_gelu(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if torch.is_grad_enabled() or is_traced():  # in-place operations would break a recorded or traced program
        return torch.nn.functional.gelu(linear(x, kernel, bias))
    x, kernel, bias = autocast(x, kernel, bias)
    with without_autocast(x):
        if takes_wide_linear(x):
            return wide_linear(x, kernel.t(), bias, "gelu")
        return torch.ops.aten.gelu_(linear(x, kernel, bias))


def gelu(x: torch.Tensor, training: bool | None = None) -> torch.Tensor:
    return torch.nn.functional.gelu(x)


def matmul(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    if is_emulated(one):
        return (one.float() @ other.float()).to(one.dtype)
    return one @ other


def matmul_wide(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return matmul(one, other)


def matmul_nt(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return matmul(one, other.transpose(-1, -2))


def matmul_tn(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return matmul(one.transpose(-1, -2), other)


def softmax_parts(logits: torch.Tensor) -> tuple[torch.Tensor, None]:
    return torch.nn.functional.softmax(logits, dim=-1), None


def softmax_gradient(upstream: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """One pass in place of four."""
    return torch._softmax_backward_data(upstream, weights, -1, weights.dtype)


def fused_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`bias` broadcasts and gets no gradient: PyTorch's fused functions have none for it."""
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def add_branch(x: torch.Tensor, branch: Callable, is_kept: torch.Tensor, rate: float, is_skippable: bool) -> Any:
    """Computes the branch only for the samples that are kept."""
    if not is_skippable or not device.is_on_cpu(x) or is_traced():
        return plain.add_branch(x, branch, is_kept, rate, is_skippable)
    scale = 1 / (1 - rate)
    some = is_kept.nonzero().flatten()
    if len(some) == len(x):
        return x.add(branch(x), alpha=scale)
    return x.index_add(0, some, branch(x.index_select(0, some)).to(x.dtype), alpha=scale)


def with_gradients(function: Callable, gradients: Callable, *inputs: torch.Tensor) -> torch.Tensor:
    """Keras's custom gradients would hold the inputs for too long."""
    return WithGradients.apply(function, gradients, *inputs)


def with_adjoint(function: Callable, adjoint: Callable) -> Callable:
    return lambda x: LinearMap.apply(x, function, adjoint)


def without_gradients() -> contextlib.AbstractContextManager:
    return torch.no_grad()


def has_values(x: Any) -> bool:
    return not is_traced() and not getattr(x, "is_meta", False)


def gradient(function: Callable, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        return torch.autograd.grad(function(x), x)[0]


class LinearMap(torch.autograd.Function):
    """See `plain.with_adjoint`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, function: Callable, adjoint: Callable) -> torch.Tensor:
        ctx.adjoint = adjoint
        with without_autocast(x):
            return function(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        with without_autocast(gradient):
            return ctx.adjoint(gradient), None, None


class WithGradients(torch.autograd.Function):
    """See `plain.with_gradients`. The functions must hold no large tensors: they live until the backward pass ends."""

    @staticmethod
    def forward(ctx: Any, function: Callable, gradients: Callable, *inputs: torch.Tensor) -> torch.Tensor:
        with without_autocast(inputs[0]):
            output, kept = function(*inputs)
        ctx.function, ctx.gradients, ctx.count = function, gradients, len(inputs)
        ctx.save_for_backward(*inputs, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple:
        saved = ctx.saved_tensors  # once: a checkpoint computes them when they are asked for
        inputs, kept = saved[: ctx.count], saved[ctx.count :]
        with without_autocast(upstream):
            if kept and torch.is_grad_enabled():  # for second derivatives, which go through it
                _, kept = ctx.function(*inputs)
            return None, None, *ctx.gradients(*inputs, *kept, upstream)


class WideLinear(torch.autograd.Function):
    """x · kernel + bias in float32: x (…, inputs), kernel (inputs, outputs), bias (outputs,) or None, of one dtype."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, kernel)
        return wide_linear(x, kernel.t(), bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        x, kernel = ctx.saved_tensors
        needs_x, needs_kernel, needs_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (
            linear(gradient, kernel.t(), None) if needs_x else None,
            _kernel_gradient(x.reshape(-1, x.shape[-1]), rows) if needs_kernel else None,
            rows.sum(0) if needs_bias else None,
        )


def _kernel_gradient(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Returns oneᵀ · other, matrices (rows, …)."""
    # oneDNN takes no empty matrices and has no second derivatives.
    if not _is_onednn_faster() or not len(one) or torch.is_grad_enabled():
        return matmul(one.t(), other)
    if one.shape[1] <= other.shape[1]:  # oneDNN is faster with the smaller first
        return wide_linear(one.t(), other.t(), None)
    return wide_linear(other.t(), one.t(), None).t()


def wide_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, then: str = "none") -> torch.Tensor:
    """Returns then(x · weightᵀ + bias), `then` being "none" or "gelu": in float32, rounded once. It has no gradient."""
    wide = [None if operand is None else operand.float() for operand in (x, weight, bias)]
    if _is_onednn_faster():
        return torch.ops.mkldnn._linear_pointwise(*wide, then, [], "none").to(x.dtype)
    y = torch.nn.functional.linear(*wide)
    return (torch.ops.aten.gelu_(y) if then == "gelu" else y).to(x.dtype)


def can_fuse_adam(variables: list, amsgrad: bool) -> bool:
    return True


def add_in_place(x: torch.Tensor, value: torch.Tensor) -> None:
    """Keras's own accumulation of gradients copies."""
    x.add_(value)


@torch.no_grad()
def fused_adam(
    weights: list[torch.Tensor],
    gradients: list[torch.Tensor],
    momentums: list[torch.Tensor],
    velocities: list[torch.Tensor],
    rate: torch.Tensor,
    betas: tuple[float, float],
    epsilon: float,
    greatest: list[torch.Tensor],
    decays: list,
) -> None:
    """Takes a step of Adam in place, in one pass; `rate` holds the bias corrections, `greatest` is AMSGrad's or empty.

    Keras has decayed the weights before, so `decays` is not used.

    Keras adds epsilon before the bias correction, PyTorch after it. At a step so late that PyTorch corrects nothing,
    both are the same, and no number has to come from a GPU. (In float32 that step plus one is the same step.)
    """
    dense = [weight.contiguous() for weight in weights]  # the kernel goes over memory, whatever the strides
    adam(
        dense,
        [gradient.to(weight.dtype).contiguous() for gradient, weight in zip(gradients, weights, strict=True)],
        momentums,
        velocities,
        greatest,
        [torch.full((), 1e9, dtype=torch.float32, device=weights[0].device)] * len(weights),
        fused=True,
        amsgrad=bool(greatest),
        beta1=betas[0],
        beta2=betas[1],
        lr=rate,
        weight_decay=0.0,
        eps=epsilon,
        maximize=False,
    )
    for weight, changed in zip(weights, dense, strict=True):
        if changed is not weight:
            weight.copy_(changed)


def autocast(*tensors: torch.Tensor | None) -> tuple[Any, ...]:
    """Returns tensors in the dtype that `torch.amp.autocast` asks for where they are, or as they are."""
    kind = next(tensor.device.type for tensor in tensors if tensor is not None)
    if not _is_autocast(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(None if tensor is None else tensor.to(dtype) for tensor in tensors)


def without_autocast(x: torch.Tensor) -> contextlib.AbstractContextManager:
    """Returns a context in which operations on the device of `x` keep their dtypes."""
    kind = x.device.type
    return torch.amp.autocast(kind, enabled=False) if _is_autocast(kind) else contextlib.nullcontext()


def _is_autocast(kind: str) -> bool:
    return kind != "meta" and torch.is_autocast_enabled(kind)  # which fails for "meta", where Keras finds out shapes


def takes_wide_linear(x: torch.Tensor) -> bool:
    """Whether `x` is multiplied by `wide_linear`: on a CPU, not while a program is traced."""
    if x.device.type != "cpu" or is_traced():  # first: the rest cannot be traced
        return False
    return is_emulated(x) or (x.dtype == torch.float32 and _is_onednn_faster())


def is_traced() -> bool:
    """Whether a program is traced, compiled or exported."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_emulated(x: torch.Tensor) -> bool:
    """Whether the processor has no products of this half precision: PyTorch's own then take many times longer."""
    is_half = x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16)
    return is_half and not is_traced() and x.dtype in _emulated()


@functools.cache
def _emulated() -> frozenset[torch.dtype]:
    if not _has_onednn():
        return frozenset()
    native = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    return frozenset(dtype for dtype, is_native in native.items() if not is_native)


def _is_onednn_faster() -> bool:
    return torch.backends.mkldnn.enabled and _has_fast_onednn()


@functools.cache
def _has_fast_onednn() -> bool:
    """Whether oneDNN is taken to multiply float32 matrices faster: with AVX-512, but not where MKL runs on Intel's.

    MKL makes no use of AVX-512 on a processor by AMD. On the one AMD with AVX2 alone that was measured, oneDNN was slow
    with Keras's layout of kernels and in its GELU; on the one Xeon, MKL was faster.
    """
    return _has_onednn() and torch.backends.cpu.get_cpu_capability() == "AVX512" and not _runs_mkl_on_intel()


def _runs_mkl_on_intel() -> bool:
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.6 has none
    return torch.backends.mkl.is_available() and str(capabilities.get("cpu_name")).startswith("Intel")


@functools.cache
def _has_onednn() -> bool:
    """Whether this build can call oneDNN's product of float32 matrices, as `torch.compile` does."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

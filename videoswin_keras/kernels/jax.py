"""JAX's overrides: XLA is told how, so that it neither stores nor fills memory without need."""

import contextlib
import ctypes
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras

from videoswin_keras.kernels import device, plain
from videoswin_keras.kernels.plain import at_least_float32, output_and_term

LONG_COMPILATION = 1.0  # seconds


def linear(x: Any, kernel: Any, bias: Any = None, training: bool | None = None) -> Any:
    """Has no forward-mode derivatives on a CPU in bfloat16 or in training."""
    if _multiplies_in_float32(x):
        return _wide_linear(x, kernel, bias)
    product = _product if training and device.is_on_cpu(x) else jnp.matmul
    x = product(jnp.asarray(x), jnp.asarray(kernel))
    return x if bias is None else x + bias


def layer_normalization(x: Any, scale: Any, shift: Any, epsilon: float, training: bool | None = None) -> Any:
    """Has no forward-mode derivatives on a CPU in training."""
    if not training or not device.is_on_cpu(x):
        return plain.layer_normalization(x, scale, shift, epsilon)
    return _layer_normalization(x, jnp.asarray(scale), jnp.asarray(shift), epsilon)


def matmul_wide(one: jax.Array, other: jax.Array) -> jax.Array:
    return _wide_product(one, other) if _multiplies_in_float32(one) else jnp.matmul(one, other)


def matmul_nt(one: jax.Array, other: jax.Array) -> jax.Array:
    if not _multiplies_in_float32(one):
        return plain.matmul_nt(one, other)
    one, other = jax.lax.optimization_barrier((one, other))
    return _wide_product(one, _transposed(other))


def matmul_tn(one: jax.Array, other: jax.Array) -> jax.Array:
    """On a CPU the smaller of the two is transposed."""
    return _product_of_transposed(one, other) if device.is_on_cpu(one) else plain.matmul_tn(one, other)


def softmax_parts(logits: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """XLA is faster where outputs are divided, not weights; in float16 such outputs would overflow."""
    wide = at_least_float32(logits)
    if logits.dtype == jnp.float16:
        return keras.ops.softmax(wide, axis=-1), None
    weights = jnp.exp(wide - jax.lax.stop_gradient(jnp.max(wide, axis=-1, keepdims=True)))
    return weights, jnp.sum(weights, axis=-1, keepdims=True)


def add_branch(x: jax.Array, branch: Callable, is_kept: jax.Array, rate: float, is_skippable: bool) -> jax.Array:
    """Does not compute a branch that is dropped, for a batch of one on a CPU."""
    if not is_skippable or x.shape[0] != 1 or not device.is_on_cpu(x) or not can_loop(x):
        return plain.add_branch(x, branch, is_kept, rate, is_skippable)
    return jax.lax.cond(is_kept[0], lambda: plain.add_branch(x, branch, is_kept, rate, False), lambda: x)


def loop(function: Callable, chunks: list) -> tuple[Any, Any]:
    """Writes outputs over the first chunks: `lax.map` fills memory with zeros before anything else is computed."""
    first, *others = chunks
    shape, term_shape = output_and_term(jax.eval_shape(function, *(x[0] for x in chunks)))
    is_in_place = shape.shape == first.shape[1:]
    outputs = first if is_in_place else first[..., : shape.shape[-1]]
    total = None
    if term_shape is not None:
        total = jnp.zeros(term_shape.shape, term_shape.dtype) + (0 * first[(0,) * first.ndim]).astype(term_shape.dtype)

    def body(index: Any, carried: tuple) -> tuple:
        outputs, total = carried
        chunk = (outputs if is_in_place else first)[index]
        output, term = output_and_term(function(chunk, *(x[index] for x in others)))
        return outputs.at[index].set(output.astype(outputs.dtype)), None if total is None else total + term

    return jax.lax.fori_loop(0, len(first), body, (outputs, total))


def rows_of_batch(tensors: list) -> list:
    """On a CPU chunks of one clip after the other are faster.

    Not on several devices, where a batch that is spread over them would be gathered. Not outside `jit`, where it would
    be a copy.
    """
    first = tensors[0]
    batch, count = first.shape[:2]
    is_known = isinstance(batch, int) and isinstance(count, int)
    if not is_known or not can_loop(first) or not device.is_on_cpu(first) or not device.is_one():
        return tensors
    return [x.reshape(1, batch * count, *x.shape[2:]) for x in tensors]


def can_loop(x: Any) -> bool:
    """Outside `jit` every call would compile a loop or a condition anew."""
    return not has_values(x)


def recompute(function: Callable) -> Callable:
    """`jax.checkpoint` saves no memory on a CPU: XLA drops its barriers, and recomputes long before the gradient is
    there. Here the recomputation depends on the gradient.
    """

    def call(*arguments: Any) -> Any:
        # The tracers that it captures, weights or seeds, become arguments. `jax.closure_convert` would store them.
        jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        structure = jax.tree.structure(shapes)
        is_traced = [isinstance(x, jax.core.Tracer) for x in jaxpr.consts]
        captured = [x for x, is_one in zip(jaxpr.consts, is_traced, strict=True) if is_one]

        def pure(captured: list, *arguments: Any) -> Any:
            those = iter(captured)
            consts = [next(those) if is_one else x for x, is_one in zip(jaxpr.consts, is_traced, strict=True)]
            return jax.tree.unflatten(structure, jax.core.eval_jaxpr(jaxpr.jaxpr, consts, *jax.tree.leaves(arguments)))

        def gradients(captured: list, first: Any, *others_and_upstream: Any) -> tuple:
            *others, upstream = others_and_upstream
            first = wait(first, jax.tree.leaves(upstream)[0])
            return jax.vjp(pure, captured, first, *others)[1](upstream)

        return _with_gradients(lambda *inputs: (pure(*inputs), ()), gradients, captured, *arguments)

    return call


def recompute_cheap(function: Callable) -> Callable:
    """XLA stores several tensors of a normalisation or an activation."""
    return recompute(function)


def with_gradients(function: Callable, gradients: Callable, *inputs: Any) -> Any:
    def waiting(first: Any, *others: Any) -> tuple:
        return gradients(wait(first, others[-1]), *others)

    return _with_gradients(function, waiting, *inputs)


def with_adjoint(function: Callable, adjoint: Callable) -> Callable:
    return keras.ops.custom_gradient(lambda x: (function(x), adjoint))


def wait(x: Any, other: Any) -> Any:
    """Returns `x` in a way that XLA cannot compute before `other`; not a number if `other` is none."""
    return x + (0 * jnp.sum(other.reshape(-1)[:1])).astype(x.dtype)


def has_values(x: Any) -> bool:
    """Also of a tracer that is for a gradient alone."""
    return not isinstance(x, jax.core.Tracer) or x.to_concrete_value() is not None


def gradient(function: Callable, x: jax.Array) -> jax.Array:
    return jax.grad(function)(x)


def give_back_after_compilations() -> None:
    """Those that take long: after the training step of Tiny it gives back 400 MB."""
    jax.monitoring.register_event_duration_secs_listener(_give_back)


def _give_back(event: str, seconds: float, **_: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration" and seconds > LONG_COMPILATION:
        _trim()


def _trim() -> None:
    with contextlib.suppress(AttributeError, TypeError):  # not glibc, or Windows
        ctypes.CDLL(None).malloc_trim(0)


def _multiplies_in_float32(x: Any) -> bool:
    """Whether products of bfloat16 are faster with a float32 result: on a CPU, of matrices that are not transposed."""
    return keras.backend.standardize_dtype(x.dtype) == "bfloat16" and device.is_on_cpu(x)


def _with_gradients(function: Callable, gradients: Callable, *inputs: Any) -> Any:
    def forward(*inputs: Any) -> tuple:
        output, stored = function(*inputs)
        return output, (*inputs, *stored)

    run = jax.custom_vjp(lambda *inputs: function(*inputs)[0])
    run.defvjp(forward, lambda stored, upstream: gradients(*stored, upstream))
    return run(*inputs)


@jax.custom_vjp
def _wide_linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    # Behind a barrier: XLA would fold a transpose into a product that its library then cannot run, and fail.
    wide = _wide_product(jax.lax.optimization_barrier(x), kernel)
    return (wide if bias is None else wide + bias).astype(x.dtype)


def _wide_linear_gradients(operands: tuple, upstream: jax.Array) -> tuple:
    x, kernel, bias = operands
    upstream = jax.lax.optimization_barrier(upstream)
    inputs, rows = (matrix.reshape(-1, matrix.shape[-1]) for matrix in (x, upstream))
    return (
        _wide_product(upstream, _transposed(kernel)).astype(x.dtype),
        _product_of_transposed(inputs, rows).astype(kernel.dtype),
        None if bias is None else rows.sum(0),
    )


_wide_linear.defvjp(lambda *operands: (_wide_linear(*operands), operands), _wide_linear_gradients)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.matmul(x, kernel)


def _product_gradients(operands: tuple, upstream: jax.Array) -> tuple:
    """XLA copies the first factor of a kernel's gradient, transposed. Here it is the smaller, not always the second."""
    x, kernel = operands
    inputs, rows = (matrix.reshape(-1, matrix.shape[-1]) for matrix in (x, upstream))
    d_kernel = inputs.T @ rows if inputs.shape[-1] <= rows.shape[-1] else (rows.T @ inputs).T
    return upstream @ kernel.T, d_kernel


_product.defvjp(lambda x, kernel: (jnp.matmul(x, kernel), (x, kernel)), _product_gradients)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_normalization(x: jax.Array, scale: jax.Array, shift: jax.Array, epsilon: float) -> jax.Array:
    return plain.layer_normalization(x, scale, shift, epsilon)


def _layer_normalization_gradients(epsilon: float, stored: tuple, upstream: jax.Array) -> tuple:
    """Sums are products with ones: XLA's own sums, with their terms, would take a CPU four times longer."""
    x, scale = stored
    channels = x.shape[-1]
    rows, upstream = (at_least_float32(matrix.reshape(-1, channels)) for matrix in (x, upstream))
    mean = jnp.full((channels, 1), 1 / channels, rows.dtype)
    scaled_mean = mean * scale[:, None]
    centred = rows - rows @ mean
    inverse = jax.lax.rsqrt(jnp.square(centred) @ mean + epsilon)
    normal = centred * inverse
    d_scale = upstream * normal
    d_x = inverse * (upstream * scale - upstream @ scaled_mean - normal * (d_scale @ scaled_mean))
    total = jnp.ones(rows.shape[0], rows.dtype)
    return (
        d_x.reshape(x.shape).astype(x.dtype),
        (total @ d_scale).astype(scale.dtype),
        (total @ upstream).astype(scale.dtype),
    )


_layer_normalization.defvjp(
    lambda x, scale, shift, epsilon: (_layer_normalization(x, scale, shift, epsilon), (x, scale)),
    _layer_normalization_gradients,
)


def _wide_product(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns one · other at least in float32: of bfloat16, with neither transposed, in half the time on a CPU."""
    return jnp.matmul(one, other, preferred_element_type=jnp.promote_types(one.dtype, jnp.float32))


def _product_of_transposed(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns oneᵀ · other, of the same dtype; the smaller of the two is transposed."""
    one, other = jax.lax.optimization_barrier((one, other))
    if one.shape[-1] <= other.shape[-1]:
        return _wide_product(_transposed(one), other).astype(one.dtype)
    return _transposed(_wide_product(_transposed(other), one).astype(one.dtype))


def _transposed(x: jax.Array) -> jax.Array:
    """Returns the transposes of matrices: written so that XLA makes them before it multiplies."""
    *batch, rows, columns = x.shape
    return x.reshape(1, -1, rows, columns).transpose(1, 3, 0, 2).reshape(*batch, columns, rows)

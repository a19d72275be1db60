"""What JAX is told in its own words, so that XLA neither keeps nor fills memory without need."""

import contextlib
import ctypes
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras

from videoswin_keras.nn.pointwise import widened

LONG = 1.0  # seconds


def give_back(event: str, seconds: float, **_: Any) -> None:
    """Gives the system back what a long compilation, anybody's, has freed: of a step of Tiny 400 MB."""
    if event == "/jax/core/compile/backend_compile_duration" and seconds > LONG:
        trim()


def trim() -> None:
    with contextlib.suppress(AttributeError, TypeError):  # not glibc, or Windows
        ctypes.CDLL(None).malloc_trim(0)


jax.monitoring.register_event_duration_secs_listener(give_back)


def has_values(x: Any) -> bool:
    """Whether the values of `x` are there already: it is not traced, or for a gradient alone."""
    return not isinstance(x, jax.core.Tracer) or x.to_concrete_value() is not None


def remat(function: Callable, after: Callable[[Any, Any], Any]) -> Callable:
    """Returns `function`, of which only the arguments are kept; `after(x, gradient)` makes x wait for the gradient."""

    def call(*arguments: Any) -> Any:
        # What it captures of a trace, weights or seeds, becomes arguments. `jax.closure_convert` would keep them.
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
            first = after(first, jax.tree.leaves(upstream)[0])
            return jax.vjp(pure, captured, first, *others)[1](upstream)

        return with_gradients(lambda *inputs: (pure(*inputs), ()), gradients, captured, *arguments)

    return call


def with_gradients(function: Callable, gradients: Callable, *inputs: Any) -> Any:
    """As in `gradients.py`."""

    def forward(*inputs: Any) -> tuple:
        output, kept = function(*inputs)
        return output, (*inputs, *kept)

    run = jax.custom_vjp(lambda *inputs: function(*inputs)[0])
    run.defvjp(forward, lambda kept, upstream: gradients(*kept, upstream))
    return run(*inputs)


def gradient(function: Callable, x: jax.Array) -> jax.Array:
    """As in `gradients.py`."""
    return jax.grad(function)(x)


@jax.custom_vjp
def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Returns x · kernel + bias: x (…, inputs), kernel (inputs, outputs), bias (outputs,) or None, of one dtype."""
    # Behind a barrier: XLA would fold a transpose into a product that its library then cannot run, and fail.
    wide = wide_product(jax.lax.optimization_barrier(x), kernel)
    return (wide if bias is None else wide + bias).astype(x.dtype)


def _linear_gradients(operands: tuple, upstream: jax.Array) -> tuple:
    x, kernel, bias = operands
    upstream = jax.lax.optimization_barrier(upstream)
    inputs, rows = (matrix.reshape(-1, matrix.shape[-1]) for matrix in (x, upstream))
    return (
        wide_product(upstream, transposed(kernel)).astype(x.dtype),
        product_of_transposed(inputs, rows).astype(kernel.dtype),
        None if bias is None else rows.sum(0),
    )


linear.defvjp(lambda *operands: (linear(*operands), operands), _linear_gradients)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns x · kernel: x (…, inputs), kernel (inputs, outputs), of one dtype."""
    return jnp.matmul(x, kernel)


def _product_gradients(operands: tuple, upstream: jax.Array) -> tuple:
    """XLA copies the first factor of a kernel's gradient, transposed. Here it is the smaller, not always the second."""
    x, kernel = operands
    inputs, rows = (matrix.reshape(-1, matrix.shape[-1]) for matrix in (x, upstream))
    d_kernel = inputs.T @ rows if inputs.shape[-1] <= rows.shape[-1] else (rows.T @ inputs).T
    return upstream @ kernel.T, d_kernel


product.defvjp(lambda x, kernel: (jnp.matmul(x, kernel), (x, kernel)), _product_gradients)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_normalization(x: jax.Array, scale: jax.Array, shift: jax.Array, epsilon: float) -> jax.Array:
    """Returns `x` (…, channels) normalised over its channels: `scale` and `shift` are (channels,)."""
    return keras.ops.layer_normalization(x, scale, shift, axis=-1, epsilon=epsilon)


def _layer_normalization_gradients(epsilon: float, kept: tuple, upstream: jax.Array) -> tuple:
    """Sums are products with ones: XLA's own would take a CPU four times longer with what they are sums of."""
    x, scale = kept
    channels = x.shape[-1]
    rows, upstream = (widened(matrix.reshape(-1, channels)) for matrix in (x, upstream))
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


layer_normalization.defvjp(
    lambda x, scale, shift, epsilon: (layer_normalization(x, scale, shift, epsilon), (x, scale)),
    _layer_normalization_gradients,
)


def wide_product(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns one · other at least in float32: of bfloat16, with neither transposed, in half the time on a CPU."""
    return jnp.matmul(one, other, preferred_element_type=jnp.promote_types(one.dtype, jnp.float32))


def product_with_transposed(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns one · otherᵀ of bfloat16 in float32."""
    one, other = jax.lax.optimization_barrier((one, other))
    return wide_product(one, transposed(other))


def product_of_transposed(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns oneᵀ · other, of the same dtype; the smaller of the two is transposed."""
    one, other = jax.lax.optimization_barrier((one, other))
    if one.shape[-1] <= other.shape[-1]:
        return wide_product(transposed(one), other).astype(one.dtype)
    return transposed(wide_product(transposed(other), one).astype(one.dtype))


def transposed(x: jax.Array) -> jax.Array:
    """Returns the transposes of matrices: written so that XLA makes them before it multiplies."""
    *batch, rows, columns = x.shape
    return x.reshape(1, -1, rows, columns).transpose(1, 3, 0, 2).reshape(*batch, columns, rows)


def loop(function: Callable, pieces: list) -> tuple[Any, Any]:
    """Returns the outputs of `function(*piece)` for each piece, and the sum of its second outputs or None.

    `pieces` are arrays (pieces, …). Outputs have the shape of the first, or fewer channels. They are written over it:
    `lax.map` fills memory with zeros for them, which XLA does before anything else is computed.
    """
    first, *others = pieces
    shape, term_shape = jax.eval_shape(function, *(x[0] for x in pieces))
    is_in_place = shape.shape == first.shape[1:]
    outputs = first if is_in_place else first[..., : shape.shape[-1]]
    total = None
    if term_shape is not None:
        total = jnp.zeros(term_shape.shape, term_shape.dtype) + (0 * first[(0,) * first.ndim]).astype(term_shape.dtype)

    def body(index: Any, carried: tuple) -> tuple:
        outputs, total = carried
        piece = (outputs if is_in_place else first)[index]
        output, term = function(piece, *(x[index] for x in others))
        return outputs.at[index].set(output.astype(outputs.dtype)), None if total is None else total + term

    return jax.lax.fori_loop(0, len(first), body, (outputs, total))

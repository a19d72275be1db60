"""What JAX is told in its own words, so that XLA neither keeps nor fills memory without need."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras


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


@jax.custom_vjp
def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Returns x · kernel + bias: x (…, inputs), kernel (inputs, outputs), bias (outputs,) or None, of one dtype."""
    # Behind a barrier: XLA would fold a transpose into a product that its library then cannot run, and fail.
    wide = wide_product(jax.lax.optimization_barrier(x), kernel)
    return (wide if bias is None else wide + bias).astype(x.dtype)


def _linear_gradients(operands: tuple, upstream: jax.Array) -> tuple:
    x, kernel, bias = operands
    upstream = jax.lax.optimization_barrier(upstream)
    rows, inputs = (matrix.reshape(-1, matrix.shape[-1]) for matrix in (upstream, x))
    if inputs.shape[1] <= rows.shape[1]:
        d_kernel = wide_product(turned(inputs), rows).astype(kernel.dtype)
    else:  # the smaller of the two is turned, and the product back
        d_kernel = turned(wide_product(turned(rows), inputs).astype(kernel.dtype))
    return (
        wide_product(upstream, turned(kernel)).astype(x.dtype),
        d_kernel,
        None if bias is None else rows.sum(0),
    )


linear.defvjp(lambda *operands: (linear(*operands), operands), _linear_gradients)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_normalization(x: jax.Array, scale: jax.Array, shift: jax.Array, epsilon: float) -> jax.Array:
    """Returns `x` (…, channels) normalised over its channels; of one dtype with `scale` and `shift` (channels,)."""
    return keras.ops.layer_normalization(x, scale, shift, axis=-1, epsilon=epsilon)


def _layer_normalization_gradients(epsilon: float, kept: tuple, upstream: jax.Array) -> tuple:
    """With sums as products, which XLA does not fuse with what is summed: on a CPU that takes four times longer."""
    x, scale = kept
    rows, upstream, wide_scale = (one.astype("float32") for one in (x.reshape(-1, x.shape[-1]), upstream, scale))
    upstream = upstream.reshape(rows.shape)
    mean_of = jnp.full((rows.shape[1], 1), 1 / rows.shape[1])
    centred = rows - rows @ mean_of
    inverse = jax.lax.rsqrt(jnp.square(centred) @ mean_of + epsilon)
    normal = centred * inverse
    d_normal = upstream * wide_scale
    d_scale = upstream * normal
    d_x = (d_normal - upstream @ (wide_scale[:, None] * mean_of) - normal * (d_scale @ (wide_scale[:, None] * mean_of)))
    total_of = jnp.ones((1, len(rows)))
    return (
        (d_x * inverse).reshape(x.shape).astype(x.dtype),
        (total_of @ d_scale)[0].astype(scale.dtype),
        (total_of @ upstream)[0].astype(scale.dtype),
    )


layer_normalization.defvjp(
    lambda x, scale, shift, epsilon: (layer_normalization(x, scale, shift, epsilon), (x, scale)),
    _layer_normalization_gradients,
)


def wide_product(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns one · other in float32: of bfloat16, with neither turned, in half the time on a CPU."""
    return jnp.matmul(one, other, preferred_element_type=jnp.float32)


def turned(matrix: jax.Array) -> jax.Array:
    """Returns the transpose of a matrix: written so that XLA makes one, and does not multiply by a turned matrix."""
    return matrix[None].transpose(2, 0, 1).reshape(matrix.shape[::-1])


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
        total = jnp.zeros(term_shape.shape, term_shape.dtype) + (0 * first.ravel()[0]).astype(term_shape.dtype)

    def body(index: Any, carried: tuple) -> tuple:
        outputs, total = carried
        piece = (outputs if is_in_place else first)[index]
        output, term = function(piece, *(x[index] for x in others))
        return outputs.at[index].set(output.astype(outputs.dtype)), None if total is None else total + term

    return jax.lax.fori_loop(0, len(first), body, (outputs, total))

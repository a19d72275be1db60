"""What JAX is told in its own words, so that XLA neither keeps nor fills memory without need."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def remat(function: Callable, after: Callable[[Any, Any], Any]) -> Callable:
    """Returns `function`, of which only the arguments are kept; `after(x, gradient)` makes x wait for the gradient."""

    def call(*arguments: Any) -> Any:
        pure, captured = jax.closure_convert(function, *arguments)  # weights become arguments, for their gradients
        run = jax.custom_vjp(pure)

        def forward(*inputs: Any) -> tuple:
            return pure(*inputs), inputs

        def backward(inputs: tuple, gradients: Any) -> tuple:
            first = after(inputs[0], jax.tree.leaves(gradients)[0])
            return jax.vjp(pure, first, *inputs[1:])[1](gradients)

        run.defvjp(forward, backward)
        return run(*arguments, *captured)

    return call


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

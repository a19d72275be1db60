"""Runs and differentiates a block on two JAX devices, a clip on each: see `test_jax.py`."""

import jax
import keras
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from videoswin_keras.kernels import attention, chunks
from videoswin_keras.nn.block import VideoSwinBlock


def run() -> None:
    chunks.CHUNK_BYTES["cpu"], attention.STORED_BYTES = 2**12, 0
    keras.utils.set_random_seed(0)
    block = VideoSwinBlock(num_heads=2, window_size=(2, 3, 3), shifted=True)
    block.build((None, 4, 6, 9, 8))
    clips = np.random.default_rng(0).normal(size=(2, 4, 6, 9, 8)).astype("float32")
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    assert mesh.size == 2
    spread = jax.device_put(clips, NamedSharding(mesh, PartitionSpec("batch")))
    weights = [variable.value for variable in block.trainable_variables]
    others = [variable.value for variable in block.non_trainable_variables]

    def outputs(weights: list, clips: jax.Array, training: bool = False) -> jax.Array:
        return block.stateless_call(weights, others, clips, training=training)[0]

    def loss(weights: list, clips: jax.Array) -> jax.Array:
        return (outputs(weights, clips, training=True) ** 2).sum()

    for function in (outputs, jax.grad(loss)):
        compiled = jax.jit(function).lower(weights, spread).compile()
        assert "all-gather" not in compiled.as_text()
        with chunks.whole():
            expected = function(weights, clips)
        for one, other in zip(*(jax.tree.leaves(x) for x in (compiled(weights, spread), expected)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())
    print("stays")


if __name__ == "__main__":
    run()

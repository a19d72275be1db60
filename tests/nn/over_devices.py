"""Runs a block on two JAX devices, a clip on each: see `test_jax_functions.py`."""

import jax
import keras
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from videoswin_keras.nn import pieces
from videoswin_keras.nn.block import VideoSwinBlock


def run() -> None:
    pieces.PIECE_BYTES["cpu"] = 2**12
    keras.utils.set_random_seed(0)
    block = VideoSwinBlock(num_heads=2, window_size=(2, 3, 3), shifted=True)
    block.build((None, 4, 6, 9, 8))
    clips = np.random.default_rng(0).normal(size=(2, 4, 6, 9, 8)).astype("float32")
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    assert mesh.size == 2
    spread = jax.device_put(clips, NamedSharding(mesh, PartitionSpec("batch")))
    compiled = jax.jit(block).lower(spread).compile()
    assert "all-gather" not in compiled.as_text()
    with pieces.whole():
        expected = block(clips)
    np.testing.assert_allclose(compiled(spread), expected, atol=2e-6)
    print("stays")


if __name__ == "__main__":
    run()

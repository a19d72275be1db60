"""What only JAX has: on other backends there is nothing to test."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np

from videoswin_keras import kernels
from videoswin_keras.kernels import chunks
from videoswin_keras.nn.block import VideoSwinBlock

if keras.backend.backend() == "jax":
    import jax

    from videoswin_keras.kernels import jax as jax_kernels

    def test_what_compilers_free_is_given_back(monkeypatch):
        given = []
        monkeypatch.setattr(jax_kernels, "_trim", lambda: given.append(True))
        for seconds, times in ((0.5, 0), (2.0, 1)):
            jax_kernels._give_back("/jax/core/compile/backend_compile_duration", seconds, fun_name="step")
            assert len(given) == times
        monkeypatch.setattr(jax_kernels, "LONG_COMPILATION", 0.0)
        jax_kernels.give_back_after_compilations()
        jax.jit(lambda x: x + 2)(1.0)
        assert len(given) > 1

    def test_giving_back(monkeypatch):
        jax_kernels._trim()  # of the C library that is here
        given = []
        for library in (SimpleNamespace(malloc_trim=given.append), SimpleNamespace()):  # glibc, and another
            monkeypatch.setattr(jax_kernels.ctypes, "CDLL", lambda _, library=library: library)
            jax_kernels._trim()
        assert given == [0]

    def test_a_batch_that_is_spread_over_devices_stays_there():
        variables = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        script = [sys.executable, str(Path(__file__).parent / "over_devices.py")]
        result = subprocess.run(script, env=variables, capture_output=True, text=True, check=False)
        assert result.stdout == "stays\n", result.stderr

    def test_an_export_of_any_batch_is_in_pieces(monkeypatch):
        monkeypatch.setattr(chunks, "CHUNK_BYTES", {"cpu": 2**12, "gpu": 2**12})
        block = VideoSwinBlock(num_heads=2, window_size=(2, 3, 3), shifted=True)
        block.build((None, 4, 6, 9, 8))
        clips = np.random.default_rng(0).normal(size=(3, 4, 6, 9, 8)).astype("float32")
        batch = jax.export.symbolic_shape("batch")
        exported = jax.export.export(jax.jit(block))(jax.ShapeDtypeStruct((*batch, *clips.shape[1:]), "float32"))
        assert "while" in exported.mlir_module()
        with chunks.whole():
            expected = block(clips)
        np.testing.assert_allclose(exported.call(clips), expected, atol=2e-6)

    def test_what_is_traced_beside_constants(monkeypatch):
        """All are put in a row, or none."""
        monkeypatch.setattr(chunks, "CHUNK_BYTES", {"cpu": 2**10, "gpu": 2**10})
        generator = np.random.default_rng(0)
        queries, keys, values = (generator.normal(size=(2, *size)) for size in ((6, 16), (4, 8, 4), (4, 8, 4)))
        constants = [jax.numpy.asarray(keys, "float32"), jax.numpy.asarray(values, "float32"), np.ones((2, 8), bool)]
        queries = jax.numpy.asarray(queries, "float32")
        outputs = jax.jit(lambda x: kernels.cross_attention(x, *constants))(queries)
        expected = kernels.cross_attention(queries, *constants, training=True)
        np.testing.assert_allclose(outputs, expected, atol=1e-6)

    def test_what_has_values_is_not_copied():
        arrays = [jax.numpy.ones((2, 3, 4))]
        assert jax_kernels.rows_of_batch(arrays) is arrays

    def test_of_two_factors_the_smaller_is_transposed(monkeypatch):
        shapes, transposed = [], jax_kernels._transposed
        monkeypatch.setattr(jax_kernels, "_transposed", lambda x: shapes.append(x.shape) or transposed(x))
        for widths in ((3, 5), (5, 3)):
            one, other = (np.full((2, 1, 7, width), width, "float32") for width in widths)
            shapes.clear()
            product = jax_kernels.matmul_tn(jax.numpy.asarray(one), jax.numpy.asarray(other))
            np.testing.assert_array_equal(product, np.full((2, 1, *widths), 3 * 5 * 7))
            assert shapes[0] == (2, 1, 7, 3)

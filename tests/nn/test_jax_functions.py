"""What only JAX has: on other backends there is nothing to test."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np

from videoswin_keras.nn import pieces
from videoswin_keras.nn.block import VideoSwinBlock

if keras.backend.backend() == "jax":
    import jax

    from videoswin_keras.nn import jax_functions

    def test_what_compilers_free_is_given_back(monkeypatch):
        given = []
        monkeypatch.setattr(jax_functions, "trim", lambda: given.append(True))
        for seconds, times in ((0.5, 0), (2.0, 1)):
            jax_functions.give_back("/jax/core/compile/backend_compile_duration", seconds, fun_name="step")
            assert len(given) == times
        monkeypatch.setattr(jax_functions, "LONG", 0.0)
        jax.jit(lambda x: x + 2)(1.0)
        assert len(given) > 1

    def test_giving_back(monkeypatch):
        jax_functions.trim()  # of the C library that is here
        given = []
        for library in (SimpleNamespace(malloc_trim=given.append), SimpleNamespace()):  # glibc, and another
            monkeypatch.setattr(jax_functions.ctypes, "CDLL", lambda _, library=library: library)
            jax_functions.trim()
        assert given == [0]

    def test_a_batch_that_is_spread_over_devices_stays_there():
        variables = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        script = [sys.executable, str(Path(__file__).parent / "over_devices.py")]
        result = subprocess.run(script, env=variables, capture_output=True, text=True, check=False)
        assert result.stdout == "stays\n", result.stderr

    def test_an_export_of_any_batch_is_in_pieces(monkeypatch):
        monkeypatch.setattr(pieces, "PIECE_BYTES", {"cpu": 2**12, "gpu": 2**12})
        block = VideoSwinBlock(num_heads=2, window_size=(2, 3, 3), shifted=True)
        block.build((None, 4, 6, 9, 8))
        clips = np.random.default_rng(0).normal(size=(3, 4, 6, 9, 8)).astype("float32")
        batch = jax.export.symbolic_shape("batch")
        exported = jax.export.export(jax.jit(block))(jax.ShapeDtypeStruct((*batch, *clips.shape[1:]), "float32"))
        assert "while" in exported.mlir_module()
        with pieces.whole():
            expected = block(clips)
        np.testing.assert_allclose(exported.call(clips), expected, atol=2e-6)

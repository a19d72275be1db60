"""Shared by the tests of the layers."""

import keras
import pytest


@pytest.fixture
def float64():
    """JAX has it only where it is enabled."""
    if keras.backend.backend() == "jax":
        import jax
        import jax.experimental

        place = jax if hasattr(jax, "enable_x64") else jax.experimental  # of older ones
        with place.enable_x64(True):
            yield
    else:
        yield


@pytest.fixture(params=[False, True] if keras.backend.backend() == "torch" else [False])
def emulated(request, monkeypatch):
    """With and, on PyTorch, without products of half precision in the processor."""
    if keras.backend.backend() == "torch":
        import torch

        from videoswin_keras.kernels import torch as torch_kernels

        dtypes = frozenset([torch.bfloat16, torch.float16] if request.param else [])
        monkeypatch.setattr(torch_kernels, "_emulated", lambda: dtypes)

"""Shared by all tests; they run under Keras's own choice of backend (`KERAS_BACKEND`)."""

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait by spinning slow each other down on few cores

# Before TensorFlow: torchvision imports triton where PyTorch is built for CUDA, and triton's library dies beside
# TensorFlow's if it comes second.
import torch_reference  # noqa: F401


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's own cache of weights."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.getbasetemp() / "keras_home"))

"""`torch.amp.autocast`, as people who write their own loops on PyTorch train with it."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from videoswin_keras import VideoSwinT, kernels
from videoswin_keras.kernels import attention

pytestmark = pytest.mark.one_backend
TINY = {"embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4), "window_size": (2, 3, 3)}
CASES = {
    "classifier": ({"drop_path_rate": 0.0}, (4, 4, 24, 24, 3)),
    "what drops": ({"drop_path_rate": 0.5, "projection_dropout_rate": 0.1}, (4, 4, 24, 24, 3)),
    "rematerialised": ({"drop_path_rate": 0.0, "use_rematerialization": True}, (4, 4, 24, 24, 3)),
    "memory": ({"drop_path_rate": 0.0, "memory": {"stages": (2,), "num_tokens": 4}}, (2, 2, 4, 24, 24, 3)),
}


def step(model, clips, labels, autocast, scaler=None):
    """Returns the loss of a training step and its gradients, by path."""
    import torch

    for variable in model.variables:
        variable.value.grad = None
        if "seed" in variable.path:
            variable.assign(np.array([3, 0], "uint32"))
    with autocast:
        logits = model(clips, training=True)
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 3), labels)
    (loss if scaler is None else scaler.scale(loss)).backward()
    scale = 1.0 if scaler is None else scaler.get_scale()
    gradients = {variable.path: variable.value.grad / scale for variable in model.trainable_variables}
    return loss.item(), {path: gradient.numpy() for path, gradient in gradients.items()}


@pytest.mark.parametrize("kept_bytes", [attention.STORED_BYTES, 0], ids=["kept", "recomputed"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_training(case, dtype, kept_bytes, monkeypatch):
    import torch

    monkeypatch.setattr(attention, "STORED_BYTES", kept_bytes)
    arguments, shape = CASES[case]
    keras.utils.set_random_seed(0)
    model = VideoSwinT((None, None, None, 3), num_classes=3, dropout_rate=0.0, **TINY, **arguments)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:  # so that every gradient is of a size to compare
        variable.assign(variable + 0.1 * rng.normal(size=variable.shape).astype("float32"))
    clips = torch.tensor(rng.normal(size=shape).astype("float32"))
    labels = torch.tensor([0, 2, 1, 1])
    loss, exact = step(model, clips, labels, torch.amp.autocast("cpu", enabled=False))
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0) if dtype == "float16" else None
    cast_loss, found = step(model, clips, labels, torch.amp.autocast("cpu", dtype=getattr(torch, dtype)), scaler)
    precision = 2 * {"bfloat16": 2**-8, "float16": 2**-11}[dtype]
    assert 0 < abs(cast_loss - loss) < 10 * precision  # it is in half precision, and close
    for path, gradient in exact.items():
        assert found[path].dtype == "float32"
        difference, size = np.linalg.norm(found[path] - gradient), np.linalg.norm(gradient)
        assert difference <= 20 * precision * size, (path, difference / size)


@pytest.mark.parametrize("shape", [(1, 4, 24, 24, 3), (1, 5, 20, 25, 3)], ids=["exact windows", "padded"])
def test_inference(shape):
    import torch

    model = VideoSwinT((None, None, None, 3), num_classes=3, **TINY)
    clip = torch.tensor(np.random.default_rng(0).normal(size=shape).astype("float32"))
    with torch.no_grad():
        exact = model(clip).numpy()
        with torch.amp.autocast("cpu", dtype=torch.bfloat16):
            found = model(clip).numpy()
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_shapes_are_found_out_without_computing(monkeypatch):
    """Keras asks for them on the device "meta", for which there is no autocast; where that fails it computes."""
    devices, linear = [], kernels.linear

    def noted(x, *others):
        devices.append(x.device.type)
        return linear(x, *others)

    class Around(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.model = VideoSwinT((None, None, None, 3), num_classes=3, **TINY)

        def call(self, x):
            return self.model(x)

    monkeypatch.setattr(kernels, "linear", noted)
    Around()(keras.Input((4, 24, 24, 3)))
    assert set(devices) == {"meta"}


def test_distributed_data_parallel():
    """In two processes: the mean of their gradients, and no warning about strides."""
    script = Path(__file__).parent / "over_processes.py"
    result = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "strides" not in result.stderr, result.stderr
    assert result.stdout.split()[-1] == "same"

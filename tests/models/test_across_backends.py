"""A `.keras` file written on any backend gives the same outputs on every other."""

import os
import subprocess
import sys

import numpy as np
import pytest

BACKENDS = ("torch", "jax", "tensorflow")

WRITE = """
import sys
import numpy as np
from videoswin_keras import VideoSwinBackbone, VideoSwinClassifier
backbone = VideoSwinBackbone(
    (None, None, None, 3), embed_dim=8, depths=(2, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=(2, 3, 3)
)
model = VideoSwinClassifier(backbone, 5)
rng = np.random.default_rng(0)
model.set_weights([rng.normal(size=weight.shape, scale=0.3) for weight in model.get_weights()])
model.save(f"{sys.argv[1]}/model.keras")
model.save_weights(f"{sys.argv[1]}/model.weights.h5")
"""

READ = """
import sys
import keras
import numpy as np
import videoswin_keras
clip = np.random.default_rng(1).normal(size=(2, 5, 40, 50, 3)).astype("float32")
outputs = {}
for writer in sys.argv[2:]:
    model = keras.models.load_model(f"{sys.argv[1]}/{writer}/model.keras")
    outputs[f"{writer}_keras"] = model.predict(clip, verbose=0)
    model.set_weights([0 * weight for weight in model.get_weights()])
    model.load_weights(f"{sys.argv[1]}/{writer}/model.weights.h5")
    outputs[f"{writer}_weights"] = model.predict(clip, verbose=0)
np.savez(f"{sys.argv[1]}/{keras.backend.backend()}.npz", **outputs)
"""


def run(backend, script, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.one_backend
def test_models_travel_between_backends(tmp_path):
    for backend in BACKENDS:
        (tmp_path / backend).mkdir()
        run(backend, WRITE, tmp_path / backend)
    outputs = []
    for backend in BACKENDS:
        run(backend, READ, tmp_path, *BACKENDS)
        with np.load(tmp_path / f"{backend}.npz") as arrays:
            outputs += list(arrays.values())
    assert len(outputs) == 18
    for output in outputs:
        assert np.abs(output).max() > 0.1
        np.testing.assert_allclose(output, outputs[0], atol=2e-5)

"""A `.keras` file written on any backend gives the same outputs on every other."""

import os
import subprocess
import sys

import numpy as np
import pytest
from keras import ops

from videoswin_keras.models.recurrent import flatten, load_state

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


WRITE_MEMORY = """
import sys
import numpy as np
from videoswin_keras import VideoSwinT
model = VideoSwinT(
    (None, None, None, 3), num_classes=5, memory={"stages": (1, 2), "num_tokens": 4, "memory_length": 3},
    embed_dim=32, depths=(1, 1), num_heads=(1, 2), window_size=(2, 3, 3),
)
rng = np.random.default_rng(0)
for memory in model.memories.values():
    memory.gate.assign(rng.normal(size=memory.gate.shape))
model.save(sys.argv[1] + "/model.keras")
"""

FIFTY_STEPS = """
import sys
import keras
import numpy as np
import videoswin_keras
from videoswin_keras.models.recurrent import flatten, load_state, save_state, unflatten
model = keras.models.load_model(sys.argv[1] + "/model.keras")
clips = np.random.default_rng(1).normal(size=(50, 2, 4, 16, 24, 3)).astype("float32")
step = model.step_model()
state = [keras.ops.convert_to_numpy(part) for part in flatten(model.initial_state(2))]
logits = []
for clip in clips:
    output, *state = step.predict_on_batch([clip, *state])
    logits.append(output)
name = sys.argv[1] + "/" + keras.backend.backend()
save_state(unflatten(state, list(model.memories)), name + "_state.npz")
np.savez(name + ".npz", logits=logits, *state)
"""


@pytest.mark.one_backend
def test_fifty_steps_of_a_memory_are_the_same_on_every_backend(tmp_path):
    run("torch", WRITE_MEMORY, tmp_path)
    results = []
    for backend in BACKENDS:
        run(backend, FIFTY_STEPS, tmp_path)
        with np.load(tmp_path / f"{backend}.npz") as arrays:
            results.append({name: arrays[name] for name in arrays})
    assert results[0]["logits"].shape == (50, 2, 5)
    assert np.ptp(results[0]["logits"], axis=0).max() > 0.1
    for other in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_allclose(other[name], value, atol=1e-4, err_msg=name)
    for backend in BACKENDS:
        state = load_state(tmp_path / f"{backend}_state.npz")
        for part, name in zip(flatten(state), ("arr_0", "arr_1", "arr_2", "arr_3"), strict=True):
            np.testing.assert_allclose(ops.convert_to_numpy(part), results[0][name], atol=1e-4)

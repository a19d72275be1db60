"""What is exported does, in its own runtime, what the model does: 100 steps, clips of several sizes."""

import os
import subprocess
import sys

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import ops

from videoswin_keras import CheckpointError, VideoSwinT, from_checkpoint
from videoswin_keras.cli.main import main
from videoswin_keras.export import export
from videoswin_keras.models.recurrent import flatten

pytestmark = pytest.mark.one_backend  # TensorFlow writes them all


@pytest.fixture(scope="module")
def recurrent():
    model = VideoSwinT(
        (None, None, None, 3),
        num_classes=3,
        memory={"stages": (1, 2), "num_tokens": 3, "memory_length": 4},
        embed_dim=8,
        depths=(1, 2),
        num_heads=(1, 2),
        window_size=(2, 3, 3),
    )
    rng = np.random.default_rng(0)
    for memory in model.memories.values():
        memory.set_weights([rng.normal(0, 0.3, weight.shape) for weight in memory.get_weights()])
    return model


def runner(path, format):
    """A function from named arrays to named arrays."""
    if format == "onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        assert names == ["outputs", *(f"next_{one.name}" for one in session.get_inputs()[1:])]
        return lambda **inputs: dict(zip(names, session.run(None, inputs), strict=True))
    import tensorflow as tf

    module = tf.saved_model.load(str(path))

    def run(**inputs):
        outputs = module.signatures["serving_default"](**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    return run


@pytest.mark.parametrize("format", ["onnx", "tf_saved_model"])
def test_a_hundred_steps(recurrent, format, tmp_path):
    """Two streams of odd-sized clips; the state goes round outside of the exported model."""
    path = tmp_path / ("step.onnx" if format == "onnx" else "step")
    report = export(recurrent, path)
    assert list(report["inputs"]) == ["clip", "stage1_queue", "stage1_filled", "stage2_queue", "stage2_filled"]
    assert report["inputs"]["stage1_queue"] == [[None, 4, 3, 8], "float32"]
    assert report["difference"] < 1e-5
    step, rng = runner(path, format), np.random.default_rng(1)
    names = list(report["inputs"])[1:]
    state = recurrent.initial_state(2)
    exported = dict(zip(names, map(np.array, map(ops.convert_to_numpy, flatten(state))), strict=True))
    for index in range(100):
        clip = rng.normal(size=(2, 4, 17 + 8 * (index % 2), 20, 3)).astype("float32")
        expected, state = recurrent.step(clip, state)
        outputs = step(clip=clip, **exported)
        np.testing.assert_allclose(outputs["outputs"], ops.convert_to_numpy(expected), atol=1e-4)
        exported = {name: outputs[f"next_{name}"] for name in names}
    for value, expected in zip(exported.values(), flatten(state), strict=True):
        np.testing.assert_allclose(value, ops.convert_to_numpy(expected), atol=1e-4)


def test_without_a_memory(tmp_path):
    """From a file, over an older export."""
    model = from_checkpoint("pico_moving_shapes", include_rescaling=True)
    model.save(tmp_path / "pico.keras")
    (tmp_path / "pico.onnx").write_bytes(b"older")
    report = export(tmp_path / "pico.keras", tmp_path / "pico.onnx")
    assert report["inputs"] == {"clip": [[None, None, None, None, 3], "float32"]}
    clip = np.random.default_rng(0).uniform(0, 255, (1, 16, 64, 80, 3)).astype("float32")
    outputs = runner(tmp_path / "pico.onnx", "onnx")(clip=clip)
    np.testing.assert_allclose(outputs["outputs"], model.predict(clip, verbose=0), atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pico.keras", "pico.onnx"]


def test_command_line(tmp_path, capsys):
    model = from_checkpoint("pico_moving_shapes")
    model.save(tmp_path / "pico.keras")
    assert main(["export", str(tmp_path / "pico.keras"), "-o", str(tmp_path / "pico")]) == 0
    assert "clip (batch, frames, height, width, 3) float32" in capsys.readouterr().out
    assert (tmp_path / "pico" / "saved_model.pb").is_file()
    assert main(["export", str(tmp_path / "absent.keras"), "-o", str(tmp_path / "pico.onnx")]) == 2
    assert main(["export", "pico_moving_shapes", "-o", str(tmp_path / "pico.onnx")]) == 2
    assert "videoswin convert" in capsys.readouterr().err


def test_errors(recurrent, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="one of onnx, tf_saved_model"):
        export(recurrent, tmp_path / "a.tflite")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        export(recurrent, tmp_path / "absent" / "a.onnx")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        export(tmp_path / "absent.keras", tmp_path / "a.onnx")
    with pytest.raises(FileExistsError, match="is no SavedModel"):
        export(recurrent, tmp_path)
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    with pytest.raises(ValueError, match="holds a Sequential, not a model of this library"):
        export(tmp_path / "dense.keras", tmp_path / "a.onnx")
    (tmp_path / "dense.keras").unlink()
    (tmp_path / "wrong.keras").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"The export failed: .*wrong\.keras is not a readable checkpoint"):
        export(tmp_path / "wrong.keras", tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.keras"]


def test_onnx_has_no_loops(tmp_path):
    """Also where a block would be computed in pieces, one after the other."""
    model = VideoSwinT((4, 48, 48, 3), num_classes=3, embed_dim=8, depths=(2,), num_heads=(2,), window_size=(2, 3, 3))
    model.save(tmp_path / "model.keras")
    code = (
        "import sys; from videoswin_keras.export import _worker; from videoswin_keras.nn import pieces; "
        "pieces.PIECE_BYTES['cpu'] = 1; _worker(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.keras"), str(tmp_path / "model.onnx"), "onnx"]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "MatMul" in operators
    assert not operators & {"Loop", "Scan"}

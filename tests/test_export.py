"""What is exported does, in its own runtime, what the model does: 100 steps, clips of several sizes."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import ops

from videoswin_keras import CheckpointError, VideoSwinBackbone, VideoSwinT, from_checkpoint
from videoswin_keras.cli.main import main
from videoswin_keras.data.synthetic import MOTIONS
from videoswin_keras.export import export
from videoswin_keras.export_worker import _check, _difference
from videoswin_keras.models.recurrent import flatten
from videoswin_keras.video import protocols
from videoswin_keras.video.protocols import Protocol

pytestmark = pytest.mark.one_backend  # TensorFlow writes them all


ANY_SIZE = (None, None, None, 3)
SMALL = {"embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "window_size": (2, 3, 3)}
MEMORY = {"stages": (1, 2), "num_tokens": 3, "memory_length": 4}


@pytest.fixture(scope="module")
def recurrent():
    """Of weights that bfloat16 holds."""
    model = VideoSwinT(ANY_SIZE, num_classes=3, memory=MEMORY, **SMALL)
    rng = np.random.default_rng(0)
    for memory in model.memories.values():
        memory.set_weights([rng.normal(0, 0.3, weight.shape) for weight in memory.get_weights()])
    for weight in model.weights:
        weight.assign(ops.cast(ops.cast(weight, "bfloat16"), "float32"))
    return model


def is_dense(layer):
    return isinstance(layer, keras.layers.Dense)


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


@pytest.mark.parametrize(("format", "dtype"), [("onnx", "mixed_float16"), ("tf_saved_model", "bfloat16")])
def test_a_hundred_steps(recurrent, format, dtype, tmp_path):
    """Two streams of odd-sized clips; the state goes round outside of the exported model, which is in float32."""
    path = tmp_path / ("step.onnx" if format == "onnx" else "step")
    half = VideoSwinT(ANY_SIZE, num_classes=3, memory=MEMORY, dtype=dtype, **SMALL)
    for weight, value in zip(half.weights, recurrent.weights, strict=True):
        weight.assign(ops.cast(value, weight.dtype))
    report = half.export(path, format=format)
    assert report["computes_in"] == dtype
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
    model = from_checkpoint("pico_moving_shapes", include_rescaling=True, labels=MOTIONS)
    model.save(tmp_path / "pico.keras")
    (tmp_path / "pico.onnx").write_bytes(b"older")
    report = export(tmp_path / "pico.keras", tmp_path / "pico.onnx")
    assert report["inputs"] == {"clip": [[None, None, None, None, 3], "float32"]}
    clip = np.random.default_rng(0).uniform(0, 255, (1, 16, 64, 80, 3)).astype("float32")
    outputs = runner(tmp_path / "pico.onnx", "onnx")(clip=clip)
    np.testing.assert_allclose(outputs["outputs"], model.predict(clip, verbose=0), atol=1e-4)
    metadata = onnxruntime.InferenceSession(tmp_path / "pico.onnx").get_modelmeta().custom_metadata_map
    assert {name: json.loads(value) for name, value in metadata.items()} == {"labels": list(MOTIONS)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pico.keras", "pico.onnx"]


def test_command_line(tmp_path, capsys):
    import tensorflow as tf

    model = from_checkpoint("pico_moving_shapes")
    half = from_checkpoint("pico_moving_shapes", dtype="mixed_bfloat16")
    half.protocol = protocols.get("kinetics", clip_frames=16, interval=1, crop=64)
    half.save(tmp_path / "pico.keras")
    assert main(["export", str(tmp_path / "pico.keras"), "-o", str(tmp_path / "pico")]) == 0
    output = capsys.readouterr().out
    assert "clip (batch, frames, height, width, 3) float32" in output
    assert "The model computes in mixed_bfloat16; what was written computes in float32." in output
    kept = json.loads((tmp_path / "pico" / "assets.extra" / "videoswin.json").read_text())
    assert Protocol(**kept["protocol"]) == half.protocol
    module = tf.saved_model.load(str(tmp_path / "pico"))
    clip = np.random.default_rng(0).normal(size=(1, 4, 40, 40, 3)).astype("float32")
    np.testing.assert_allclose(module.serve(clip), model.predict(clip, verbose=0), atol=1e-4)  # as Keras's own has it
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
    for name in ("notes.txt", "saved_model.pb"):  # by itself, and beside a model
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).touch()
        with pytest.raises(FileExistsError, match="is no SavedModel"):
            export(recurrent, tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine")
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    with pytest.raises(ValueError, match="holds a Sequential without a Video Swin"):
        export(tmp_path / "dense.keras", tmp_path / "a.onnx")
    (tmp_path / "dense.keras").unlink()
    (tmp_path / "wrong.keras").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"The export failed: .*wrong\.keras is not a readable checkpoint"):
        export(tmp_path / "wrong.keras", tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.keras"]


def test_another_head(tmp_path):
    """With LoRA, and compiled with an optimizer that cannot be saved and a loss that only this process knows."""

    class Optimizer(keras.optimizers.Adam):
        def get_config(self):
            raise NotImplementedError

    class Loss(keras.losses.Loss):
        def call(self, _, given):
            return given

    backbone = VideoSwinBackbone(ANY_SIZE, include_rescaling=True, pooling="avg", **SMALL)
    features = backbone(backbone.input)
    outputs = {"features": features, "classes": keras.layers.Dense(3, name="head")(features)}
    model = keras.Model(backbone.input, outputs)
    for layer in model._flatten_layers():
        if is_dense(layer):
            layer.enable_lora(2)
            layer.lora_kernel_b.assign(np.full(layer.lora_kernel_b.shape, 0.3, "float32"))
    backbone.compile("adam", loss=Loss())
    model.compile(Optimizer(), loss={"classes": Loss()})
    report = export(model, tmp_path / "model.onnx")
    assert model.compiled
    assert report["outputs"] == {"classes": [[None, 3], "float32"], "features": [[None, 16], "float32"]}
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    clip = np.random.default_rng(0).uniform(0, 255, (2, 4, 24, 28, 3)).astype("float32")
    expected = model.predict(clip, verbose=0)
    for name, value in zip(("classes", "features"), session.run(["classes", "features"], {"clip": clip}), strict=True):
        np.testing.assert_allclose(value, expected[name], atol=1e-4)


def test_int8(tmp_path):
    """In half precision and in a model of another kind: the same as in float32."""

    def build(dtype):
        backbone = VideoSwinBackbone(ANY_SIZE, pooling="avg", dtype=dtype, **SMALL)
        return keras.Sequential([backbone, keras.layers.Dense(3, dtype=dtype)])

    model, half = build("float32"), build("mixed_bfloat16")
    half.set_weights(model.get_weights())
    model.quantize("int8", filters=is_dense)
    half.quantize("int8", filters=is_dense)
    report = export(half, tmp_path / "model.onnx")
    assert report["computes_in"] == "mixed_bfloat16"
    clip = np.random.default_rng(0).normal(size=(2, 4, 24, 28, 3)).astype("float32")
    outputs = runner(tmp_path / "model.onnx", "onnx")(clip=clip)
    np.testing.assert_allclose(outputs["outputs"], model.predict(clip, verbose=0), atol=1e-4)


def test_what_cannot_be_exported(recurrent, tmp_path, monkeypatch):
    """One line each."""

    class Own(keras.layers.Layer):
        def call(self, x):
            return x

    backbone = VideoSwinBackbone(ANY_SIZE, pooling="avg", **SMALL)
    with pytest.raises(ValueError, match=r"the model has test_export\.Own in it\. It must be of layers"):
        export(keras.Sequential([backbone, Own()]), tmp_path / "own.onnx")
    with pytest.raises(SystemExit, match=r"begin it with `keras\.Input"):
        _check(keras.Sequential([keras.layers.Rescaling(2.0), backbone]), "onnx")
    sequences = keras.Input((None, 4, 24, 24, 3))
    with pytest.raises(SystemExit, match="sequences of clips"):
        _check(keras.Model(sequences, recurrent(sequences)), "onnx")
    with pytest.raises(ValueError, match=r"RecurrentVideoSwin can be exported as onnx, tf_saved_model;.*format=litert"):
        recurrent.export(tmp_path / "a.tflite", format="litert")
    with pytest.raises(ValueError, match=r"exported as onnx, tf_saved_model.*'opset': 3"):
        recurrent.export(tmp_path / "a.onnx", format="onnx", opset=3)
    backbone.quantize("float8", filters=is_dense)
    with pytest.raises(SystemExit, match="float8 cannot be written as ONNX"):
        _check(backbone, "onnx")
    _check(backbone, "tf_saved_model")
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(ValueError, match="wrong numbers where sides vary"):
        backbone.export(tmp_path / "a.tflite", format="litert")
    assert not list(tmp_path.iterdir())


def test_what_is_no_number_is_a_difference():
    signature = [SimpleNamespace(name="clip", shape=(None, None, None, None, 3), dtype=SimpleNamespace(name="float32"))]
    pair = [{"outputs": np.array(value)} for value in (1.0, np.nan)]
    assert not _difference(lambda clip: pair[0], lambda inputs: pair[1], signature, [], (0, 1)) <= 1


def test_onnx_has_no_loops(tmp_path):
    """Also where a block would be computed in chunks, one after the other."""
    model = VideoSwinT((4, 48, 48, 3), num_classes=3, embed_dim=8, depths=(2,), num_heads=(2,), window_size=(2, 3, 3))
    model.save(tmp_path / "model.keras")
    code = (
        "import sys; from videoswin_keras.export_worker import _worker; from videoswin_keras.kernels import chunks; "
        "chunks.CHUNK_BYTES['cpu'] = 1; _worker(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.keras"), str(tmp_path / "model.onnx"), "onnx"]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "MatMul" in operators
    assert not operators & {"Loop", "Scan"}

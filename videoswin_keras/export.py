"""Models for deployment, as ONNX or TensorFlow SavedModel; each is run and compared after it has been written.

A model with a memory becomes one step: the clip and the state go in, the outputs and the new state come out.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from videoswin_keras import optional
from videoswin_keras.atomic import PREFIX, replacing
from videoswin_keras.checkpoints.errors import CheckpointError
from videoswin_keras.models.backbone import VideoSwinBackbone
from videoswin_keras.models.classifier import VideoSwinClassifier
from videoswin_keras.models.recurrent import RecurrentVideoSwin
from videoswin_keras.models.saved import load_model
from videoswin_keras.nn import pieces

FORMATS = {"onnx": ("tensorflow", "tf2onnx", "onnxruntime"), "tf_saved_model": ("tensorflow",)}  # and what they need
TOLERANCE = 1e-4  # of outputs after three steps
_UNREADABLE = 3  # exit code of the process that finds the file to be no model


def export(model: str | Path | keras.Model, path: str | Path, format: str | None = None) -> dict[str, Any]:
    """Writes a model for use without Keras, on any backend, by way of TensorFlow in a process of its own.

    Sides of a clip that vary for the model (None) vary for the export, and so does the batch. The inputs are `clip`,
    and for a model with a memory `stage4_queue` and `stage4_filled` (of every stage that has one); the outputs are
    `outputs`, and `next_stage4_queue`, `next_stage4_filled`. A stream begins with a state of zeros.

    Args:
        model: A model of this library, or the `.keras` file of one.
        path: What to write: a file for ONNX, a folder for a SavedModel. It is replaced only by an export that was
            run and gave what the model gives.
        format: "onnx" or "tf_saved_model". Default: "onnx" if `path` ends in .onnx, the other if it has no ending.

    Returns:
        What was measured: "inputs" and "outputs" with their shapes and dtypes, and the largest "difference" from the
        model, on TensorFlow, over three steps.

    Raises:
        ValueError: if the format is neither, or the export does not give what the model gives.
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is not the file of a model.
        FileExistsError: if a SavedModel would replace something that is none.
        ImportError: if TensorFlow, or what the format needs, is not installed.
    """
    path = Path(path)
    format = format or {".onnx": "onnx", "": "tf_saved_model"}.get(path.suffix.lower())
    if format not in FORMATS:
        raise ValueError(
            f"`format` must be one of {', '.join(FORMATS)}; without it, `path` must end in .onnx, or be a folder "
            f"without an ending. Received: path={path}, format={format}."
        )
    optional.require("This export", FORMATS[format])
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.absolute().parent} to write {path.name} to.")
    if format == "tf_saved_model" and path.exists() and not (path / "saved_model.pb").is_file():
        raise FileExistsError(f"{path} is there, and is no SavedModel that could be replaced.")
    if not isinstance(model, keras.Model) and not Path(model).is_file():
        raise FileNotFoundError(f"There is no file {model}.")
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(model, keras.Model):
            source = Path(folder) / "model.keras"
            model.save(source)
        else:
            source = Path(model)
        if format == "onnx":
            with replacing(path) as temporary:
                return _in_tensorflow(source, temporary, format)
        # Beside `path`, so that it takes the place of an older one at once.
        written, older = (path.with_name(f"{PREFIX}{os.getpid()}-{name}-{path.name}") for name in ("new", "old"))
        try:
            report = _in_tensorflow(source, written, format)
            if path.exists():
                os.replace(path, older)
            os.replace(written, path)
        finally:
            shutil.rmtree(written, ignore_errors=True)
            shutil.rmtree(older, ignore_errors=True)
        return report


def _in_tensorflow(source: Path, path: Path, format: str) -> dict[str, Any]:
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "videoswin_keras.export", str(source), str(path), format]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode == _UNREADABLE:
        raise CheckpointError(f"The export failed: {result.stderr.strip().splitlines()[-1]}")
    if result.returncode:
        message = (result.stderr.strip().splitlines() or ["no message"])[-1]
        if result.returncode < 0:
            message = f"its process was stopped by signal {-result.returncode}. Is there enough memory?"
        raise ValueError(f"The export failed: {message}")
    return json.loads(result.stdout.splitlines()[-1])


# --- in the process of its own: Keras runs on TensorFlow there ---------------------------------------------------


def _worker(source: str, path: str, format: str) -> None:
    import tensorflow as tf

    try:
        model: Any = load_model(source)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        sys.exit(_UNREADABLE)
    if not isinstance(model, VideoSwinBackbone | VideoSwinClassifier | RecurrentVideoSwin):
        sys.exit(f"the file holds a {type(model).__name__}, not a model of this library.")
    step = model.step_model() if isinstance(model, RecurrentVideoSwin) else model
    names = [tensor.name for tensor in step.inputs] if isinstance(model, RecurrentVideoSwin) else ["clip"]
    signature = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name) for tensor, name in zip(step.inputs, names, strict=True)
    ]

    def call(*inputs: Any) -> dict[str, Any]:
        outputs = step(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        return dict(zip(["outputs", *(f"next_{name}" for name in names[1:])], outputs, strict=True))

    function = tf.function(call, input_signature=signature)
    with pieces.whole() if format == "onnx" else contextlib.nullcontext():  # a loop in ONNX is slow and hard to read
        function.get_concrete_function()
    if format == "onnx":
        import onnx
        import onnxruntime
        import tf2onnx

        handlers: dict[str, Any] = {"Erfc": (_erfc, [])}
        graph, _ = tf2onnx.convert.from_function(function, signature, opset=17, custom_op_handlers=handlers)
        by_name = {output.name: output for output in graph.graph.output}  # sorted by name
        del graph.graph.output[:]
        graph.graph.output.extend(by_name[name] for name in ["outputs", *(f"next_{name}" for name in names[1:])])
        onnx.save(graph, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        outputs = [output.name for output in session.get_outputs()]

        def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return dict(zip(outputs, session.run(None, inputs), strict=True))
    else:
        module = tf.Module()
        module.model, module.call = step, function
        tf.saved_model.save(module, path, signatures=function)
        loaded = tf.saved_model.load(path).signatures["serving_default"]

        def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            tensors = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
            return {name: value.numpy() for name, value in loaded(**tensors).items()}

    classifier = model.model if isinstance(model, RecurrentVideoSwin) else model
    backbone: Any = getattr(classifier, "backbone", classifier)
    pixels = (0, 255) if backbone.arguments["include_rescaling"] else (-2, 2)
    difference = _difference(call, run, signature, pixels)
    if not difference <= TOLERANCE:
        raise ValueError(f"what was written differs from the model by {difference:.1e}, more than {TOLERANCE:.0e}.")
    given = function.get_concrete_function().structured_outputs
    report = {
        "inputs": {spec.name: [list(spec.shape), spec.dtype.name] for spec in signature},
        "outputs": {name: [list(tensor.shape), tensor.dtype.name] for name, tensor in given.items()},
        "difference": difference,
    }
    print(json.dumps(report))


def _difference(model: Any, exported: Any, signature: list[Any], pixels: tuple[int, int]) -> float:
    """Returns how far outputs and states are apart over three steps, of clips as small as the model takes."""
    rng = np.random.default_rng(0)
    smallest = (2, 8, 64, 64)  # batch, frames, height, width, where they vary
    clip_shape = [side or small for side, small in zip(signature[0].shape, (*smallest, 0), strict=True)]
    states = [{spec.name: np.zeros([side or 2 for side in spec.shape], spec.dtype.name) for spec in signature[1:]}] * 2
    largest = 0.0
    for _ in range(3):
        clip = rng.uniform(*pixels, clip_shape).astype(signature[0].dtype.name)
        one = {name: np.asarray(value) for name, value in model(clip, *states[0].values()).items()}
        other = exported({"clip": clip, **states[1]})
        largest = max(largest, *(float(np.abs(one[name] - other[name]).max()) for name in one))
        states = [{name: outputs[f"next_{name}"] for name in states[0]} for outputs in (one, other)]
    return largest


def _erfc(graph: Any, node: Any, name: str, arguments: list) -> None:
    """ONNX knows erf, and not the erfc that TensorFlow writes the exact GELU with: 1 − erf."""
    ones = graph.make_const(f"{name}_one", np.array(1, "float32"))
    erf = graph.make_node("Erf", node.input, name=f"{name}_erf")
    shapes, dtypes = node.output_shapes, node.output_dtypes
    outputs = node.output
    graph.remove_node(node.name)
    graph.make_node("Sub", [ones.output[0], erf.output[0]], outputs=outputs, name=name, shapes=shapes, dtypes=dtypes)


if __name__ == "__main__":
    _worker(*sys.argv[1:])

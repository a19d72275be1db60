"""Models for deployment, as ONNX or TensorFlow SavedModel; each is run and compared after it has been written.

A model with a memory becomes one step: the clip and the state go in, the outputs and the new state come out.

Imports no model: models export themselves with it.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras import optional
from videoswin_keras.atomic import PREFIX, replacing
from videoswin_keras.nn import pieces
from videoswin_keras.nn.block import VideoSwinStage
from videoswin_keras.nn.layers import PixelNormalization

FORMATS = {"onnx": ("tensorflow", "tf2onnx", "onnxruntime"), "tf_saved_model": ("tensorflow",)}  # and what they need
TOLERANCE = 1e-4  # of outputs after three steps; of their largest value, where that is over one
OTHER_DTYPES = {"float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16"}  # and policies, than float32


def export(model: str | Path | keras.Model, path: str | Path, format: str | None = None) -> dict[str, Any]:
    """Writes a model for use without Keras, on any backend, by way of TensorFlow in a process of its own.

    Sides of a clip that vary for the model (None) vary for the export, and so does the batch. The inputs are `clip`,
    and for a model with a memory `stage4_queue` and `stage4_filled` (of every stage that has one); the outputs are
    `outputs`, and `next_stage4_queue`, `next_stage4_filled`. A stream begins with a state of zeros. Where a model of
    your own has several inputs or outputs, they are named as in the model: by their layers, or the keys of a dict.

    What is written computes in float32, with the weights of the model: also where the model computes in another
    precision. What LoRA adds is part of them, and int8 stays int8. The model's labels and protocol go with it as JSON:
    in the metadata "labels" and "protocol" of an ONNX file, in `assets.extra/videoswin.json` of a SavedModel.

    Args:
        model: A model of this library, one made of Keras's layers around such a model, or the `.keras` file of one.
        path: What to write: a file for ONNX, a folder for a SavedModel. It is replaced only by an export that was
            run and gave what the model gives.
        format: "onnx" or "tf_saved_model". Default: "onnx" if `path` ends in .onnx, the other if it has no ending.

    Returns:
        What was measured: "inputs" and "outputs" with their shapes and dtypes, and the largest "difference" from the
        model in float32, on TensorFlow, over three steps (relative to the largest value where that is over one). And
        "computes_in", the dtype policy of the model itself, such as "float32" or "mixed_bfloat16"; and the "labels" and
        the "protocol" of the model, as far as it has them.

    Raises:
        ValueError: if the format is neither, or the export does not give what the model gives.
        FileNotFoundError: if there is no such file.
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
        source = Path(folder) / "model.keras"
        if isinstance(model, keras.Model):
            with _not_compiled(model):
                model.save(source)
        else:
            shutil.copyfile(model, source)
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


@contextlib.contextmanager
def _not_compiled(model: keras.Model) -> Iterator[None]:
    """Within, `model` is saved without its optimizer's, loss's and metrics' configurations, which may be unknown."""
    compiled = [layer for layer in model._flatten_layers() if getattr(layer, "compiled", False)]
    for part in compiled:
        part.compiled = False
    try:
        yield
    finally:
        for part in compiled:
            part.compiled = True


def _in_tensorflow(source: Path, path: Path, format: str) -> dict[str, Any]:
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "videoswin_keras.export", str(source), str(path), format]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        message = (result.stderr.strip().splitlines() or ["no message"])[-1]
        if result.returncode < 0:
            message = f"its process was stopped by signal {-result.returncode}. Is there enough memory?"
        if unknown := re.search("Could not locate (class|function) '(.*?)'", message):
            message = (
                f"the model has a {unknown[1]} of your own in it, {unknown[2]}. It must be of layers and functions of "
                "Keras and of this library."
            )
        raise ValueError(f"The export failed: {message}")
    return json.loads(result.stdout.splitlines()[-1])


# --- in the process of its own: Keras runs on TensorFlow there ---------------------------------------------------


def _worker(source: str, path: str, format: str) -> None:
    import tensorflow as tf

    model: Any = keras.models.load_model(source, compile=False)
    has_memory = hasattr(model, "step_model")  # a `RecurrentVideoSwin`
    _check(model, format)
    computes_in, known = _precision(model), _known(model)
    if computes_in != "float32":
        model = _in_float32(model)
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs)
    step = model.step_model() if has_memory else model
    names = ["clip"] if len(step.inputs) == 1 else [re.sub(r"\W", "_", tensor.name) for tensor in step.inputs]
    signature = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name) for tensor, name in zip(step.inputs, names, strict=True)
    ]
    states = names[1:] if has_memory else []
    output_names = ["outputs", *(f"next_{name}" for name in states)] if has_memory else _output_names(step)

    def call(*inputs: Any) -> dict[str, Any]:
        outputs = step(keras.tree.pack_sequence_as(step.input, inputs), training=False)
        return dict(zip(output_names, keras.tree.flatten(outputs), strict=True))

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
        graph.graph.output.extend(by_name[name] for name in output_names)
        onnx.helper.set_model_props(graph, {name: json.dumps(value) for name, value in known.items()})
        onnx.save(graph, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return dict(zip(output_names, session.run(output_names, inputs), strict=True))
    else:

        def serve(*inputs: Any) -> Any:  # what Keras's own exports have
            outputs = function(*inputs)
            return keras.tree.pack_sequence_as(step.output, [outputs[name] for name in output_names])

        module = tf.Module()
        module.model = step
        module.serve = tf.function(serve, input_signature=signature)
        tf.saved_model.save(module, path, signatures=function)
        if known:
            extra = Path(path) / "assets.extra"  # TensorFlow's name for what it does not read
            extra.mkdir()
            (extra / "videoswin.json").write_text(json.dumps(known), encoding="utf-8")
        loaded = tf.saved_model.load(path).signatures["serving_default"]

        def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            tensors = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
            return {name: value.numpy() for name, value in loaded(**tensors).items()}

    has_pixels = any(isinstance(layer, PixelNormalization) for layer in model._flatten_layers())
    difference = _difference(call, run, signature, states, (0, 255) if has_pixels else (-2, 2))
    if not difference <= TOLERANCE:
        raise ValueError(f"what was written differs from the model by {difference:.1e}, more than {TOLERANCE:.0e}.")
    given = function.get_concrete_function().structured_outputs
    report = {
        "inputs": {spec.name: [list(spec.shape), spec.dtype.name] for spec in signature},
        "outputs": {name: [list(given[name].shape), given[name].dtype.name] for name in output_names},
        "difference": difference,
        "computes_in": computes_in,
        **known,
    }
    print(json.dumps(report))


def _known(model: Any) -> dict[str, Any]:
    """Returns the labels and the protocol of a model, as far as it has them, as JSON values."""
    labels, protocol = (getattr(model, name, None) for name in ("labels", "protocol"))
    known = {"labels": labels and list(labels), "protocol": protocol and asdict(protocol)}
    return {name: value for name, value in known.items() if value}


def _check(model: Any, format: str) -> None:
    layers = list(model._flatten_layers())
    if not any(isinstance(layer, VideoSwinStage) for layer in layers):
        sys.exit(f"the file holds a {type(model).__name__} without a Video Swin in it.")
    if not model.built:
        sys.exit(f"the {type(model).__name__} has no inputs yet: begin it with `keras.Input(shape)`.")
    if format == "onnx" and any(hasattr(layer, "step_model") for layer in layers[1:]):
        sys.exit(
            "sequences of clips cannot be written as ONNX: export a SavedModel, or the model with the memory alone."
        )
    if format == "onnx" and any(layer.quantization_mode == "float8" for layer in layers):
        sys.exit("float8 cannot be written as ONNX: export a SavedModel, or the model before `quantize`.")


def _precision(model: keras.Model) -> str:
    """Returns the names of all dtype policies that are not float32; "float32" where there are none."""
    names = set()
    for layer in model._flatten_layers():
        if {layer.compute_dtype, layer.variable_dtype} & OTHER_DTYPES:
            is_mixed = layer.compute_dtype != layer.variable_dtype
            names.add(f"mixed_{layer.compute_dtype}" if is_mixed else layer.compute_dtype)
    return " and ".join(sorted(names)) or "float32"


def _in_float32(model: keras.Model) -> Any:
    """Returns the same model with the same weights, every layer of which computes in float32."""

    def widened(config: Any) -> Any:
        if isinstance(config, dict):
            return {key: widened(value) for key, value in config.items()}
        if isinstance(config, list | tuple):
            return type(config)(map(widened, config))
        return "float32" if isinstance(config, str) and config in OTHER_DTYPES else config

    wide = keras.saving.deserialize_keras_object(widened(keras.saving.serialize_keras_object(model)))
    for variable, value in zip(wide.weights, model.weights, strict=True):
        variable.assign(ops.cast(value, variable.dtype))
    return wide


def _output_names(model: keras.Model) -> list[str]:
    if len(model.outputs) == 1:
        return ["outputs"]
    names = model.output_names
    if isinstance(model.output, dict):
        names = ["_".join(map(str, path)) for path, _ in keras.tree.flatten_with_path(model.output)]
    return names if len({*names}) == len(names) else [f"{name}_{index}" for index, name in enumerate(names)]


def _difference(model: Any, exported: Any, signature: list[Any], states: list[str], pixels: tuple[int, int]) -> float:
    """Returns how far outputs and states are apart over three steps, of clips as small as the model takes."""
    rng = np.random.default_rng(0)

    def drawn(spec: Any) -> np.ndarray:
        is_clip = len(spec.shape) >= 5
        smallest = (*[2] * (len(spec.shape) - 4), 8, 64, 64, 0) if is_clip else [2] * len(spec.shape)
        shape = [side or small for side, small in zip(spec.shape, smallest, strict=True)]
        return rng.uniform(*(pixels if is_clip else (0, 1)), shape).astype(spec.dtype.name)

    of_model = of_exported = {
        spec.name: np.zeros([side or 2 for side in spec.shape], spec.dtype.name)
        for spec in signature
        if spec.name in states
    }
    largest = 0.0
    for _ in range(3):
        inputs = {spec.name: drawn(spec) for spec in signature}
        one = {name: np.asarray(value) for name, value in model(*{**inputs, **of_model}.values()).items()}
        other = exported({**inputs, **of_exported})
        for name, value in one.items():
            difference = np.abs(value - other[name]).max() / max(1.0, np.abs(value).max())
            largest = float(np.maximum(largest, difference))  # which is no number where either is none
        of_model, of_exported = ({name: outputs[f"next_{name}"] for name in states} for outputs in (one, other))
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

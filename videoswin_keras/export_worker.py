"""What `export` runs in a process of its own, where Keras runs on TensorFlow: loads a model, writes it, compares.

Prints the report as JSON in the last line; what is wrong, in the last line of the errors.
"""

import contextlib
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras import kernels
from videoswin_keras.checkpoints.errors import CheckpointError
from videoswin_keras.export import UNREADABLE
from videoswin_keras.models import outputs
from videoswin_keras.models.pixels import takes_pixels
from videoswin_keras.models.saved import load_model
from videoswin_keras.nn.block import VideoSwinStage

TOLERANCE = 1e-4  # of outputs after three steps; of their largest value, where that is over one
OTHER_DTYPES = {"float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16"}  # and policies, than float32


def _worker(source: str, path: str, format: str) -> None:
    import tensorflow as tf

    try:
        model: Any = load_model(source)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        sys.exit(UNREADABLE)
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
    # A loop over chunks is slow in ONNX, and hard to read.
    with kernels.plain_only() if format == "onnx" else contextlib.nullcontext():
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

    difference = _difference(call, run, signature, states, (0, 255) if takes_pixels(model) else (-2, 2))
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
    """Returns labels, protocol and "multi_label" (where it is so) of a model, as far as it has them, as JSON values."""
    labels, protocol = (outputs.told(model, name) for name in ("labels", "protocol"))
    known = {"labels": labels and list(labels), "protocol": protocol and asdict(protocol)}
    with contextlib.suppress(ValueError):  # of a model without classes
        known["multi_label"] = outputs.is_multi_label(outputs.with_classes(model))
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
            return {key: value if key == "labels" else widened(value) for key, value in config.items()}
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

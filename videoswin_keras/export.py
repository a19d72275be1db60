"""Models for deployment, as ONNX or TensorFlow SavedModel; each is run and compared after it has been written.

A model with a memory becomes one step: the clip and the state go in, the outputs and the new state come out.

Imports no model: models export themselves with it. `export_worker` is what runs in the process of its own.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from videoswin_keras import optional
from videoswin_keras.atomic import folder_beside, replacing
from videoswin_keras.checkpoints.errors import CheckpointError

FORMATS = {"onnx": ("tensorflow", "tf2onnx", "onnxruntime"), "tf_saved_model": ("tensorflow",)}  # and what they need
UNREADABLE = 3  # exit code of the process that finds the file to be no model


# What is in the folder of a SavedModel.
_SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


def export(model: str | Path | keras.Model, path: str | Path, format: str | None = None) -> dict[str, Any]:
    """Writes a model for use without Keras, on any backend, by way of TensorFlow in a process of its own.

    Sides of a clip that vary for the model (None) vary for the export, and so does the batch. The inputs are `clip`,
    and for a model with a memory `stage4_queue` and `stage4_filled` (of every stage that has one); the outputs are
    `outputs`, and `next_stage4_queue`, `next_stage4_filled`. A stream begins with a state of zeros. Where a model of
    your own has several inputs or outputs, they are named as in the model: by their layers, or the keys of a dict.

    What is written computes in float32, with the weights of the model: also where the model computes in another
    precision. What LoRA adds is part of them, and int8 stays int8. The model's labels, its protocol and that it is
    multi-label go with it as JSON: in the metadata "labels", "protocol" and "multi_label" of an ONNX file, in
    `assets.extra/videoswin.json` of a SavedModel.

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
    if format == "tf_saved_model" and path.exists():
        others = {file.name for file in path.iterdir()} - _SAVED_MODEL if path.is_dir() else {path.name}
        if others or not (path / "saved_model.pb").is_file():
            raise FileExistsError(f"{path} is there, and is no SavedModel that could be replaced.")
    if not isinstance(model, keras.Model) and not Path(model).is_file():
        raise FileNotFoundError(f"There is no file {model}.")
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(model, keras.Model):
            source = Path(folder) / "model.keras"
            with _not_compiled(model):
                model.save(source)
        else:
            source = Path(model)
        if format == "onnx":
            with replacing(path) as temporary:
                return _in_tensorflow(source, temporary, format)
        # Beside `path`, so that it takes the place of an older one at once.
        with folder_beside(path) as beside:
            report = _in_tensorflow(source, beside / "new", format)
            if path.exists():
                os.replace(path, beside / "old")
            try:
                os.replace(beside / "new", path)
            except OSError:
                if (beside / "old").exists():
                    os.replace(beside / "old", path)
                raise
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
    environment["PYTHONIOENCODING"] = "utf-8:backslashreplace"  # whatever the locale is, and names are
    command = [sys.executable, "-m", "videoswin_keras.export_worker", str(source), str(path), format]
    result = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", errors="replace")
    if not result.returncode:
        return json.loads(result.stdout.splitlines()[-1])
    message = (result.stderr.strip().splitlines() or ["no message"])[-1]
    if own := re.search(r"it names (\S+), which is neither", message):
        message = f"the model has {own[1]} in it. It must be of layers and functions of Keras and of this library."
    elif result.returncode == UNREADABLE:
        raise CheckpointError(f"The export failed: {message}")
    elif result.returncode < 0:
        message = f"its process was stopped by signal {-result.returncode}. Is there enough memory?"
    raise ValueError(f"The export failed: {message}")

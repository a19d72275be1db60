"""Writes a checkpoint as the `.weights.h5` that Keras itself writes for this library's models.

No model has to be built for it.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from videoswin_keras.atomic import replacing
from videoswin_keras.checkpoints.claims import load_json, open_zip
from videoswin_keras.checkpoints.errors import CheckpointError, reading
from videoswin_keras.checkpoints.formats import Checkpoint
from videoswin_keras.checkpoints.layout import Architecture, Parameter, parameters, to_keras

METADATA = "videoswin_keras"  # attribute of the file: JSON, where the weights come from
_LARGEST = 2**16  # bytes of it, where it is not text of any length


def write(checkpoint: Checkpoint, path: str | Path, metadata: dict[str, Any]) -> None:
    """Writes `checkpoint`, which must be whole, to `path` by way of a temporary name.

    The file is made in memory: on a full disk HDF5 ends the process.
    """
    architecture, content = checkpoint.architecture, io.BytesIO()
    with h5py.File(content, "w") as file:
        for parameter in parameters(architecture):
            value = to_keras(parameter.key, checkpoint.state[parameter.key])
            file.create_dataset(_path(parameter, architecture), data=value)
        window = np.array(architecture.window_size, "int32")
        for i, depth in enumerate(architecture.depths):
            for j in range(depth):
                file[f"{_root(architecture)}/{_block(i, j)}/attention/vars/window_size"] = window
        for stage, _, length in architecture.memory:
            file[f"{_memory(stage, architecture)}/vars/memory_length"] = np.array(length, "int32")
        file.attrs[METADATA] = json.dumps(metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())
        _compare(checkpoint, temporary)


def _compare(checkpoint: Checkpoint, path: Path) -> None:
    """Reads back what was written, and raises CheckpointError if it is anything else than the checkpoint."""
    with h5py.File(path, "r") as file:
        for parameter in parameters(checkpoint.architecture):
            written = file[_path(parameter, checkpoint.architecture)][()]
            if written.dtype != "float32" or not np.array_equal(
                written, to_keras(parameter.key, checkpoint.state[parameter.key])
            ):
                raise CheckpointError(f"{parameter.key} is another after it was written. Is the disk sound?")


def add_metadata(path: str | Path, metadata: dict[str, Any]) -> None:
    """Adds to a `.keras` file what `write` records; Keras passes over it."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{METADATA}.json", json.dumps(metadata))


def metadata_of(checkpoint: Checkpoint) -> dict[str, str]:
    """Returns what is recorded of every checkpoint: its format, and its normalisation where that is not ImageNet's."""
    normalization = {"normalization": checkpoint.normalization} if checkpoint.normalization else {}
    return {"format": checkpoint.format, **normalization}


def read_metadata(path: str | Path) -> dict[str, str]:
    """Returns what `write` or `add_metadata` recorded about the weights; empty for files that have nothing of it.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    with reading(path):
        metadata: Any = {}
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                if METADATA in file.attrs:
                    if file.attrs.get_id(METADATA).get_storage_size() > _LARGEST:
                        raise CheckpointError(f"its attribute {METADATA} is of more than {_LARGEST} bytes")
                    metadata = json.loads(file.attrs[METADATA])
        elif zipfile.is_zipfile(path):
            with open_zip(Path(path)) as archive:
                if f"{METADATA}.json" in archive.namelist():
                    metadata = load_json(archive, f"{METADATA}.json")
        return {key: value for key, value in metadata.items() if isinstance(value, str)}


def _root(architecture: Architecture) -> str:
    has_parts = architecture.num_classes is not None or architecture.memory
    return f"{_top(architecture)}/video_swin_backbone/layers" if has_parts else "layers"


def _top(architecture: Architecture) -> str:
    """Where the head is: a model with a memory holds the one without it among its layers."""
    is_within = architecture.memory and architecture.num_classes is not None
    return "layers/video_swin_classifier/layers" if is_within else "layers"


def _memory(stage: int, architecture: Architecture) -> str:
    stages = [stage for stage, _, _ in architecture.memory]
    return f"layers/{_numbered('feedback_attention_memory', stages.index(stage))}"


def _numbered(name: str, index: int) -> str:
    return name if index == 0 else f"{name}_{index}"


def _block(stage: int, block: int) -> str:
    return f"{_numbered('video_swin_stage', stage)}/blocks/{_numbered('video_swin_block', block)}"


def _path(parameter: Parameter, architecture: Architecture) -> str:
    """Where Keras keeps a variable: the layers of a model by class and number, what is in them by attribute."""
    *attributes, variable = parameter.attributes.split(".")
    position = {"bias": 1, "beta": 1, "age_scale": 1, "tokens": 2}.get(variable, 0)
    if parameter.layer == "head":
        return f"{_top(architecture)}/dense/vars/{position}"
    if parameter.layer.startswith("memory"):
        where = _memory(int(parameter.layer.removeprefix("memory")), architecture)
        return "/".join([where, *attributes, "vars", str(position)])
    if parameter.layer.startswith("stage"):
        _, block, *attributes = attributes
        where = _block(int(parameter.layer.removeprefix("stage")) - 1, int(block))
    elif parameter.layer.startswith("merging"):
        where = _numbered("patch_merging", int(parameter.layer.removeprefix("merging")) - 1)
    else:
        where = {"norm": "layer_normalization"}.get(parameter.layer, parameter.layer)
    return "/".join([_root(architecture), where, *attributes, "vars", str(position)])

"""Writes a checkpoint as the `.weights.h5` that Keras itself writes for this library's models.

No model has to be built for it.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
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
_CHECKSUM = "videoswin_keras_sha256"  # attribute of the file: of its weights and of the other attribute
_LARGEST = 2**16  # bytes of it, where it is not text of any length


def write(checkpoint: Checkpoint, path: str | Path, metadata: dict[str, Any]) -> None:
    """Writes `checkpoint`, which must be whole, to `path` as `write_tensors` does."""
    architecture = checkpoint.architecture
    tensors = {
        _path(parameter, architecture): to_keras(parameter.key, checkpoint.state[parameter.key])
        for parameter in parameters(architecture)
    }
    for stage, depth in enumerate(architecture.depths):
        for i in range(depth):
            window = np.array(architecture.window_size, "int32")
            tensors[f"{_root(architecture)}/{_block(stage, i)}/attention/vars/window_size"] = window
    for stage, _, length in architecture.memory:
        tensors[f"{_memory(stage, architecture)}/vars/memory_length"] = np.array(length, "int32")
    write_tensors(tensors, path, metadata)


def write_tensors(tensors: Mapping[str, np.ndarray], path: str | Path, metadata: dict[str, Any]) -> None:
    """Writes tensors, which `files.read` returns as they are, by way of a temporary name, with metadata and a checksum.

    The file is made in memory: on a full disk HDF5 ends the process.

    Raises:
        CheckpointError: if something else is read back.
    """
    content, text = io.BytesIO(), json.dumps(metadata)
    with h5py.File(content, "w") as file:
        for name, value in tensors.items():
            file.create_dataset(name, data=value)
        file.attrs[METADATA], file.attrs[_CHECKSUM] = text, _checksum(tensors, text)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())
        _compare(tensors, temporary)


def _compare(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    with h5py.File(path, "r") as file:
        for name, value in tensors.items():
            written = file[name][()]
            if written.dtype != value.dtype or not np.array_equal(written, value):
                raise CheckpointError(f"{name} is another after it was written. Is the disk sound?")


def add_metadata(path: str | Path, metadata: dict[str, Any]) -> None:
    """Adds to a `.keras` file what `write` records; Keras passes over it.

    Such a file, which is a zip archive, needs no checksum: it has those of all of its members.
    """
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{METADATA}.json", json.dumps(metadata))


def check(path: str | Path, tensors: Mapping[str, np.ndarray]) -> bool:
    """Compares the tensors that were read from a file with the checksum in it; returns whether there is one.

    It finds what a disk, a network or a program changed in the file; who changes it on purpose can change both.

    Raises:
        CheckpointError: if the tensors are others than were written.
    """
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        checksum, text = _attribute(file, _CHECKSUM), _attribute(file, METADATA)
    if checksum and checksum != _checksum(tensors, text):
        raise CheckpointError("its weights are others than were written to it: it is damaged. Take another copy of it")
    return bool(checksum)


def _attribute(file: h5py.File, name: str) -> str:
    """Returns an attribute of a file as text; none if it is not there."""
    if name not in file.attrs:
        return ""
    if file.attrs.get_id(name).get_storage_size() > _LARGEST:
        raise CheckpointError(f"its attribute {name} is of more than {_LARGEST} bytes")
    return str(file.attrs[name])


def _checksum(tensors: Mapping[str, np.ndarray], text: str) -> str:
    """Returns the SHA-256 of tensors with their names, types and shapes, and of the text of the metadata."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        digest.update(f"\n{name} {value.dtype.str} {value.shape}\n".encode())
        digest.update(value.data)
    return digest.hexdigest()


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
                metadata = json.loads(_attribute(file, METADATA) or "{}")
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

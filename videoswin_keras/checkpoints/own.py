"""Writes a checkpoint as the `.weights.h5` that Keras itself writes for this library's models.

No model has to be built for it.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from videoswin_keras.atomic import replacing
from videoswin_keras.checkpoints import files
from videoswin_keras.checkpoints.errors import CheckpointError, reading
from videoswin_keras.checkpoints.formats import Checkpoint
from videoswin_keras.checkpoints.layout import Architecture, Parameter, parameters, to_keras

METADATA = "videoswin_keras"  # attribute of the file: JSON, where the weights come from
_LARGEST = 2**16  # bytes of it
_CHECKSUM = "videoswin_keras_sha256"  # attribute of the file: of its weights and of the other attribute


def write(checkpoint: Checkpoint, path: str | Path, metadata: dict[str, Any]) -> None:
    """Writes `checkpoint`, which must be whole and without a memory, to `path` by way of a temporary name."""
    weights = {
        _path(parameter, checkpoint.architecture): to_keras(parameter.key, checkpoint.state[parameter.key])
        for parameter in parameters(checkpoint.architecture)
    }
    window = np.array(checkpoint.architecture.window_size, "int32")
    blocks = [_block(stage, i) for stage, depth in enumerate(checkpoint.architecture.depths) for i in range(depth)]
    windows = {f"{_root(checkpoint.architecture)}/{block}/attention/vars/window_size": window for block in blocks}
    write_tensors(weights | windows, path, metadata)


def write_tensors(tensors: Mapping[str, np.ndarray], path: str | Path, metadata: dict[str, Any]) -> None:
    """Writes tensors, which `files.read` returns as they are, with metadata and a checksum.

    Raises:
        CheckpointError: if something else is read back.
    """
    with replacing(path) as temporary:
        with h5py.File(temporary, "w") as file:
            for name, value in tensors.items():
                file.create_dataset(name, data=value)
        _compare(tensors, temporary)
        add_metadata(temporary, metadata)


def _compare(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    with h5py.File(path, "r") as file:
        for name, value in tensors.items():
            written = file[name][()]
            if written.dtype != value.dtype or not np.array_equal(written, value):
                raise CheckpointError(f"{name} is another after it was written. Is the disk sound?")


def add_metadata(path: str | Path, metadata: dict[str, Any]) -> None:
    """Adds to a file that Keras wrote what `write_tensors` records, and Keras passes over.

    A `.keras` file, which is a zip archive, needs no checksum: it has those of all of its members.
    """
    text = json.dumps(metadata)
    if h5py.is_hdf5(path):
        checksum = _checksum(files.read(path), text)
        with h5py.File(path, "a") as file:
            file.attrs[METADATA], file.attrs[_CHECKSUM] = text, checksum
        return
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{METADATA}.json", text)


def check(path: str | Path, tensors: Mapping[str, np.ndarray]) -> bool:
    """Compares the tensors that were read from a file with the checksum in it; returns whether there is one.

    It finds what a disk, a network or a program changed in the file; who changes it on purpose can change both.

    Raises:
        CheckpointError: if the tensors are others than were written.
    """
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        checksum, text = (file.attrs.get(name) for name in (_CHECKSUM, METADATA))
    if checksum not in (None, _checksum(tensors, str(text))):
        raise CheckpointError("its weights are others than were written to it: it is damaged. Take another copy of it")
    return checksum is not None


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
        text: Any = "{}"
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                text = file.attrs.get(METADATA, text)
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                member = archive.NameToInfo.get(f"{METADATA}.json")
                if member is not None and member.file_size <= _LARGEST:
                    text = archive.read(member)
        metadata = json.loads(text)
        return {key: value for key, value in metadata.items() if isinstance(value, str)}


def _root(architecture: Architecture) -> str:
    return "layers" if architecture.num_classes is None else "layers/video_swin_backbone/layers"


def _numbered(name: str, index: int) -> str:
    return name if index == 0 else f"{name}_{index}"


def _block(stage: int, block: int) -> str:
    return f"{_numbered('video_swin_stage', stage)}/blocks/{_numbered('video_swin_block', block)}"


def _path(parameter: Parameter, architecture: Architecture) -> str:
    """Where Keras keeps a variable: the layers of a model by class and number, what is in them by attribute."""
    *attributes, variable = parameter.attributes.split(".")
    position = 1 if variable in ("bias", "beta") else 0
    if parameter.layer == "head":
        return f"layers/dense/vars/{position}"
    if parameter.layer.startswith("stage"):
        _, block, *attributes = attributes
        where = _block(int(parameter.layer.removeprefix("stage")) - 1, int(block))
    elif parameter.layer.startswith("merging"):
        where = _numbered("patch_merging", int(parameter.layer.removeprefix("merging")) - 1)
    else:
        where = {"norm": "layer_normalization"}.get(parameter.layer, parameter.layer)
    return "/".join([_root(architecture), where, *attributes, "vars", str(position)])

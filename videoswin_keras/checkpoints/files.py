"""Reads the tensors of a checkpoint file, whatever its container. A file is untrusted: nothing in it is run."""

import io
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np

from videoswin_keras import optional
from videoswin_keras.checkpoints import unpickling
from videoswin_keras.checkpoints.errors import CheckpointError
from videoswin_keras.checkpoints.unpickling import Array

# A dataset or archive that claims more than this many times what is stored of it is a bomb, not weights.
_LARGEST_EXPANSION = 100
_SMALL = 2**24  # bytes that anything may claim


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Returns every tensor of the checkpoint file at `path`, by name, as numpy arrays.

    Containers are told by their content: PyTorch (zip and older), safetensors, HDF5, `.keras`, PaddlePaddle's
    pickle. Where a PyTorch file holds more than weights (`{"state_dict": …, "optimizer": …}`), only the weights
    are returned. Floating values become float32.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is empty, truncated, of another kind, or a pickle that names anything but arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint file at {path}. Is the path right, and is it a file?")
    try:
        tensors = _reader(path)(path)
    except (CheckpointError, ImportError):
        raise
    except Exception as error:  # a damaged file can fail anywhere in its reader
        raise CheckpointError(
            f"{path} is not a readable checkpoint: {_first_line(error)} Is the file complete?"
        ) from error
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors.")
    return {name: _as_float32(value) for name, value in tensors.items()}


def check_reader(name: str) -> None:
    """Checks that what reads a file of this name is installed, before the file is downloaded.

    Raises:
        ImportError: if it is not.
    """
    ending = PurePosixPath(name).suffix
    needs = {".pth": ["torch"], ".pt": ["torch"], ".safetensors": ["safetensors"]}.get(ending, [])
    optional.require(f"Reading a {ending} file, as {name},", needs)


def _reader(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise CheckpointError(f"{path} is empty.")
    if start.startswith(b"\x89HDF"):
        return _read_hdf5
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            return _read_keras if "model.weights.h5" in archive.namelist() else _read_torch
    if path.suffix == ".pdparams":
        return _read_paddle
    if start[8:9] == b"{":
        return _read_safetensors
    if start.startswith(b"\x80"):
        return _read_torch
    raise CheckpointError(
        f"{path} is not a checkpoint: expected a PyTorch .pth, a .safetensors, a .weights.h5, a .keras or a "
        f".pdparams file; it starts with {start[:8]!r}."
    )


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    with optional.needed(f"Reading the PyTorch file {path}", "torch"):
        import torch
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        raise ImportError(f"Reading {path} safely needs PyTorch 2.6 or newer, this is {torch.__version__}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle protocol: it is read, or refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it asks for {asked[1]}" if asked else "PyTorch's reader of plain tensors does not take it"
        raise _refused(path, f"{reason}. If it is a whole PyTorch model, save `model.state_dict()`") from error
    return {
        name: value.detach().cpu().float().numpy() if value.is_floating_point() else value.cpu().numpy()
        for name, value in _weights(content, path, torch.Tensor).items()
    }


def _weights(content: Any, path: Path, tensor: type) -> dict[str, Any]:
    """Finds the mapping of names to tensors in a PyTorch file, one level down at most."""
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a mapping from names to tensors.")
    others = [f"{name} ({type(value).__name__})" for name, value in content.items() if not isinstance(value, tensor)]
    if others:
        raise CheckpointError(f"{path}: among the weights are things that are no tensors: {', '.join(others[:10])}.")
    names = [str(name).removeprefix("module.") for name in content]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise CheckpointError(f"{path} holds some tensors twice, with and without `module.`: {', '.join(twice[:10])}.")
    return dict(zip(names, content.values(), strict=True))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with optional.needed(f"Reading {path}", "safetensors"):
        from safetensors.numpy import load_file
    return load_file(path)


def _read_hdf5(path: Path | io.BytesIO) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer/"):
            return
        if item.external or item.is_virtual:
            raise CheckpointError(f"{name} lies in another file: it was refused.")
        _check_expansion(name, item.nbytes, item.id.get_storage_size())
        tensors[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return tensors


def _read_keras(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        weights = archive.getinfo("model.weights.h5")
        _check_expansion(weights.filename, weights.file_size, weights.compress_size)
        return _read_hdf5(io.BytesIO(archive.read(weights)))


def _check_expansion(name: str, claimed: int, stored: int) -> None:
    if claimed > max(_SMALL, _LARGEST_EXPANSION * stored):
        raise CheckpointError(f"{name} claims {claimed} bytes, of which the file holds {stored}: it was refused.")


def _read_paddle(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            content = unpickling.load(file)
    except pickle.UnpicklingError as error:
        raise _refused(path, _first_line(error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a mapping from names to arrays.")
    content.pop("StructuredToParameterName@@", None)  # Paddle's own table of names
    # Newer versions write a tensor as the pair (name, array).
    content = {
        name: value[1] if isinstance(value, tuple) and len(value) == 2 else value for name, value in content.items()
    }
    others = [f"{name} ({type(value).__name__})" for name, value in content.items() if not isinstance(value, Array)]
    if others:
        raise CheckpointError(f"{path}: among the weights are things that are no arrays: {', '.join(others[:10])}.")
    return {name: value.value for name, value in content.items()}


def _as_float32(value: np.ndarray) -> np.ndarray:
    return value.astype("float32") if np.issubdtype(value.dtype, np.floating) else value


def _refused(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} was refused: a checkpoint is read without running anything in it, and this one holds more than "
        f"tensors or is damaged ({reason})."
    )


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if text.endswith(".") else text + "."

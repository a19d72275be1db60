"""Reads the tensors of a checkpoint file, whatever its container. A file is untrusted: nothing in it is run."""

import io
import pickle
import warnings
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from videoswin_keras import optional
from videoswin_keras.checkpoints import entries, unpickling
from videoswin_keras.checkpoints.errors import CheckpointError

# A dataset or archive that claims more than this many times what is stored of it is a bomb, not weights.
_LARGEST_EXPANSION = 100
_SMALL = 2**24  # bytes that anything may claim
# What safetensors calls the types that numpy has, and those of ml_dtypes, which its own reader does not all know.
_SAFETENSORS = {
    **{f"{kind}{size}": f"<{kind.lower()}{size // 8}" for kind in "FIU" for size in (16, 32, 64)},
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


def read(path: str | Path, key: str | None = None) -> dict[str, np.ndarray]:
    """Returns every tensor of a model in a checkpoint file, by name, as numpy arrays.

    Containers are told by their content: PyTorch (zip and older), safetensors, HDF5, `.keras`, PaddlePaddle's
    pickle. Where a file holds more than weights (`{"state_dict": …, "optimizer": …}`), only the weights are returned;
    a prefix that all keys share (`module.`) is left away. Floating values of every width become float32; PaddlePaddle's
    uint16 are bfloat16.

    Args:
        path: The file.
        key: The entry or the prefix of the weights to take, where there are several.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is empty, truncated, of another kind, a pickle that names anything but arrays where the
            weights are, or holds several models and `key` names none of them.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint file at {path}. Is the path right, and is it a file?")
    try:
        reader = _reader(path)
        if reader in (_read_torch, _read_paddle):
            content, tensor = reader(path)
            tensors, is_told = entries.weights_of(content, tensor, key)
            key = None if is_told else key
            if reader is _read_torch:
                claimed = sum(value.numel() for value in tensors.values()) * 4
                _check_expansion("the file", claimed, path.stat().st_size)
        else:
            tensors = reader(path)
        tensors = entries.one_model(tensors, key)
        if not tensors:
            raise CheckpointError("it holds no tensors")
        return {name: _as_float32(name, value) for name, value in tensors.items()}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}.") from error
    except ImportError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in its reader
        raise CheckpointError(
            f"{path} is not a readable checkpoint: {_first_line(error)} Is the file complete?"
        ) from error


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
        raise CheckpointError("it is empty")
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
        "it is not a checkpoint: expected a PyTorch .pth, a .safetensors, a .weights.h5, a .keras or a .pdparams file; "
        f"it starts with {start[:8]!r}"
    )


def _read_torch(path: Path) -> tuple[Any, type]:
    """Returns what a PyTorch file holds, and the class of its tensors.

    PyTorch's own reader refuses a file with anything but tensors and plain containers in it. Where there is more, a
    second one leaves stand-ins in the place of all else.
    """
    with optional.needed(f"Reading the PyTorch file {path}", "torch"):
        import torch
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        raise ImportError(f"Reading {path} safely needs PyTorch 2.6 or newer, this is {torch.__version__}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an unusual pickle protocol: it is read, or refused below
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            try:
                content = torch.load(
                    path, map_location="cpu", weights_only=False, pickle_module=unpickling.of_torch(torch)
                )
            except pickle.UnpicklingError as error:
                raise CheckpointError(_refused(_first_line(error).rstrip("."))) from error
    if isinstance(content, unpickling.StandIn):
        reason = f"it asks for {content.what}. If it is a whole PyTorch model, save `model.state_dict()`"
        raise CheckpointError(_refused(reason))
    return content, torch.Tensor


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with optional.needed(f"Reading {path}", "safetensors"):
        from safetensors import deserialize
    tensors = {}
    for name, tensor in deserialize(path.read_bytes()):
        if (code := tensor["dtype"]) not in _SAFETENSORS:
            raise CheckpointError(f"{name} is of {code}, which are no numbers that can be read")
        tensors[name] = np.frombuffer(tensor["data"], _SAFETENSORS[code]).reshape(tensor["shape"])
    return tensors


def _read_hdf5(path: Path | io.BytesIO) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer/"):
            return
        if item.external or item.is_virtual:
            raise CheckpointError(f"{name} lies in another file: it was refused")
        _check_expansion(name, item.nbytes, item.id.get_storage_size())
        if item.dtype.kind == "V" and item.attrs.get("dtype") == "bfloat16" and item.dtype.itemsize == 2:  # of Keras
            tensors[name] = np.asarray(item[()]).view(ml_dtypes.bfloat16)
        elif item.dtype.kind in "fbiuc":
            tensors[name] = np.asarray(item[()])
        else:
            raise CheckpointError(f"{name} is of {item.dtype}, which are no numbers")

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
        raise CheckpointError(f"{name} claims {claimed} bytes, of which the file holds {stored}: it was refused")


def _read_paddle(path: Path) -> tuple[Any, type]:
    try:
        with path.open("rb") as file:
            content = unpickling.load(file)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refused(_first_line(error).rstrip("."))) from error
    if isinstance(content, dict):
        content.pop("StructuredToParameterName@@", None)  # Paddle's own table of names
        for name, value in content.items():
            if isinstance(value, tuple) and len(value) == 2:  # newer versions write a tensor as (name, array)
                content[name] = value[1]
    return content, unpickling.Array


def _as_float32(name: str, value: Any) -> np.ndarray:
    """Returns a tensor of any reader as an array: float32 where it is of floating-point numbers of any width."""
    if isinstance(value, unpickling.Array):
        value = value.value
        if value.dtype == np.uint16:  # as PaddlePaddle writes bfloat16
            value = value.view(ml_dtypes.bfloat16)
    elif not isinstance(value, np.ndarray):  # PyTorch's
        if value.is_quantized or value.layout.__repr__() != "torch.strided":
            raise CheckpointError(f"{name} is a quantised or sparse tensor: save its plain values")
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    is_floating = value.dtype.kind == "f" or value.dtype.name.startswith(("bfloat", "float"))
    if not is_floating and value.dtype.kind not in "biuc":
        raise CheckpointError(f"{name} is of {value.dtype}, which are no numbers")
    return value.astype("float32") if is_floating else value


def _refused(reason: str) -> str:
    return (
        "it was refused: a checkpoint is read without running anything in it, and this one holds more than tensors or "
        f"is damaged ({reason})"
    )


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if text.endswith(".") else text + "."

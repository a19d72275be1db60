"""Reads the tensors of a checkpoint file, whatever its container. A file is untrusted: nothing in it is run."""

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from videoswin_keras import optional
from videoswin_keras.checkpoints import entries, unpickling
from videoswin_keras.checkpoints.errors import CheckpointError, first_line, reading

# A dataset or archive that claims more than this many times what is stored of it is a bomb, not weights.
_LARGEST_EXPANSION = 100
_SMALL = 2**24  # bytes that anything may claim
_MAGIC_OF_TORCH = bytes.fromhex("6cfc9c46f9206aa85019")  # at the start of a file of before PyTorch 1.6
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"  # in a `.keras` file
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
    with reading(path):
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


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Returns the configuration in a `.keras` file, and the name and shape of every weight in it; reads no weight.

    Raises:
        CheckpointError: if it is no such file, or its members or weights claim more than the file can hold.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if lacking := {_CONFIG, _WEIGHTS} - {member.filename for member in members}:
            raise CheckpointError(f"it is no whole model: it has no {' and no '.join(sorted(lacking))}")
        for member in members:
            _check_expansion(member.filename, member.file_size, member.compress_size)
        _check_expansion("the file", sum(member.file_size for member in members), path.stat().st_size)
        if archive.getinfo(_CONFIG).file_size > _SMALL:
            raise CheckpointError(f"its {_CONFIG} is of more than {_SMALL} bytes: it was refused")
        config = json.loads(archive.read(_CONFIG))
        if not isinstance(config, dict):
            raise CheckpointError(f"its {_CONFIG} holds a {type(config).__name__}, not a configuration")
        with h5py.File(io.BytesIO(archive.read(_WEIGHTS)), "r") as file:
            return config, {name: item.shape for name, item in _datasets(file)}


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
        start = file.read(512)
    if not start:
        raise CheckpointError("it is empty. Was its download cut off?")
    if start.startswith(b"\x89HDF"):
        return _read_hdf5
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            return _reader_of_zip(archive.namelist())
    what = _what_is(start, path.suffix)
    if path.suffix == ".pdparams" and what is None:
        return _read_paddle
    if start[8:9] == b"{":
        return _read_safetensors
    if start.startswith(b"\x80") and _MAGIC_OF_TORCH in start:
        return _read_torch
    if start.startswith(b"\x80"):
        what = "it is a pickle, and not of PyTorch; one of PaddlePaddle must be named *.pdparams"
    what = what or f"it starts with {start[:8]!r}"
    raise CheckpointError(
        "it is not a checkpoint: expected a PyTorch .pth, a .safetensors, a .weights.h5, a .keras or a .pdparams file; "
        f"{what}"
    )


def _reader_of_zip(names: list[str]) -> Any:
    if _WEIGHTS in names:
        return _read_keras
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            "it is a TorchScript program, and programs are not run: where it is trusted, "
            "`torch.save(torch.jit.load(path).state_dict(), new_path)` saves its weights"
        )
    if any(name.endswith("data.pkl") for name in names):
        return _read_torch
    raise CheckpointError(
        f"it is a zip archive of something else ({', '.join(names[:3]) or 'nothing'}): if the checkpoint is in it, "
        "unpack it first"
    )


def _what_is(start: bytes, ending: str) -> str | None:
    """Returns what a file is that is often found in the place of a checkpoint, and what to do."""
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is a web page, such as that of an error or a login: download the file itself"
    if text.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS to the file, which `git lfs pull` fetches"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")) or start[257:262] == b"ustar":
        return "it is a packed archive: if the checkpoint is in it, unpack it first"
    if ending == ".onnx" or (start[:1] == b"\x08" and start[2:3] == b"\x12"):
        return "it is an ONNX model, in which weights have no names: take the checkpoint that it was made of"
    return None


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
                raise CheckpointError(_refused(first_line(error).rstrip("."))) from error
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
    with h5py.File(path, "r") as file:
        return {name: _numbers(item) for name, item in _datasets(file)}


def _datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yields the weights in a file and their names, after a check of all that the file says of them."""
    if "model_weights" in file or {"model_config", "layer_names"} & set(file.attrs):
        raise CheckpointError(
            "it is in the older HDF5 format of Keras: load it with the Keras and the code that it was made with, and "
            'save it again, with `model.save("model.keras")` or `model.save_weights("model.weights.h5")`'
        )
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group):
            for part in item:
                if not isinstance(item.get(part, getlink=True), h5py.HardLink):
                    raise CheckpointError(f"{name}/{part} is a link to another place: it was refused")
        elif isinstance(item, h5py.Dataset) and not name.startswith("optimizer/"):
            _check_dataset(name, item)
            found[name] = item

    visit("", file)
    file.visititems(visit)
    claimed, stored = (
        sum(part) for part in ([i.nbytes for i in found.values()], [i.id.get_storage_size() for i in found.values()])
    )
    _check_expansion("the file", claimed, stored)
    yield from found.items()


def _check_dataset(name: str, item: h5py.Dataset) -> None:
    if item.external or item.is_virtual:
        raise CheckpointError(f"{name} lies in another file: it was refused")
    if item.shape is None:
        raise CheckpointError(f"{name} holds nothing")
    is_number = item.dtype.kind in "fbiu" and h5py.check_enum_dtype(item.dtype) is None
    if not is_number and not _is_bfloat16(item):
        raise CheckpointError(f"{name} is of {item.dtype}, which are no numbers")
    _check_expansion(name, item.nbytes, item.id.get_storage_size())


def _is_bfloat16(item: h5py.Dataset) -> bool:
    """Whether these are what Keras writes of bfloat16."""
    return item.dtype.kind == "V" and item.dtype.itemsize == 2 and item.attrs.get("dtype") == "bfloat16"


def _numbers(item: h5py.Dataset) -> np.ndarray:
    values = np.asarray(item[()])
    return values.view(ml_dtypes.bfloat16) if _is_bfloat16(item) else values


def _read_keras(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        weights = archive.getinfo(_WEIGHTS)
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
        raise CheckpointError(_refused(first_line(error).rstrip("."))) from error
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

"""Reads the tensors of a checkpoint file, whatever its container. A file is untrusted: nothing in it is run."""

import contextlib
import io
import json
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from videoswin_keras import optional
from videoswin_keras.checkpoints import entries, pytorch, unpickling
from videoswin_keras.checkpoints.claims import MOST_TEXT, Tensor, check_tensors, load_json, open_zip
from videoswin_keras.checkpoints.errors import CheckpointError, first_line, reading

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"  # in a `.keras` file
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
_LARGEST_CHUNK = 2**20  # bytes of a chunk that is larger than the dataset that is stored in it
_DEPTH = 64  # groups in groups of an HDF5 file
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
    with reading(path), contextlib.ExitStack() as stack:
        reader = _reader(path)
        content = stack.enter_context(reader(path))
        if reader in (_open_torch, _open_paddle):
            content, is_told = entries.weights_of(content, Tensor, key)
            key = None if is_told else key
        tensors = entries.one_model(content, key)
        if not tensors:
            raise CheckpointError("it holds no tensors")
        check_tensors(tensors, path.stat().st_size)
        return {name: _numbers(name, tensor) for name, tensor in tensors.items()}


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Returns the configuration in a `.keras` file, and the name and shape of every weight in it; reads no weight.

    Raises:
        CheckpointError: if it is no such file, or its members or weights claim more than the file can hold.
    """
    with open_zip(path) as archive:
        if lacking := {_CONFIG, _WEIGHTS} - {*archive.namelist()}:
            raise CheckpointError(f"it is no whole model: it has no {' and no '.join(sorted(lacking))}")
        config = load_json(archive, _CONFIG)
        if not isinstance(config, dict):
            raise CheckpointError(f"its {_CONFIG} holds a {type(config).__name__}, not a configuration")
        with _open_hdf5(io.BytesIO(archive.read(_WEIGHTS))) as tensors:
            check_tensors(tensors, path.stat().st_size)
            return config, {name: tensor.shape for name, tensor in tensors.items()}


def check_reader(name: str) -> None:
    """Checks that what reads a file of this name is installed, before the file is downloaded.

    Raises:
        ImportError: if it is not.
    """
    ending = PurePosixPath(name).suffix
    optional.require(f"Reading a {ending} file, as {name},", ["safetensors"] if ending == ".safetensors" else [])


def _reader(path: Path) -> Callable[[Path], AbstractContextManager[Any]]:
    """Returns what yields the content of a file, in which each tensor is a `Tensor`, as long as it is open."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise CheckpointError("it is empty. Was its download cut off?")
    if start.startswith(b"\x89HDF"):
        return _open_hdf5
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            return _reader_of_zip(archive.namelist())
    what = _what_is(start, path.suffix)
    if path.suffix == ".pdparams" and what is None:
        return _open_paddle
    if start[8:9] == b"{":
        return _open_safetensors
    if start.startswith(b"\x80") and pytorch.MAGIC in start:
        return _open_torch
    if start.startswith(b"\x80"):
        what = "it is a pickle, and not of PyTorch; one of PaddlePaddle must be named *.pdparams"
    what = what or f"it starts with {start[:8]!r}"
    raise CheckpointError(
        "it is not a checkpoint: expected a PyTorch .pth, a .safetensors, a .weights.h5, a .keras or a .pdparams file; "
        f"{what}"
    )


def _reader_of_zip(names: list[str]) -> Callable[[Path], AbstractContextManager[Any]]:
    if _WEIGHTS in names:
        return _open_keras
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            "it is a TorchScript program, and programs are not run: where it is trusted, "
            "`torch.save(torch.jit.load(path).state_dict(), new_path)` saves its weights"
        )
    if any(name.endswith("data.pkl") for name in names):
        return _open_torch
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


@contextlib.contextmanager
def _open_torch(path: Path) -> Iterator[Any]:
    with _refusals_explained(), pytorch.open_torch(path) as content:
        if isinstance(content, unpickling.StandIn):
            what = f"it asks for {content.what[:200]}. If it is a whole PyTorch model, save `model.state_dict()`"
            raise pickle.UnpicklingError(what)
        yield content


@contextlib.contextmanager
def _open_paddle(path: Path) -> Iterator[Any]:
    with _refusals_explained():
        with path.open("rb") as file:
            content = unpickling.load_arrays(file, path.stat().st_size)
        if isinstance(content, dict):
            content.pop("StructuredToParameterName@@", None)  # Paddle's own table of names
            for name, value in content.items():
                if isinstance(value, tuple) and len(value) == 2:  # newer versions write a tensor as (name, array)
                    content[name] = value[1]
        yield content


@contextlib.contextmanager
def _refusals_explained() -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refused(first_line(error).rstrip("."))) from error


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[dict[str, Tensor]]:
    with optional.needed(f"Reading {path}", "safetensors"):
        from safetensors import deserialize
    _check_safetensors(path)
    yield {name: _of_safetensors(name, tensor) for name, tensor in deserialize(path.read_bytes())}


def _check_safetensors(path: Path) -> None:
    """Raises CheckpointError, or ValueError, unless a file ends with the last of its tensors; before it is read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_TEXT:
            raise CheckpointError(f"its header is of more than {MOST_TEXT} bytes: it was refused")
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if 8 + length + max(ends, default=0) != path.stat().st_size:
        raise CheckpointError("its tensors do not end where it does: it is cut off, or longer than it says")


def _of_safetensors(name: str, tensor: dict[str, Any]) -> Tensor:
    if (code := tensor["dtype"]) not in _SAFETENSORS:
        raise CheckpointError(f"{name} is of {code}, which are no numbers that can be read")
    shape, dtype = tuple(tensor["shape"]), np.dtype(_SAFETENSORS[code])
    return Tensor(shape, dtype, lambda: np.frombuffer(bytearray(tensor["data"]), dtype).reshape(shape))


@contextlib.contextmanager
def _open_keras(path: Path) -> Iterator[dict[str, Tensor]]:
    with open_zip(path) as archive, _open_hdf5(io.BytesIO(archive.read(_WEIGHTS))) as tensors:
        yield tensors


@contextlib.contextmanager
def _open_hdf5(path: Path | io.BytesIO) -> Iterator[dict[str, Tensor]]:
    with h5py.File(path, "r") as file:
        if "model_weights" in file or {"model_config", "layer_names"} & set(file.attrs):
            raise CheckpointError(
                "it is in the older HDF5 format of Keras: load it with the Keras and the code that it was made with, "
                'and save it again, with `model.save("model.keras")` or `model.save_weights("model.weights.h5")`'
            )
        yield {name: _of_dataset(name, item) for name, item in _datasets(file, "", set())}


def _datasets(group: h5py.Group, path: str, seen: set[h5py.Group]) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yields the weights in a group and in those in it, each of which is entered once."""
    seen.add(group)
    for part in group:
        name = f"{path}{part}"
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise CheckpointError(f"{name} is a link to another place: it was refused")
        if name == "optimizer":
            continue
        item = group[part]
        if isinstance(item, h5py.Dataset):
            yield name, item
        elif isinstance(item, h5py.Group) and item not in seen:
            if name.count("/") >= _DEPTH:
                raise CheckpointError(f"it has groups in groups, more than {_DEPTH} deep: it was refused")
            yield from _datasets(item, f"{name}/", seen)


def _of_dataset(name: str, item: h5py.Dataset) -> Tensor:
    """Returns the tensor in a dataset, after a check of all that the file says of it."""
    if item.external or item.is_virtual:
        raise CheckpointError(f"{name} lies in another file: it was refused")
    if item.shape is None:
        raise CheckpointError(f"{name} holds nothing")
    dtype = ml_dtypes.bfloat16 if _is_bfloat16(item) else item.dtype
    if not _is_bfloat16(item) and (item.dtype.kind not in "fbiu" or h5py.check_enum_dtype(item.dtype) is not None):
        raise CheckpointError(f"{name} is of {item.dtype}, which are no numbers")
    settings = item.id.get_create_plist()
    if {settings.get_filter(index)[0] for index in range(settings.get_nfilters())} - _FILTERS:
        raise CheckpointError(f"{name} is packed in an unusual way: it was refused")
    if item.chunks and math.prod(item.chunks) * item.dtype.itemsize > max(item.nbytes, _LARGEST_CHUNK):
        raise CheckpointError(f"{name} claims to lie in pieces larger than it is: it was refused")
    return Tensor(item.shape, dtype, lambda: np.asarray(item[()]).view(dtype))


def _is_bfloat16(item: h5py.Dataset) -> bool:
    """Whether these are what Keras writes of bfloat16."""
    return item.dtype.kind == "V" and item.dtype.itemsize == 2 and item.attrs.get("dtype") == "bfloat16"


def _numbers(name: str, tensor: Tensor) -> np.ndarray:
    """Returns what a tensor holds: as float32 where it is of floating-point numbers of any width."""
    is_floating = tensor.dtype.kind == "f" or tensor.dtype.name.startswith(("bfloat", "float"))
    if not is_floating and tensor.dtype.kind not in "biuc":
        raise CheckpointError(f"{name} is of {tensor.dtype}, which are no numbers")
    return tensor.read().astype("float32", copy=False) if is_floating else tensor.read()


def _refused(reason: str) -> str:
    return (
        "it was refused: a checkpoint is read without running anything in it, and this one holds more than tensors or "
        f"is damaged ({reason})"
    )

"""Reads the tensors of PyTorch's files, without PyTorch: its own readers take memory for whatever a file claims."""

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from videoswin_keras.checkpoints.claims import Budget, open_zip
from videoswin_keras.checkpoints.errors import CheckpointError
from videoswin_keras.checkpoints.unpickling import OBJECTS, TorchUnpickler

MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # at the start of a file of before PyTorch 1.6


@contextlib.contextmanager
def open_torch(path: Path) -> Iterator[Any]:
    """Yields what a file of `torch.save` holds, with a `Tensor` for each tensor, and a `StandIn` for each other object.

    Tensors can be read as long as the file is open; those that share their numbers go on sharing them.

    Raises:
        CheckpointError: if its objects take more than it can hold, or numbers of it are cut off.
        pickle.UnpicklingError: if it is damaged.
    """
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        with _opened_zip(path) as content:
            yield content
        return
    with path.open("rb") as file:
        yield _load_legacy(file, path.stat().st_size)


@contextlib.contextmanager
def _opened_zip(path: Path) -> Iterator[Any]:
    with open_zip(path) as archive:
        for member in archive.infolist():
            if member.CRC == 0:  # PyTorch can be set to compute none
                member.CRC = None  # type: ignore[assignment]
        pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        root = pickled.removesuffix("data.pkl")
        is_swapped = f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") == b"big"
        read: dict[str, np.ndarray] = {}

        def read_storage(key: str) -> np.ndarray:
            if key not in read:
                member = archive.getinfo(f"{root}data/{key}")
                read[key] = np.empty(member.file_size, "uint8")
                with archive.open(member) as file:
                    if file.readinto(read[key]) != member.file_size:  # type: ignore[attr-defined]
                        raise CheckpointError(f"the numbers {member.filename[:200]} are cut off")
                size = unpickler.storages[key].itemsize
                if is_swapped and size in (2, 4, 8):
                    read[key].view(f"u{size}").byteswap(inplace=True)
            return read[key]

        with archive.open(pickled) as file:
            size = archive.getinfo(pickled).file_size
            unpickler = TorchUnpickler(file, size, Budget(path.stat().st_size, OBJECTS), read_storage)  # type: ignore[arg-type]
            yield unpickler.load()


def _load_legacy(file: BinaryIO, size: int) -> Any:
    """Reads pickles one after the other: magic, protocol, system, content, names of storages; then their numbers."""
    spans: dict[str, tuple[int, int]] = {}  # of each storage: first byte, bytes
    read: dict[str, np.ndarray] = {}

    def read_storage(key: str) -> np.ndarray:
        if key not in read:
            start, length = spans[key]
            file.seek(start)
            read[key] = np.empty(length, "uint8")
            file.readinto(read[key])  # type: ignore[attr-defined]
        return read[key]

    unpickler = TorchUnpickler(file, size, Budget(size, OBJECTS), read_storage)
    *_, content, names = [unpickler.load() for _ in range(5)]
    if not isinstance(names, list):
        raise pickle.UnpicklingError("it does not name its numbers")
    for name in names:
        count, start = int.from_bytes(file.read(8), "little"), file.tell()
        length = count * unpickler.storages[name].itemsize
        if start + length > size:
            raise CheckpointError(f"the numbers {name[:200]} are cut off")
        spans[name] = start, length
        file.seek(start + length)
    return content

"""What an untrusted file says that it holds, and how much of that is believed, before memory is taken."""

import contextlib
import copy
import io
import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from videoswin_keras.checkpoints.errors import CheckpointError, first_line

# All that a file claims, in bytes. Honest weights take at most four times what is stored of them, as float32 that were
# saved in eight bits; compression of trained weights adds little. The largest published checkpoint, with its
# optimizer, has 2.5 GB.
EXPANSION = 16  # times the size of the file
SMALL = 2**24  # what even the smallest file may claim
MOST = 2**34
MOST_TEXT = 2**24  # of JSON: the configuration of a model has less than a tenth of it
_CHUNK = 2**20  # bytes read at a time


class Tensor:
    """A tensor of which nothing has been read.

    Attributes:
        shape, dtype: What the file says of it.
        read: Function that returns its numbers.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, read: Callable[[], np.ndarray]):
        self.shape, self.dtype, self.read = shape, np.dtype(dtype), read

    def __setstate__(self, _: Any) -> None:  # which a pickle can call
        raise pickle.UnpicklingError("it changes a tensor")


class Budget:
    """How many bytes the content of one file may take.

    Args:
        stored: Size of the file in bytes.
        least: Bytes that even the smallest file may take.
    """

    def __init__(self, stored: int, least: int = SMALL):
        self._stored, self._claimed = stored, 0
        self._limit = min(max(EXPANSION * stored, least), MOST)

    def take(self, name: str, claimed: int) -> None:
        """Counts what `name` claims to take.

        Raises:
            CheckpointError: if all that was counted is more than a file of this size can hold.
        """
        self._claimed += claimed
        if self._claimed > self._limit:
            raise CheckpointError(
                f"{name[:200]}, with what is before it, claims {self._claimed} bytes, of which the file holds "
                f"{self._stored}: it was refused"
            )


def check_tensors(tensors: dict[str, Tensor], stored: int) -> None:
    """Raises CheckpointError if all tensors together, as they are returned, claim more than a file can hold.

    Args:
        tensors: By name.
        stored: Size of the file in bytes.
    """
    budget = Budget(stored)
    for name, tensor in tensors.items():
        budget.take(name, math.prod(tensor.shape) * max(tensor.dtype.itemsize, 4))  # narrow numbers become float32


@contextlib.contextmanager
def open_zip(file: Path | IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """Opens a zip archive whose members can be read whole: they have the sizes that it states, within the budget.

    Raises:
        CheckpointError: if they have not.
    """
    with zipfile.ZipFile(file) as archive:
        assert archive.fp is not None  # it is open
        budget = Budget(os.fstat(archive.fp.fileno()).st_size)
        for member in archive.infolist():
            budget.take(member.filename, member.file_size)
        for member in archive.infolist():
            if member.compress_type == zipfile.ZIP_DEFLATED:
                _check_size(archive, member)
            elif member.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"{member.filename[:200]} in it is packed in an unusual way: it was refused")
        yield archive


def _check_size(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raises CheckpointError if a member inflates to another size than the archive states.

    Python stops at the stated size, after it has inflated more where all is read at once.
    """
    longer = copy.copy(member)
    longer.file_size += 1
    longer.CRC = None  # type: ignore[assignment]  # compared where it is read
    with archive.open(longer) as file:
        inflated = sum(len(chunk) for chunk in iter(lambda: file.read(_CHUNK), b""))
    if inflated != member.file_size:
        raise CheckpointError(f"{member.filename[:200]} in it is of another size than stated: it was refused")


def load_json(archive: zipfile.ZipFile, name: str) -> Any:
    """Returns the content of a JSON member.

    Raises:
        CheckpointError: if it is longer than any honest one.
        ValueError: if it is not JSON.
    """
    if archive.getinfo(name).file_size > MOST_TEXT:
        raise CheckpointError(f"its {name} is of more than {MOST_TEXT} bytes: it was refused")
    return json.loads(archive.read(name))


def read_npz(file: str | Path | IO[bytes]) -> dict[str, np.ndarray]:
    """Returns the arrays of an untrusted `.npz` file, by name, in little more memory than the file states and can hold.

    Raises:
        FileNotFoundError, PermissionError: if there is no such file, or it may not be read.
        ValueError: if it is no such file, is damaged, claims more than it can hold, or holds objects.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "state.npz"
    >>> np.savez(path, offset=3)
    >>> read_npz(path)
    {'offset': array(3)}
    """
    try:
        with open_zip(Path(file) if isinstance(file, str) else file) as archive:
            names = archive.namelist()
            return {name.removesuffix(".npy"): _array(archive.read(name)) for name in names}
    except (FileNotFoundError, PermissionError):
        raise
    except MemoryError as error:
        raise ValueError("it takes more memory than there is") from error
    except Exception as error:  # a changed byte can raise anything
        raise ValueError(f"it is no whole .npz file ({first_line(error)})") from error


def _array(content: bytes) -> np.ndarray:
    """Reads one `.npy`, after comparing the array that its header states with the bytes after it."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read_header(file)
    if min(shape, default=0) < 0 or math.prod(shape) * max(dtype.itemsize, 1) != len(content) - file.tell():
        raise ValueError(f"an array of shape {shape} and {dtype} is not what it holds")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)

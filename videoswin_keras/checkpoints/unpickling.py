"""Reads the tensors in a pickle without running anything that the pickle names.

A pickle is a program: it names functions and calls them with arguments of its choice, and even the constructors of
numpy and PyTorch do harm, or take all memory, with the wrong ones. So none of these is served. What the pickle calls
are stand-ins that keep the arguments; numbers are read afterwards, and only those that are asked for.
"""

import math
import pickle
import re
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from videoswin_keras.checkpoints.claims import Budget, Tensor
from videoswin_keras.checkpoints.errors import CheckpointError

_OPERATION = 100  # bytes that one operation of a pickle takes at most, beside those of the pickle itself
OBJECTS = 2**27  # bytes that the objects of the smallest file may take: losses of a million steps, for example
_SIDES = 64  # of a shape, as numpy has at most
_DEPTH, _PARTS = 2, 16  # of a key: tuples within tuples, and what each holds
_NO_CHANGE = "it changes what it calls"


class StandIn:
    """Stands in for an object that a pickle names: takes what the pickle does to it, and does nothing.

    Attributes:
        what: What the pickle names.
    """

    __slots__ = ("what",)

    def __init__(self, what: str):
        self.what = what

    def __call__(self, *_: Any, **__: Any) -> "StandIn":
        return self

    def _nothing(self, *_: Any, **__: Any) -> None:
        pass

    __setstate__ = append = extend = add = __setitem__ = _nothing


class _Served:
    """A function that a pickle may call, and not change: the pickle does not get at the function itself."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError(_NO_CHANGE)


class _Mapping(dict):
    """A dictionary of any class; attributes of it are passed over."""

    __slots__ = ()

    def __setstate__(self, _: Any) -> None:
        pass


def _mapping(pairs: Any = ()) -> _Mapping:
    """Stands in for `OrderedDict`. Pickles of Python 2 give it pairs, which are moved: copies would cost nothing."""
    mapping = _Mapping()
    for name, value in pairs:
        _check_keys([name])
        mapping[name] = value
    if isinstance(pairs, list):
        pairs.clear()
    return mapping


def _check_keys(keys: Iterable[Any], depth: int = _DEPTH) -> None:
    """Refuses keys that take long to hash: tuples of many parts, or deep ones, of which each may hold another twice."""
    for key in keys:
        if isinstance(key, tuple) and depth and len(key) <= _PARTS:
            _check_keys(key, depth - 1)
        elif isinstance(key, tuple | frozenset):
            raise pickle.UnpicklingError("it holds mappings by keys of many parts")


class _Operations(dict):
    """The functions of a pickle's operations by their codes; each is paid for when it is looked up."""

    def __init__(self, functions: dict, budget: Budget):
        super().__init__(functions)
        self._budget = budget

    def __getitem__(self, code: int) -> Callable:
        self._budget.take("its pickle", _OPERATION)
        return super().__getitem__(code)


class _Unpickler(pickle._Unpickler):  # the one written in Python: that in C takes memory for what is only claimed
    """Makes plain containers and numbers, and what `served` says.

    Args:
        file: Reads no more than it holds, whatever it is asked for.
        served: What to make, by module and name.
        budget: What all of this may take.
        other: Function of the name of anything else: what to make of it, or an error.
        encoding: Of the strings of Python 2.
    """

    def __init__(
        self, file: Any, served: dict[tuple[str, str], Any], budget: Budget, other: Callable[[str], Any], encoding: str
    ):
        super().__init__(file, encoding=encoding)
        self._served, self._other = served, other
        self.dispatch = _Operations(_DISPATCH, budget)  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> Any:
        found = self._served.get((module, name))
        return self._other(f"{module}.{name}") if found is None else found


def _with_keys_checked(code: bytes, keys: slice) -> dict[int, Callable]:
    load = pickle._Unpickler.dispatch[code[0]]

    def checked(unpickler: Any) -> None:
        _check_keys(unpickler.stack[keys])
        load(unpickler)

    return {code[0]: checked}


def _load_newobj_ex(unpickler: Any) -> None:
    unpickler.stack.pop()  # arguments by name, which nothing that is served takes
    pickle._Unpickler.dispatch[pickle.REDUCE[0]](unpickler)


def _load_bytearray(unpickler: Any) -> None:
    """As Python's, without taking memory first."""
    size = int.from_bytes(unpickler.read(8), "little")
    unpickler.append(bytearray(unpickler.read(size)))


_DISPATCH = {
    **pickle._Unpickler.dispatch,
    pickle.NEWOBJ[0]: pickle._Unpickler.dispatch[pickle.REDUCE[0]],  # nothing that is served is a class
    pickle.NEWOBJ_EX[0]: _load_newobj_ex,
    pickle.BYTEARRAY8[0]: _load_bytearray,
    **_with_keys_checked(pickle.SETITEM, slice(-2, -1)),
    **_with_keys_checked(pickle.SETITEMS, slice(None, None, 2)),
    **_with_keys_checked(pickle.DICT, slice(None, None, 2)),
    **_with_keys_checked(pickle.ADDITEMS, slice(None)),
    **_with_keys_checked(pickle.FROZENSET, slice(None)),
}


class _Bounded:
    """A file of which no more is asked than it holds, so that no memory is taken for more."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size

    def read(self, size: int) -> bytes:
        if size > self._size:
            raise pickle.UnpicklingError("it is cut off")
        return self._file.read(size)

    def readline(self) -> bytes:
        return self._file.readline()


def _shape(sides: Any) -> tuple[int, ...]:
    is_short = isinstance(sides, tuple | list) and len(sides) <= _SIDES
    if not is_short or not all(type(side) is int and 0 <= side < 2**63 for side in sides):
        raise pickle.UnpicklingError("it holds a tensor whose shape is none")
    return tuple(sides)


# --- arrays of numpy --------------------------------------------------------------------------------------------


class _DType:
    """Stands in for `numpy.dtype`."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False):
        if not (isinstance(code, str) and re.fullmatch(r"[<>|=]?(f[248]|[iu][1248]|b1)", code)):
            shown = repr(code[:100]) if isinstance(code, str) else type(code).__name__
            raise pickle.UnpicklingError(f"it holds an array of {shown}, which are no numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if len(state) < 5 or state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("it holds an array of records, not of numbers")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Latin1:
    """Bytes that numpy's pickles of protocol 2 hold as text; the same text may stand in for many."""

    __slots__ = ("_text",)

    def __init__(self, text: Any, encoding: Any):
        if encoding != "latin1" or not isinstance(text, str):
            shown = repr(encoding[:100]) if isinstance(encoding, str) else type(encoding).__name__
            raise pickle.UnpicklingError(f"it asks for the codec {shown}")
        self._text = text

    def __len__(self) -> int:
        return len(self._text)

    def __bytes__(self) -> bytes:
        return self._text.encode("latin1")

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError(_NO_CHANGE)


class _Array(Tensor):
    """Stands in for an array, which a pickle makes first and fills afterwards."""

    def __init__(self) -> None:
        super().__init__((0,), "f4", lambda: np.zeros(0, "f4"))

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        self.fill(data, dtype, shape, "F" if is_fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> None:
        if not isinstance(dtype, _DType) or not isinstance(data, bytes | bytearray | _Latin1):
            raise pickle.UnpicklingError("it holds an array that is not of numbers")
        sides, of = _shape(shape), dtype.dtype
        if math.prod(sides) * of.itemsize != len(data):
            raise pickle.UnpicklingError(f"it holds an array of shape {sides} that is of other size")
        if of == np.uint16:  # as PaddlePaddle writes bfloat16
            of = np.dtype(ml_dtypes.bfloat16)
        self.shape, self.dtype = sides, of
        self.read = lambda: np.frombuffer(bytearray(bytes(data)), of).reshape(sides, order="F" if order == "F" else "C")


def _from_buffer(*arguments: Any) -> _Array:
    array = _Array()
    array.fill(*arguments)
    return array


def _empty_bytes(*arguments: Any) -> bytes:
    """What pickles of protocol 2 call for the bytes of an empty array."""
    if arguments:
        raise pickle.UnpicklingError("it asks for bytes of a certain number")
    return b""


_ARRAYS: dict[tuple[str, str], Any] = {
    ("__builtin__", "bytes"): _Served(_empty_bytes),
    ("collections", "OrderedDict"): _Served(_mapping),
    ("_codecs", "encode"): _Served(_Latin1),
    ("numpy", "dtype"): _Served(_DType),
    ("numpy", "ndarray"): "numpy.ndarray",  # only ever an argument of _reconstruct; a string cannot be called
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Served(lambda *_: _Array()) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Served(_from_buffer) for core in ("core", "_core")},
}


def load_arrays(file: BinaryIO, size: int) -> Any:
    """Returns what the pickle in a file of `size` bytes holds, with a `Tensor` for each array.

    Raises:
        pickle.UnpicklingError: if it names anything but arrays of numbers and plain containers.
        CheckpointError: if its objects take more than a file of this size can hold.
    """

    def refuse(name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {name}")

    return _Unpickler(_Bounded(file, size), _ARRAYS, Budget(size, OBJECTS), refuse, "ASCII").load()


# --- tensors of PyTorch -----------------------------------------------------------------------------------------

_STORAGES = {
    "Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": ml_dtypes.bfloat16, "Long": "i8", "Int": "i4",
    "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?", "ComplexFloat": "c8", "ComplexDouble": "c16",
    "Untyped": "u1",
}  # fmt: skip
# Those without a storage of their own name, and their name in ml_dtypes or numpy; the others are told by it too.
_DTYPES = {
    **{name: name for name in ("uint16", "uint32", "uint64", "int8", "uint8", "int16", "int32", "int64", "bool")},
    **{name: name for name in ("float16", "float32", "float64", "complex64", "complex128")},
    **{
        name: getattr(ml_dtypes, name)
        for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    },
}


class _TorchDType:
    """Stands in for a type of numbers, or of a storage of them."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: Any):
        self.dtype = np.dtype(dtype)

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError(_NO_CHANGE)


class Storage:
    """Numbers that tensors are views of.

    Attributes:
        key: Its name in the file.
        dtype: Of its numbers.
        start: Where it begins in that of `key`, in numbers: one may be a part of another in files of before 1.6.
    """

    __slots__ = ("dtype", "key", "read", "start")

    def __init__(self, key: str, dtype: np.dtype, read: Callable[[str], np.ndarray], start: int = 0):
        self.key, self.dtype, self.read, self.start = key, dtype, read, start

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError(_NO_CHANGE)


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> Any:
    """Stands in for `_rebuild_tensor` and `_rebuild_tensor_v2`, whose others are gradients, hooks and metadata."""
    return _view(storage, offset, size, stride, storage.dtype, *others) if isinstance(storage, Storage) else storage


def _rebuild_of_dtype(storage: Any, *others: Any) -> Any:
    """Stands in for `_rebuild_tensor_v3`, which takes the type of the numbers after the hooks."""
    offset, size, stride, grad, hooks, dtype, *metadata = others
    if not isinstance(storage, Storage) or not isinstance(dtype, _TorchDType):
        return StandIn("a tensor of another kind")
    return _view(storage, offset, size, stride, dtype.dtype, grad, hooks, *metadata)


def _view(storage: Storage, offset: Any, size: Any, stride: Any, dtype: np.dtype, *others: Any) -> "Tensor | StandIn":
    if any(others[2:]):
        return StandIn("a conjugated or negated tensor")
    shape, strides = _shape(size), _shape(stride)
    if type(offset) is not int or offset < 0 or len(shape) != len(strides):
        raise pickle.UnpicklingError("it holds a tensor whose place is none")

    def read() -> np.ndarray:
        steps = [step * dtype.itemsize for step in strides]
        start = storage.start * storage.dtype.itemsize + offset * dtype.itemsize
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        try:
            view: np.ndarray = np.ndarray(shape, dtype, storage.read(storage.key), start, steps)
        except ValueError as error:
            raise CheckpointError(f"a tensor of shape {shape} lies beyond the numbers that it is of") from error
        return np.asarray(view, order="C")

    return Tensor(shape, dtype, read)


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    return function(*arguments) if isinstance(function, _Served | StandIn) else StandIn("a tensor of another kind")


_TORCH: dict[tuple[str, str], Any] = {
    **{("torch._utils", name): _Served(_rebuild) for name in ("_rebuild_tensor", "_rebuild_tensor_v2")},
    ("torch._utils", "_rebuild_tensor_v3"): _Served(_rebuild_of_dtype),
    **{
        ("torch._utils", name): _Served(lambda data, *_: data)
        for name in ("_rebuild_parameter", "_rebuild_parameter_with_state")
    },
    ("torch._tensor", "_rebuild_from_type_v2"): _Served(_rebuild_from_type),
    ("torch.nn.parameter", "Parameter"): _Served(lambda data, *_: data),
    ("collections", "OrderedDict"): _Served(_mapping),
    ("collections", "defaultdict"): _Served(lambda *_: _Mapping()),
    **{(module, "dict"): _Served(lambda *_: _Mapping()) for module in ("builtins", "__builtin__")},
    **{
        (module, f"{name}Storage"): _TorchDType(dtype)
        for name, dtype in _STORAGES.items()
        for module in ("torch", "torch.cuda", "torch.storage")
    },
    **{("torch", name): _TorchDType(dtype) for name, dtype in _DTYPES.items()},
}


class TorchUnpickler(_Unpickler):
    """Reads one pickle of a PyTorch file: plain containers, a `Tensor` for each tensor, a `StandIn` for all else.

    Attributes:
        storages: The type of numbers of each storage that it names.

    Args:
        file: At the start of the pickle.
        budget: What the objects may take.
        size: Of the file.
        read: Function of a storage's name, which returns its bytes.
    """

    def __init__(self, file: BinaryIO, size: int, budget: Budget, read: Callable[[str], np.ndarray]):
        super().__init__(_Bounded(file, size), _TORCH, budget, StandIn, "utf-8")
        self._read = read
        self.storages: dict[str, np.dtype] = {}

    def persistent_load(self, saved: Any) -> Any:
        if not isinstance(saved, tuple) or len(saved) < 3 or saved[0] not in ("storage", b"storage"):
            return StandIn("a module")
        _, kind, key, *others = saved
        if not isinstance(kind, _TorchDType) or not isinstance(key, str):
            return StandIn("numbers of another kind")
        self.storages.setdefault(key, kind.dtype)
        view = others[2] if len(others) > 2 else None  # (name, first number, count), in files of before 1.6
        start = view[1] if isinstance(view, tuple) and len(view) == 3 else 0
        if type(start) is not int or start < 0:
            raise pickle.UnpicklingError("it holds numbers whose place is none")
        return Storage(key, kind.dtype, self._read, start)

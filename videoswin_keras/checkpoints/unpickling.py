"""Reads the arrays of a plain pickle without running anything that the pickle names.

A pickle is a program: it names functions and calls them with arguments of its choice, and even numpy's own
constructors do harm with the wrong ones. So no function of numpy's is served either. What the pickle calls are
stand-ins that keep the arguments; the arrays are made from these afterwards, and only of numbers.
"""

import pickle
import re
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np


class _DType:
    """Stands in for `numpy.dtype`."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False):
        if not (isinstance(code, str) and re.fullmatch(r"[<>|=]?(f[248]|[iu][1248]|b1)", code)):
            raise pickle.UnpicklingError(f"it holds an array of {code!r}, which are no numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if len(state) < 5 or state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("it holds an array of records, not of numbers")
        self.dtype = self.dtype.newbyteorder(state[1])


class Array:
    """Stands in for an array; `value` is it."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        self.value = _array(data, dtype, shape, "F" if is_fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("it holds an array that is not of numbers")
    return np.frombuffer(data, dtype.dtype).reshape([int(side) for side in shape], order="F" if order == "F" else "C")


def _reconstruct(*_: Any) -> Array:
    return Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    array = Array()
    array.value = _array(data, dtype, shape, order)
    return array


def _encode_latin1(text: Any, encoding: Any) -> bytes:
    """What numpy's pickles of protocol 2 call for their bytes; no other codec is served."""
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


def _empty_bytes(*arguments: Any) -> bytes:
    """What pickles of protocol 2 call for the bytes of an empty array."""
    if arguments:
        raise pickle.UnpicklingError("it asks for bytes of a certain number")
    return b""


_SERVED: dict[tuple[str, str], Any] = {
    ("builtins", "tuple"): tuple,
    ("__builtin__", "bytes"): _empty_bytes,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode_latin1,
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): "numpy.ndarray",  # only ever an argument of _reconstruct; a string cannot be called
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _SERVED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _SERVED[module, name]


def load(file: BinaryIO) -> Any:
    """Returns what the pickle in `file` holds, with an `Array` for each array.

    Raises:
        pickle.UnpicklingError: if it names anything but arrays of numbers and plain containers.
    """
    return _Unpickler(file).load()


class StandIn:
    """Stands in for an object that a pickle names: takes what the pickle does to it, and does nothing.

    Attributes:
        what: What the pickle names.
    """

    what = ""

    def __new__(cls, *_: Any, **__: Any) -> "StandIn":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        pass

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
        raise pickle.UnpicklingError("it changes what it calls")


class _UntypedStorage:
    """Stands in for PyTorch's class, which a pickle could change."""

    __slots__ = ()

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError("it changes what it calls")


def of_torch(torch: Any) -> Any:
    """Returns what `torch.load` takes as `pickle_module`: it makes tensors and plain containers, and nothing else.

    What a pickle names beside these is a `StandIn`: no module is imported for it, no function is called. Parameters
    come as their tensors, dictionaries with a default as plain ones.

    Args:
        torch: The module.
    """
    untyped = _UntypedStorage()
    served: dict[tuple[str, str], Any] = {
        **{("torch._utils", name): _Served(getattr(torch._utils, name)) for name in _REBUILDERS},
        **{("torch._utils", name): _Served(lambda data, *_: data) for name in _REBUILDERS_OF_PARAMETERS},
        ("torch.storage", "UntypedStorage"): untyped,
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        ("collections", "OrderedDict"): OrderedDict,
        ("collections", "defaultdict"): _Served(lambda *_: {}),
        **{("builtins", kind.__name__): kind for kind in (dict, list, set, tuple)},
    }

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in served:
                return served[module, name]
            if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
                return vars(torch)[name]
            return type("StandIn", (StandIn,), {"what": f"{module}.{name}"})

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "persistent_load":
                load = value

                def value(saved: Any) -> Any:
                    """Loads storages as PyTorch does, and no modules, whose source it would compare and write down."""
                    if not isinstance(saved, tuple) or not saved or saved[0] not in ("storage", b"storage"):
                        return type("StandIn", (StandIn,), {"what": "a module"})
                    kind = torch.UntypedStorage if saved[1] is untyped else saved[1]
                    return load((saved[0], kind, *saved[2:]))

            super().__setattr__(name, value)

    module = types.ModuleType("pickle_of_tensors")
    module.Unpickler = Unpickler  # type: ignore[attr-defined]
    module.UnpicklingError = pickle.UnpicklingError  # type: ignore[attr-defined]
    module.load = lambda file, **settings: Unpickler(file, **settings).load()  # type: ignore[attr-defined]
    return module


_REBUILDERS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
_REBUILDERS_OF_PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")

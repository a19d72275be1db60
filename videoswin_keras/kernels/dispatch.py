"""Chooses the version of each operation, once: the backend's own where it has one, else the plain one."""

import contextlib
import functools
import importlib
import os
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras

from videoswin_keras.kernels import plain

_overrides = importlib.import_module(f"videoswin_keras.kernels.{keras.backend.backend()}")

# The fastest version of every name in `plain.py`: `chunks.py` and `attention.py` are made of them.
fast = types.SimpleNamespace(**{name: getattr(_overrides, name, value) for name, value in vars(plain).items()})

_is_plain_only = os.environ.get("VIDEOSWIN_KERNELS") == "plain"


@contextlib.contextmanager
def plain_only() -> Iterator[None]:
    """Computes with the plain versions alone within, in the whole process; functions compiled before stay as they are.

    The variable `VIDEOSWIN_KERNELS=plain` does so for a process from its start.

    Example:

    >>> from videoswin_keras import VideoSwinBlock, kernels
    >>> import numpy as np
    >>> block, clip = VideoSwinBlock(num_heads=2), np.ones((1, 4, 7, 7, 8), "float32")
    >>> with kernels.plain_only():
    ...     outputs = block(clip)
    """
    global _is_plain_only
    before, _is_plain_only = _is_plain_only, True
    try:
        yield
    finally:
        _is_plain_only = before


def operation(name: str, override: Callable | None = None) -> Callable[..., Any]:
    """Returns the operation `name`: `override` or the backend's version, and the plain one within `plain_only()`."""
    simple = getattr(plain, name)
    fastest = override or getattr(fast, name)
    if fastest is simple:
        return simple

    @functools.wraps(simple)
    def run(*arguments: Any, **options: Any) -> Any:
        return (simple if _is_plain_only else fastest)(*arguments, **options)

    return run


def native(name: str) -> Any:
    """Returns the backend's function `name`, which cannot be written with `keras.ops`; None where it has none."""
    return getattr(_overrides, name, None)

"""Sees to it that Keras starts on a backend that is installed, and TensorFlow with its faster products."""

import contextlib
import json
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from videoswin_keras import optional

BACKENDS = ("torch", "jax", "tensorflow")
OUT_OF_MEMORY = (
    "There is not enough memory. Take a smaller model, smaller or fewer clips at once, or close other programs."
)
# As PyTorch says it on CPUs and GPUs, and XLA and TensorFlow.
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|RESOURCE_EXHAUSTED|OOM when allocating", re.IGNORECASE)


def choose_backend() -> str:
    """Returns the backend that Keras starts on, and sets KERAS_BACKEND where Keras's own choice is not installed.

    The choice is Keras's: the variable KERAS_BACKEND, else Keras's configuration file, else TensorFlow. Only where
    nobody set the variable and the choice is not installed, the first that is installed is taken, and said so.

    Raises:
        ImportError: if no backend is installed, or not the one that KERAS_BACKEND names.
    """
    if backend := os.environ.get("KERAS_BACKEND"):
        if backend not in BACKENDS:
            raise ImportError(f"KERAS_BACKEND is {backend!r}. It must be one of {', '.join(BACKENDS)}.")
        if not optional.is_installed(backend):
            raise ImportError(f"KERAS_BACKEND is {backend}, which is not installed: pip install {backend}")
        return backend
    configured = _configured()
    if optional.is_installed(configured):
        return configured
    installed = [name for name in BACKENDS if optional.is_installed(name)]
    if not installed:
        raise ImportError(
            "Keras needs PyTorch, JAX or TensorFlow, and none is installed. Install one: pip install jax "
            "(or torch, or tensorflow)."
        )
    os.environ["KERAS_BACKEND"] = installed[0]
    print(
        f"{configured} is not installed; Keras runs on {installed[0]} (set KERAS_BACKEND to choose).", file=sys.stderr
    )
    return installed[0]


def is_command_line() -> bool:
    """Whether this process is the command `videoswin`, or `python -m videoswin_keras`, and not a user's own program."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # so it is until Python has found the module
        return bool(re.search(r" -\w*m ?videoswin_keras( |$)", " ".join(sys.orig_argv)))
    if not program or Path(program).stem != "videoswin":
        return False
    scripts = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", f"{os.name}_user")]
    return Path(program).resolve().parent in [Path(folder).resolve() for folder in scripts]  # where pip puts it


def choose_tensorflow_products() -> None:
    """Has TensorFlow multiply by oneDNN, unless TF_ENABLE_ONEDNN_OPTS is set. Before TensorFlow is imported.

    It does so by itself on newer processors only: not on an AMD with AVX2 alone, where it took longer.
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


@contextlib.contextmanager
def device(name: str | None) -> Iterator[None]:
    """Computes on the device `name` ("cpu", "gpu", "gpu:1", …) within; on the backend's choice where it is None.

    Raises:
        ValueError: if there is no such device.
    """
    if name is None:
        yield
        return
    import keras

    try:
        with keras.device(name):
            keras.ops.convert_to_numpy(keras.ops.zeros(1))
    except Exception as error:  # every backend has its own
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--device {name}: {keras.backend.backend()} cannot compute there ({reason}).") from error
    with keras.device(name):
        yield


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, numpy or any backend says that there is not enough memory.

    Example:

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("3"))
    (True, False)
    """
    return isinstance(error, MemoryError) or (
        not isinstance(error, ValueError | OSError) and bool(_NO_MEMORY.search(str(error)))
    )


def _configured() -> str:
    """Returns what Keras would choose without the variable."""
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    try:
        return str(json.loads((home / "keras.json").read_text(encoding="utf-8"))["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow"

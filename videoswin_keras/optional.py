"""Libraries that only some users need: whether they are here, and the one line that is said where they are not."""

import importlib
import importlib.util
from collections.abc import Sequence

# Module → what people call it, and what pip does.
_NAMES = {
    "av": ("PyAV", "av"),
    "cv2": ("OpenCV", "opencv-python-headless"),
    "edfio": ("edfio", "edfio"),
    "jax": ("JAX", "jax"),
    "matplotlib": ("matplotlib", "matplotlib"),
    "onnxruntime": ("ONNX Runtime", "onnxruntime"),
    "safetensors": ("safetensors", "safetensors"),
    "tensorflow": ("TensorFlow", "tensorflow"),
    "tf2onnx": ("tf2onnx", "tf2onnx"),
    "torch": ("PyTorch", "torch"),
    "webvtt": ("webvtt-py", "webvtt-py"),
}


def is_installed(module: str) -> bool:
    """Whether `module` is installed. A folder of that name in the working directory is not."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def check(purpose: str, *modules: str) -> None:
    """Imports what `purpose` needs, before it begins.

    Args:
        purpose: The subject of the error: "Reading videos".
        *modules: Names of modules.

    Raises:
        ImportError: that names all that are not installed, or the first that cannot be imported, and what to do.

    Example:

    >>> check("Reading videos", "av", "cv2")
    """
    if missing := [module for module in modules if not is_installed(module)]:
        raise ImportError(not_installed(purpose, missing))
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # built for another numpy, it may raise anything
            raise explained(purpose, module, error) from error


def explained(purpose: str, module: str, error: Exception) -> ImportError:
    """Returns the error to raise in place of `error`, which importing `module` gave."""
    if not is_installed(module):
        return ImportError(not_installed(purpose, [module]))
    name, distribution = _NAMES[module]
    return ImportError(
        f"{purpose} needs {name}, which is installed but cannot be imported: {error}. "
        f"Install a version that fits the other packages: pip install --upgrade {distribution}"
    )


def not_installed(purpose: str, modules: Sequence[str]) -> str:
    """Returns the error message for modules that are not installed."""
    names = ", ".join(_NAMES[module][0] for module in modules)
    distributions = " ".join(_NAMES[module][1] for module in modules)
    return f"{purpose} needs {names}, not installed here: pip install {distributions}"

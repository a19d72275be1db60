"""Libraries that only some users need: whether they are here, and the one line that is said where they are not."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence

# Module → what people call it, and the distribution that pip installs.
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


def require(purpose: str, modules: Sequence[str]) -> None:
    """Checks that modules are installed, without importing them.

    Args:
        purpose: The subject of the error message: "Reading videos".
        modules: Names of modules.

    Raises:
        ImportError: that names all that are not installed, and what installs them.

    Example:

    >>> require("Reading videos", ["av", "cv2"])
    """
    if missing := [module for module in modules if not is_installed(module)]:
        names = " and ".join(_NAMES[module][0] for module in missing)
        distributions = " ".join(_NAMES[module][1] for module in missing)
        is_, it = ("is", "it") if len(missing) == 1 else ("are", "them")
        raise ImportError(
            f"{purpose} needs {names}, which {is_} not installed. Install {it}: pip install {distributions}"
        )


@contextlib.contextmanager
def needed(purpose: str, module: str) -> Iterator[None]:
    """Explains what to do where importing `module` within fails.

    Raises:
        ImportError: if the module is not installed, or cannot be imported.

    Example:

    >>> with needed("Reading videos", "av"):
    ...     import av
    """
    try:
        yield
    except Exception as error:  # a library that was built for another numpy may raise anything
        require(purpose, [module])
        name, distribution = _NAMES[module]
        distribution = importlib.metadata.packages_distributions().get(module, [distribution])[0]
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ImportError(
            f"{purpose} needs {name}, which is installed but cannot be imported: {reason}. "
            f"Install a version that fits the other packages: pip install --upgrade {distribution}"
        ) from error


def check(purpose: str, modules: Sequence[str]) -> None:
    """Imports what `purpose` needs, before it begins.

    Raises:
        ImportError: that names all that are not installed, or the first that cannot be imported, and what to do.
    """
    require(purpose, modules)
    for module in modules:
        with needed(purpose, module):
            importlib.import_module(module)

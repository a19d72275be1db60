"""Whole models in `.keras` files, which are checked before anything of them is built; no code in them is run."""

import contextlib
import functools
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from videoswin_keras.backend import is_out_of_memory
from videoswin_keras.checkpoints import files, formats
from videoswin_keras.checkpoints.errors import CheckpointError, OlderPortError, first_line, reading
from videoswin_keras.models.backbone import VideoSwinBackbone
from videoswin_keras.models.recurrent import RecurrentVideoSwin

# Layers of Keras that run code from the file, or read other files that it names.
_REFUSED = {
    "FlaxLayer", "IndexLookup", "IntegerLookup", "JaxLayer", "Lambda", "StringLookup", "TFSMLayer", "TextVectorization",
    "TorchModuleWrapper",
}  # fmt: skip
# Values that Keras writes like objects.
_VALUES = {"__bytes__", "__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__"}
# A model with low-rank adapters, or one that is quantised, makes more weights than its file holds.
_MOST_WEIGHTS = 4
_SPARE_WEIGHTS = 2**20
_MOST_OBJECTS = 5000  # a backbone of this library is one
_LONGEST_MEMORY = 10_000  # clips, as in a file of weights

_lock = threading.RLock()


def load_model(path: str | Path) -> keras.Model:
    """Loads a whole model, not compiled: one of this library, or any that Keras rebuilds without running foreign code.

    What the configuration in the file names must be Keras's or registered (`keras.saving.register_keras_serializable`),
    and what it leads to must not be many times more weights than are in the file.

    Args:
        path: A `.keras` file.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is damaged, is refused, or cannot be rebuilt; it names the file and says what to do.
            An `OlderPortError` if it is of one of the older Keras ports.

    Example:

    >>> from videoswin_keras import from_checkpoint
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "pico.keras"
    >>> from_checkpoint("pico_moving_shapes").save(path)
    >>> load_model(path).output_shape
    (None, 8)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with reading(path):
        config, shapes = files.read_model(path)
        if formats.is_keras_port(shapes):
            raise OlderPortError(
                f"it is a model of an older Keras port, whose code is not run: `videoswin convert {path} -o new.keras` "
                "makes one of this library of it"
            )
        for number, node in enumerate(_objects({**config, "compile_config": None})):
            if number == _MOST_OBJECTS:  # of which each takes Keras a hundredth of a second
                raise CheckpointError(f"its configuration has more than {_MOST_OBJECTS} layers and other objects")
            _check(node, len(shapes))
        values = sum(math.prod(shape) for shape in shapes.values())
        try:
            with _at_most(_MOST_WEIGHTS * values + _SPARE_WEIGHTS):
                return keras.models.load_model(path, compile=False)
        except Exception as error:
            if isinstance(error, CheckpointError) or is_out_of_memory(error):
                raise
            raise CheckpointError(
                f"Keras cannot rebuild the model: {first_line(error)} Was it changed, or saved by another version? "
                "`videoswin convert` to a .weights.h5 takes its weights alone"
            ) from error


def _objects(config: Any) -> Iterator[dict]:
    """Yields what Keras takes for an object, wherever it is in a configuration."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _check(node: dict, weights: int) -> None:
    """Raises CheckpointError if an object is neither Keras's nor registered, or is of more blocks than weights."""
    name, config, module = node["class_name"], node.get("config"), node.get("module")
    is_function = name == "function"
    parts = f"{module}.{config if is_function else name}".split(".")
    if refused := _REFUSED & {parts[-1], str(name), str(node.get("registered_name")).rpartition(">")[2]}:
        raise CheckpointError(
            f"it was refused: it has a layer {min(refused)}, which runs or reads what the file says. Save the model "
            "without it, or with a layer of your own that you register"
        )
    registered = keras.saving.get_registered_object(config if is_function else node.get("registered_name", name))
    if name not in _VALUES and "module" not in node:  # Keras would go by other rules, of its older formats
        raise CheckpointError(f"it was refused: it does not say of which module {str(name)[:100]} is")
    is_known = registered is not None or name in _VALUES or parts[0] == "keras"
    if not is_known and not (is_function and module == "builtins" and len(parts) == 2):
        raise CheckpointError(
            f"it was refused: it names {'.'.join(parts)[:100]}, which is neither Keras's nor registered. If it is "
            "yours, decorate it with `@keras.saving.register_keras_serializable()` and import it first"
        )
    if name in ("__numpy__", "__tensor__"):
        keras.backend.standardize_dtype(config["dtype"])  # type: ignore[index]
    if registered is VideoSwinBackbone and sum(config["depths"]) > weights:  # type: ignore[index]
        raise CheckpointError(f"its configuration states more blocks than the {weights} weights that it holds")
    if registered is RecurrentVideoSwin and config.get("memory_length", 1) > _LONGEST_MEMORY:  # type: ignore[union-attr]
        raise CheckpointError(f"its configuration states a memory of more than {_LONGEST_MEMORY} clips")


@contextlib.contextmanager
def _at_most(values: int) -> Iterator[None]:
    """Raises CheckpointError once this thread makes layers with more weights than `values`, before they take memory."""
    thread, made = threading.get_ident(), 0
    with _lock:
        add_weight = keras.layers.Layer.add_weight

        @functools.wraps(add_weight)
        def counted(layer: keras.layers.Layer, shape: Any = None, *arguments: Any, **settings: Any) -> Any:
            nonlocal made
            if threading.get_ident() == thread:
                made += math.prod(shape or ())
                if made > values:
                    raise CheckpointError("its configuration states more than the weights that it holds")
            return add_weight(layer, shape, *arguments, **settings)

        keras.layers.Layer.add_weight = counted
        try:
            yield
        finally:
            keras.layers.Layer.add_weight = add_weight

"""Puts a checkpoint's values into a model: all of them, each where it belongs, or none."""

from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np

from videoswin_keras.checkpoints import adaptation
from videoswin_keras.checkpoints.errors import mismatch
from videoswin_keras.checkpoints.formats import Checkpoint
from videoswin_keras.checkpoints.layout import HEAD_KEYS, Architecture, parameters, to_keras
from videoswin_keras.nn import windows


def check(checkpoint: Checkpoint, wanted: Architecture, advice: str) -> None:
    """Raises CheckpointError, listing every offender, unless `checkpoint` has exactly the keys and shapes wanted."""
    state, shapes = checkpoint.state, wanted.shapes()
    problems = {
        "missing": [f"{key} {shape}" for key, shape in shapes.items() if key not in state],
        "unexpected": [f"{key} {value.shape}" for key, value in state.items() if key not in shapes],
        "misshapen": [
            f"{key}: the checkpoint has {state[key].shape}, expected {shape}"
            for key, shape in shapes.items()
            if key in state and state[key].shape != shape
        ],
    }
    found = checkpoint.architecture.window_size
    if found != wanted.window_size and not problems["misshapen"]:
        # Different windows can have tables of one size, (2, 3, 5) and (5, 3, 2) for example.
        problems["of another window"] = [f"bias tables: the checkpoint's window is {found}, not {wanted.window_size}"]
    if any(problems.values()):
        raise mismatch(problems, advice, checkpoint.file)


def adapt(
    checkpoint: Checkpoint,
    drop_head: bool = False,
    window_size: tuple[int, int, int] | None = None,
    channels: int | None = None,
) -> Checkpoint:
    """Returns a whole checkpoint without its head, with its tables resampled, or for other channels, as asked.

    Raises:
        CheckpointError: if `checkpoint` is not whole or not finite, whatever of it is asked for.
        ValueError: if a side of the window, or the number of channels, is not positive.
    """
    check(checkpoint, checkpoint.architecture, "Is the file complete, and of an unmodified Video Swin?")
    state, architecture = dict(checkpoint.state), checkpoint.architecture
    if unsound := [key for key, value in state.items() if not np.isfinite(value).all()]:
        advice = "Was it saved after training had diverged?"
        raise mismatch({"not finite (NaN or infinite values)": unsound}, advice, checkpoint.file)
    if drop_head:
        for key in HEAD_KEYS:
            state.pop(key, None)
        architecture = replace(architecture, num_classes=None)
    window_size = None if window_size is None else windows.check_sides("window_size", window_size)
    if window_size is not None and window_size != architecture.window_size:
        state = adaptation.resample_window(state, architecture.window_size, window_size)
        architecture = replace(architecture, window_size=window_size)
    if channels is not None and channels < 1:
        raise ValueError(f"The number of channels must be at least 1. Received: {channels}.")
    if channels is not None and channels != architecture.channels:
        state = adaptation.adapt_channels(state, channels)
        architecture = replace(architecture, channels=channels)
    return replace(checkpoint, state=state, architecture=architecture)


def assign(
    model: Any,
    checkpoint: Checkpoint,
    fresh_head: bool = False,
    resample_window: bool = False,
    adapt_channels: bool = False,
) -> None:
    """Assigns `checkpoint` to a backbone or classifier; see `load_checkpoint` for the arguments."""
    wanted = Architecture.of(model)
    advice = _advice(checkpoint.architecture, wanted)
    if wanted.memory and not checkpoint.architecture.memory:
        wanted = replace(wanted, memory=())  # the memory stays as it is: new, it changes nothing
    if fresh_head:
        wanted = replace(wanted, num_classes=None)
    adapted = adapt(
        checkpoint,
        drop_head=wanted.num_classes is None,
        window_size=wanted.window_size if resample_window else None,
        channels=wanted.channels if adapt_channels else None,
    )
    check(adapted, wanted, advice)

    memories = {memory.name: memory for memory in getattr(model, "memories", {}).values()}
    model = model.model if memories else model
    backbone = getattr(model, "backbone", model)
    targets = []
    for parameter in parameters(wanted):
        if parameter.layer in memories:
            layer = memories[parameter.layer]
        else:
            layer = (model if parameter.layer == "head" else backbone).get_layer(parameter.layer)
        variable = reduce(_attribute, parameter.attributes.split("."), layer)
        if variable.dtype == "int8":
            raise ValueError("The model is quantised: load the checkpoint first, then quantise.")
        targets.append((variable, to_keras(parameter.key, adapted.state[parameter.key])))
    for variable, value in targets:
        variable.assign(value)


def _attribute(owner: Any, name: str) -> Any:
    return owner[int(name)] if name.isdigit() else getattr(owner, name)


def _advice(found: Architecture, wanted: Architecture) -> str:
    lines = [f"The checkpoint is: {found.describe()}.", f"The model is: {wanted.describe()}."]
    if wanted.num_classes is not None and found.num_classes != wanted.num_classes:
        lines.append("To keep the model's own, untrained head, pass fresh_head=True.")
    if found.window_size != wanted.window_size:
        lines.append("To resample the bias tables to the model's window, pass resample_window=True.")
    if found.channels != wanted.channels:
        lines.append("To adapt the patch embedding to the model's channels, pass adapt_channels=True.")
    if len(lines) == 2:
        lines.append("Build the model that the checkpoint is of, or use `videoswin_keras.from_checkpoint`.")
    return "\n".join(lines)

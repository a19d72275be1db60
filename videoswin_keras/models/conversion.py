"""Models and files made from a checkpoint alone."""

import os
from pathlib import Path
from typing import Any

from videoswin_keras.checkpoints import own
from videoswin_keras.checkpoints.assign import adapt, assign
from videoswin_keras.checkpoints.formats import Checkpoint
from videoswin_keras.checkpoints.load import locate, open_checkpoint
from videoswin_keras.models.backbone import VideoSwinBackbone
from videoswin_keras.models.classifier import VideoSwinClassifier


def from_checkpoint(
    source: str | Path,
    input_shape: tuple[int | None, int | None, int | None] = (None, None, None),
    **kwargs: Any,
) -> VideoSwinClassifier | VideoSwinBackbone:
    """Builds the model that a checkpoint is of, and loads it: nobody has to say which model it is.

    Args:
        source: What `load_checkpoint` takes.
        input_shape: (frames, height, width) of a clip; None for each side that may vary.
        **kwargs: Arguments of `VideoSwinBackbone` that do not change its weights: `include_rescaling`, `dtype`,
            `drop_path_rate`, `frozen_stages`, ….

    Returns:
        A `VideoSwinClassifier`, or a `VideoSwinBackbone` where the checkpoint has no head.

    Raises:
        FileNotFoundError, CheckpointError: as `load_checkpoint`.

    Example:

    >>> from videoswin_keras import from_checkpoint
    >>> model = from_checkpoint("pico_moving_shapes")
    >>> model.output_shape
    (None, 8)
    """
    return build(open_checkpoint(source), input_shape, **kwargs)


def build(
    checkpoint: Checkpoint,
    input_shape: tuple[int | None, int | None, int | None] = (None, None, None),
    **kwargs: Any,
) -> VideoSwinClassifier | VideoSwinBackbone:
    """Returns the model of `checkpoint` with its weights; see `from_checkpoint`."""
    architecture = checkpoint.architecture
    model: VideoSwinClassifier | VideoSwinBackbone = VideoSwinBackbone(
        (*input_shape, architecture.channels), **architecture.backbone_arguments(), **kwargs
    )
    if architecture.num_classes is not None:
        model = VideoSwinClassifier(model, architecture.num_classes, dtype=kwargs.get("dtype"))
    assign(model, checkpoint)
    return model


def convert(
    source: str | Path,
    output: str | Path,
    window_size: tuple[int, int, int] | None = None,
    channels: int | None = None,
    drop_head: bool = False,
) -> Checkpoint:
    """Converts a checkpoint of any known format to this library's weights, exactly.

    Args:
        source: What `load_checkpoint` takes.
        output: A file name: `*.weights.h5` for weights, `*.keras` for a whole model that takes clips of any size.
            It is replaced only once the conversion has succeeded.
        window_size: Another window, to which the bias tables are resampled; default: the checkpoint's own, and
            (8, 7, 7) for an image Swin.
        channels: Another number of channels of a clip, to which the patch embedding is adapted.
        drop_head: Whether to leave the head away.

    Returns:
        The checkpoint as written.

    Raises:
        FileNotFoundError, CheckpointError: as `load_checkpoint`; no output file is left or changed.
        ValueError: if `output` has another ending.
    """
    output = Path(output)
    if not output.name.endswith((".weights.h5", ".keras")):
        raise ValueError(f"The output must end in .weights.h5 or .keras. Received: {output.name}.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {output.parent} to write {output.name} to.")
    path = locate(source)
    checkpoint = adapt(open_checkpoint(path, window_size), drop_head, window_size, channels)
    if output.name.endswith(".weights.h5"):
        own.write(checkpoint, output, {"format": checkpoint.format, "source": path.name, **own.read_metadata(path)})
    else:
        temporary = output.with_name(f".{output.stem}.{os.getpid()}.keras")
        try:
            build(checkpoint).save(temporary)
            os.replace(temporary, output)
        finally:
            temporary.unlink(missing_ok=True)
    return checkpoint

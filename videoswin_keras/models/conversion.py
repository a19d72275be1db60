"""Models and files made from a checkpoint alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from videoswin_keras.atomic import replacing
from videoswin_keras.checkpoints import own, zoo
from videoswin_keras.checkpoints.assign import adapt, assign
from videoswin_keras.checkpoints.formats import Checkpoint
from videoswin_keras.checkpoints.layout import Architecture
from videoswin_keras.checkpoints.load import locate, open_checkpoint
from videoswin_keras.models.backbone import VideoSwinBackbone
from videoswin_keras.models.classifier import VideoSwinClassifier
from videoswin_keras.models.recurrent import RecurrentVideoSwin
from videoswin_keras.models.variants import SIZES, Model


def from_checkpoint(
    source: str | Path,
    input_shape: tuple[int | None, ...] = (None, None, None),
    window_size: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    include_top: bool = True,
    fresh_head: bool = False,
    resample_window: bool = False,
    adapt_channels: bool = False,
    key: str | None = None,
    **kwargs: Any,
) -> Model:
    """Builds the model that a checkpoint is of, and loads it: nobody has to say which model it is.

    Args:
        source: What `load_checkpoint` takes, but for whole `.keras` models.
        input_shape: (frames, height, width) of a clip, with or without channels; None for each side that may vary.
        window_size: Window of the model, where it is to be another than the checkpoint's (`resample_window`), or the
            checkpoint does not say its own.
        num_classes: Classes of a new head (`fresh_head`). Default: as many as the checkpoint has.
        include_top: Whether to build the head; without one the model is a `VideoSwinBackbone`.
        fresh_head, resample_window, adapt_channels, key: As in `load_checkpoint`.
        **kwargs: Arguments of `VideoSwinBackbone` and `VideoSwinClassifier` that do not change the weights:
            `include_rescaling`, `dtype`, `drop_path_rate` (default: that of the size), `activation`, `labels`, ….

    Returns:
        A `VideoSwinClassifier`, or a `VideoSwinBackbone` where the checkpoint has no head; a `RecurrentVideoSwin`
        of it where the checkpoint has a memory.

    Raises:
        FileNotFoundError, CheckpointError: as `load_checkpoint`.
        ValueError: if `source` is a whole `.keras` model, or another head, window or number of channels is asked for
            without the flag that allows it.

    Example:

    >>> from videoswin_keras import from_checkpoint
    >>> model = from_checkpoint("pico_moving_shapes")
    >>> model.output_shape
    (None, 8)
    """
    path = locate(source)
    checkpoint = open_checkpoint(path, window_size, key)
    if path.suffix == ".keras" and checkpoint.format == "videoswin_keras":
        raise ValueError(
            f"{path} is a whole model, with a configuration that its weights alone do not have: load it with "
            "`keras.models.load_model`, or its weights into a model of yours with `load_checkpoint`."
        )
    adapt(checkpoint)  # whole, or an error before anything is built
    found = checkpoint.architecture
    wanted = replace(
        found,
        num_classes=(found.num_classes if num_classes is None else num_classes) if include_top else None,
        window_size=window_size or found.window_size,
        channels=input_shape[3] if len(input_shape) == 4 and input_shape[3] else found.channels,
    )
    model = _untrained(wanted, input_shape, **kwargs)
    assign(model, checkpoint, fresh_head, resample_window, adapt_channels)
    return model


def build(checkpoint: Checkpoint, **kwargs: Any) -> Model:
    """Returns the model of `checkpoint` with its weights, for clips of any size; arguments as in `from_checkpoint`."""
    model = _untrained(checkpoint.architecture, **kwargs)
    assign(model, checkpoint)
    return model


def _untrained(
    architecture: Architecture, input_shape: tuple[int | None, ...] = (None, None, None), **kwargs: Any
) -> Model:
    shape: Any = (*input_shape[:3], architecture.channels)
    size = next(
        (
            size
            for size in SIZES.values()
            if size["depths"] == architecture.depths and size["embed_dim"] == architecture.embed_dim
        ),
        {},
    )
    drop_path_rate = {"drop_path_rate": size["drop_path_rate"]} if size else {}
    arguments = architecture.backbone_arguments() | drop_path_rate | kwargs
    model: Model
    if architecture.num_classes is None:
        model = VideoSwinBackbone(shape, **arguments)
    else:
        of_head = ("pooling", "dropout_rate", "activation", "labels", "protocol", "multi_label", "name")
        head = {name: arguments.pop(name) for name in of_head if name in arguments}
        shared = {name: arguments[name] for name in ("dtype", "trainable") if name in arguments}
        model = VideoSwinClassifier(VideoSwinBackbone(shape, **arguments), architecture.num_classes, **head, **shared)
    if architecture.memory:
        stages, tokens, lengths = zip(*architecture.memory, strict=True)
        model = RecurrentVideoSwin(model, stages, tokens[0], lengths[0], dtype=arguments.get("dtype"))
    return model


def convert(
    source: str | Path,
    output: str | Path,
    window_size: tuple[int, int, int] | None = None,
    channels: int | None = None,
    drop_head: bool = False,
    key: str | None = None,
) -> Checkpoint:
    """Converts a checkpoint of any known format to this library's weights, exactly.

    Args:
        source: What `load_checkpoint` takes.
        output: A file name: `*.weights.h5` for weights, `*.keras` for a whole model that takes clips of any size.
            It is replaced only once the conversion has succeeded.
        window_size: Another window, to which the bias tables are resampled; default: the checkpoint's own, and
            (8, 7, 7) for an image Swin. Of a checkpoint that does not say its window, this is the window.
        channels: Another number of channels of a clip, to which the patch embedding is adapted.
        drop_head: Whether to leave the head away.
        key: As in `load_checkpoint`.

    Returns:
        The checkpoint as written.

    Raises:
        FileNotFoundError, CheckpointError: as `load_checkpoint`; no output file is left or changed.
        ValueError: if `output` has another ending, or both are whole `.keras` models.
    """
    output = Path(output)
    if not output.name.endswith((".weights.h5", ".keras")):
        raise ValueError(f"The output must end in .weights.h5 or .keras. Received: {output.name}.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {output.parent} to write {output.name} to.")
    path = locate(source)
    checkpoint = open_checkpoint(path, window_size, key)
    if path.suffix == output.suffix == ".keras" and checkpoint.format == "videoswin_keras":
        raise ValueError(f"{path} is a whole model already. To keep only its weights, write a .weights.h5.")
    checkpoint = adapt(checkpoint, drop_head, window_size, channels)
    entry = zoo.ENTRIES.get(str(source))
    published = {"name": entry.name, "dataset": entry.dataset} if entry else {}
    metadata = {**own.metadata_of(checkpoint), "source": path.name, **own.read_metadata(path), **published}
    if output.name.endswith(".weights.h5"):
        own.write(checkpoint, output, metadata)
        return checkpoint
    model = build(checkpoint)
    with replacing(output) as temporary:
        model.save(temporary)
        own.add_metadata(temporary, metadata)
    return checkpoint

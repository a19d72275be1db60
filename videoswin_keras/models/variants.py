"""The published sizes: Tiny, Small, Base and Large."""

from collections.abc import Sequence
from typing import Any, Literal, overload
from typing import Protocol as Interface

from videoswin_keras.checkpoints.load import load_checkpoint, locate
from videoswin_keras.models.backbone import VideoSwinBackbone
from videoswin_keras.models.classifier import VideoSwinClassifier
from videoswin_keras.models.recurrent import RecurrentVideoSwin
from videoswin_keras.video.protocols import Protocol

Model = VideoSwinClassifier | VideoSwinBackbone | RecurrentVideoSwin
Memory = dict[str, Any] | Literal[True]
Shape = tuple[int | None, int | None, int | None, int]

# drop_path_rate: what the size was trained with on Kinetics-400 (Large: by mmaction2).
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24), "drop_path_rate": 0.1},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24), "drop_path_rate": 0.1},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "drop_path_rate": 0.3},
    "large": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48), "drop_path_rate": 0.4},
}

_DOC = """Video Swin {title}: a `VideoSwinClassifier`, or with `include_top=False` its `VideoSwinBackbone`.

With `memory` it is a `RecurrentVideoSwin`, which takes clip after clip.

Args:
    input_shape: (frames, height, width, channels); None for each side that may vary from clip to clip.
    num_classes: Integer. Number of classes of the head.
    include_top: Whether there is a classification head.
    weights: None for random weights; the name of a dataset ("kinetics400") or of a checkpoint of the zoo; a URL; or
        the path of a checkpoint of any known format. See `load_checkpoint`.
    pooling: "avg" or "max". None means "avg" before a head, and feature maps where there is none.
    activation: None for logits, or a Keras activation such as "softmax".
    labels, protocol, multi_label: Names of the classes, how clips are taken of a video, and whether several classes can
        be there at once: saved with the model, see `VideoSwinClassifier`.
    include_rescaling: Whether clips are RGB in 0–255, to be normalised in the model; otherwise they are expected
        normalised already, see `PixelNormalization`.
    window_size: Three integers, (frames, height, width) of a window in tokens.
    drop_path_rate: Float in [0, 1). Stochastic depth of the last block.
    dropout_rate: Float in [0, 1). Dropout before the head.
    fresh_head, resample_window, adapt_channels: Where `weights` is of a model with other classes, another window or
        other channels: see `load_checkpoint`.
    memory: None, or True for a `RecurrentVideoSwin` with the default memory, or a dict of its arguments `stages`,
        `num_tokens`, `memory_length` and `bptt_clips`.
    **kwargs: Any other argument of `VideoSwinBackbone`, the architecture's numbers included.

Input: (batch, frames, height, width, channels), floating (or uint8 with `include_rescaling`).
Output: logits (batch, num_classes); without a head (batch, ⌈frames / 2⌉, ⌈height / 32⌉, ⌈width / 32⌉, {channels}),
or (batch, {channels}) if pooled.

Raises:
    CheckpointError: if `weights` does not fit; it lists every missing, unexpected and misshapen key.

Example:

>>> import numpy as np
>>> model = {function}((None, None, None, 3), num_classes=3, embed_dim=12, num_heads=(1, 1, 2, 4))
>>> tuple(model(np.ones((1, 8, 64, 48, 3), "float32")).shape)
(1, 3)

Source: section 3.4 of arXiv 2106.13230.
"""


class Variant(Interface):
    """Which of the three models a size returns, for type checkers. `_DOC` describes the arguments."""

    @overload
    def __call__(
        self,
        input_shape: Shape = ...,
        num_classes: int = ...,
        *,
        memory: dict[str, Any] | Literal[True],
        **options: Any,
    ) -> RecurrentVideoSwin: ...
    @overload
    def __call__(
        self, input_shape: Shape = ..., num_classes: int = ..., *, include_top: Literal[False], **options: Any
    ) -> VideoSwinBackbone: ...
    @overload
    def __call__(self, input_shape: Shape = ..., num_classes: int = ..., **options: Any) -> VideoSwinClassifier: ...


def _variant(size: str) -> Variant:
    defaults = SIZES[size]

    def build(
        input_shape: Shape = (32, 224, 224, 3),
        num_classes: int = 400,
        include_top: bool = True,
        weights: str | None = None,
        pooling: str | None = None,
        activation: Any = None,
        labels: Sequence[str] | None = None,
        protocol: Protocol | None = None,
        multi_label: bool | None = None,
        include_rescaling: bool = False,
        window_size: tuple[int, int, int] = (8, 7, 7),
        drop_path_rate: float = defaults["drop_path_rate"],
        dropout_rate: float = 0.5,
        fresh_head: bool = False,
        resample_window: bool = False,
        adapt_channels: bool = False,
        memory: bool | dict[str, Any] | None = None,
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> Model:
        trainable = kwargs.pop("trainable", True)
        memory = ({} if memory else None) if isinstance(memory, bool) else memory
        backbone = VideoSwinBackbone(
            input_shape,
            window_size=window_size,
            drop_path_rate=drop_path_rate,
            include_rescaling=include_rescaling,
            pooling=None if include_top else pooling,
            name=None if include_top or memory is not None else name,
            dtype=dtype,
            **{key: value for key, value in defaults.items() if key != "drop_path_rate"} | kwargs,
        )
        model: Model = backbone
        if include_top:
            model = VideoSwinClassifier(
                backbone,
                num_classes,
                pooling=pooling or "avg",
                dropout_rate=dropout_rate,
                activation=activation,
                labels=labels,
                protocol=protocol,
                multi_label=multi_label,
                name=None if memory is not None else name,
                dtype=dtype,
            )
        if memory is not None:
            model = RecurrentVideoSwin(model, **memory, name=name, dtype=dtype)
        if not trainable:
            model.trainable = False
        if weights is not None:
            load_checkpoint(model, locate(weights, size), fresh_head, resample_window, adapt_channels)
        return model

    function = f"VideoSwin{size[0].upper()}"
    build.__name__ = build.__qualname__ = function
    build.__doc__ = _DOC.format(title=size.title(), function=function, channels=8 * defaults["embed_dim"])
    return build  # type: ignore[return-value]  # which of the three comes back, no type checker can follow


VideoSwinT = _variant("tiny")
VideoSwinS = _variant("small")
VideoSwinB = _variant("base")
VideoSwinL = _variant("large")

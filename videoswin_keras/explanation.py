"""What a model looks at: the attention weights of a block, and Grad-CAM of a class.

Both are computed layer by layer, outside compiled programs, and return numpy arrays. Stages and blocks are numbered as
their layers are named, from 1; or from −1, counted from the last.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras import kernels, optional
from videoswin_keras.atomic import replacing
from videoswin_keras.models.backbone import VideoSwinBackbone
from videoswin_keras.models.classifier import VideoSwinClassifier
from videoswin_keras.models.recurrent import RecurrentVideoSwin
from videoswin_keras.nn.windows import WindowGrid

OPACITY = 0.8  # of the colour over a frame, where a map has its maximum


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """What the tokens of one block attend to, for one clip.

    Attributes:
        weights: float32 (windows, heads, tokens, tokens): how much each token of a window (a row) attends to each
            (a column). Rows sum to 1; where a shifted window holds tokens that must not see each other, they are 0.
        places: int32 (windows, tokens): where each token is in the feature map, whose places are counted along the
            width, then the height, then the frames; −1 where it is padding.
        received: float32 (frames', height', width') of the feature map: what each place gets of the attention of all
            tokens in its window, the mean over heads. 1 is what it would get if every token attended to all evenly.
        over_clip: float32 (frames, height, width) of the clip: `received`, interpolated between the places' centres.
    """

    weights: np.ndarray
    places: np.ndarray
    received: np.ndarray
    over_clip: np.ndarray


def attention_maps(model: Any, clip: Any, stage: int = -1, block: int = -1) -> AttentionMaps:
    """Returns the attention weights of one block for one clip, and where in the clip they lie.

    Args:
        model: `VideoSwinClassifier`, `VideoSwinBackbone`, or `RecurrentVideoSwin`, whose memory is then empty.
        clip: (frames, height, width, channels), as the model takes it, without a batch.
        stage: Integer, 1 for the first stage or −1 for the last.
        block: Integer, the same of the stage's blocks. Those of even numbers have shifted windows.

    Returns:
        `AttentionMaps`. The weights of a clip are large: of the first stage of Tiny, 32 × 224 × 224, 240 MB.

    Raises:
        TypeError: if the model is of another kind.
        ValueError: if there is no such stage or block, or the model takes no such clip.

    Example:

    >>> from videoswin_keras import attention_maps, from_checkpoint
    >>> from videoswin_keras.data.synthetic import moving_shape
    >>> model = from_checkpoint("pico_moving_shapes", include_rescaling=True)
    >>> maps = attention_maps(model, moving_shape(0, seed=1), stage=2, block=1)
    >>> maps.weights.shape, maps.received.shape, maps.over_clip.shape
    ((8, 2, 64, 64), (8, 8, 8), (16, 64, 64))

    Source: sections 3.1 and 3.2 of arXiv 2106.13230.
    """
    _, backbone = _parts(model)
    depths = backbone.arguments["depths"]
    number = _numbered("stage", stage, len(depths))
    block_index = _numbered("block", block, depths[number - 1]) - 1
    layer = backbone.get_layer(f"stage{number}")
    with kernels.without_gradients():
        x = _tapped(backbone, layer.input, clip)
        for earlier in layer.blocks[:block_index]:
            x = earlier(x, training=False)
        attending = layer.blocks[block_index]
        size = tuple(ops.shape(x)[1:4])
        grid = WindowGrid(size, attending.window_size, attending.shifted)
        tokens = grid.partition(attending.attention_norm(x))[0]
        weights = ops.convert_to_numpy(attending.attention.attention_weights(tokens, grid.shift_mask))
        # Counted from 1: padding is zeros.
        counted = ops.reshape(ops.arange(1, np.prod(size) + 1, dtype="int32"), (1, *size, 1))
        places = ops.convert_to_numpy(grid.partition(counted))[0, :, :, 0] - 1
    is_real = places >= 0  # padding attends too, but it is nowhere in the clip
    total = (is_real[:, None, None, :].astype("float32") @ weights)[:, :, 0].mean(1)
    received = np.zeros(size, "float32")
    received.reshape(-1)[places[is_real]] = total[is_real]
    return AttentionMaps(weights, places, received, _over_clip(received, backbone, number, clip))


def grad_cam(model: Any, clip: Any, class_index: int | None = None, stage: int = -1) -> np.ndarray:
    """Returns where in a clip the features lie that speak for a class (Grad-CAM).

    The output of a stage (of the last one, after the final normalisation), its channels weighted by the gradient of
    the class's logit, which is the mean over all places; of their sum what is positive.

    Args:
        model: `VideoSwinClassifier`, or `RecurrentVideoSwin` of one, whose memory is then empty.
        clip: (frames, height, width, channels), as the model takes it, without a batch.
        class_index: Integer. The class; default: the one with the largest logit.
        stage: Integer, 1 for the first stage or −1 for the last.

    Returns:
        float32 (frames, height, width) of the clip, in 0–1: interpolated between the places' centres, and divided by
        its maximum. All zeros where nothing speaks for the class.

    Raises:
        TypeError: if the model is no classifier.
        ValueError: if there is no such class or stage, or the model takes no such clip.

    Example:

    >>> from videoswin_keras import from_checkpoint, grad_cam
    >>> from videoswin_keras.data.synthetic import moving_shape
    >>> model = from_checkpoint("pico_moving_shapes", include_rescaling=True)
    >>> grad_cam(model, moving_shape(0, seed=1), stage=2).shape
    (16, 64, 64)

    Source: section 3 of arXiv 1610.02391.
    """
    model, backbone = _parts(model)
    if model is backbone:
        raise TypeError("Grad-CAM is of a class, and a VideoSwinBackbone has none. Give a VideoSwinClassifier.")
    depth, classes = len(backbone.arguments["depths"]), model.output_shape[-1]
    number = _numbered("stage", stage, depth)
    if class_index is not None and not 0 <= operator.index(class_index) < classes:
        raise ValueError(f"`class_index` must be from 0 to {classes - 1}. Received: {class_index}.")
    layer = backbone.get_layer("norm" if number == depth else f"stage{number}")
    logits = _logits_from(layer, model, backbone)
    with kernels.without_gradients():
        features = _tapped(backbone, layer.output, clip)
        index = int(ops.argmax(logits(features))) if class_index is None else class_index
    slopes = kernels.gradient(lambda x: logits(x)[index], features)
    features, slopes = (ops.convert_to_numpy(ops.cast(x, "float32"))[0] for x in (features, slopes))
    heat = np.maximum(features @ slopes.mean((0, 1, 2)), 0)
    heat = _over_clip(heat, backbone, number, clip)
    return heat / (heat.max() or 1)


def overlay(clip: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Colours a clip by a map, from red to yellow; the opacity grows as the root, so that little is seen too.

    Args:
        clip: uint8 RGB in 0–255, (frames, height, width, 3).
        heat: (frames, height, width), not negative: what `grad_cam` returned, or `AttentionMaps.over_clip`. Its maximum
            has the strongest colour.

    Returns:
        uint8 RGB in 0–255, (frames, height, width, 3).

    Raises:
        ValueError: if the clip is of another kind, or the map of another size.

    Example:

    >>> frames = overlay(np.zeros((1, 1, 2, 3), "uint8"), np.array([[[0.0, 1.0]]]))
    >>> frames.tolist()
    [[[[0, 0, 0], [204, 204, 0]]]]
    """
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8:
        raise ValueError(
            "Expected a clip of uint8 and shape (frames, height, width, 3), RGB in 0–255. "
            f"Received: {clip.dtype}, {clip.shape}."
        )
    if heat.shape != clip.shape[:3]:
        raise ValueError(
            f"The map must be (frames, height, width) of the clip: {clip.shape[:3]}. Received: {heat.shape}."
        )
    if not (np.isfinite(heat) & (heat >= 0)).all():
        raise ValueError("The map must be finite and not negative.")
    share = (heat / (heat.max() or 1))[..., None]
    colour = np.concatenate([np.full_like(share, 255), 255 * share, np.zeros_like(share)], axis=-1)
    return np.rint(clip + OPACITY * np.sqrt(share) * (colour - clip)).astype("uint8")


def write_png(path: str | Path, clip: np.ndarray, heat: np.ndarray, count: int = 8) -> None:
    """Writes a picture: a row of frames, evenly spaced over the clip, and below each the same with the map over it.

    Args:
        path: The file, by way of a temporary name.
        clip, heat: As in `overlay`.
        count: Integer. The most frames to show.

    Raises:
        ValueError: as `overlay`, or if `count` is not positive.
        ImportError: if matplotlib is not installed, or cannot be imported.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "map.png"
    >>> write_png(path, np.zeros((16, 32, 32, 3), "uint8"), np.ones((16, 32, 32)))
    >>> path.read_bytes()[1:4]
    b'PNG'
    """
    if count < 1:
        raise ValueError(f"`count` must be at least 1. Received: {count}.")
    with optional.needed("Writing a picture", "matplotlib"):
        import matplotlib.image
    shown = np.linspace(0, len(clip) - 1, min(count, len(clip))).round().astype(int)
    rows = [np.concatenate(list(frames[shown]), axis=1) for frames in (clip, overlay(clip, heat))]
    with replacing(path) as temporary:
        matplotlib.image.imsave(temporary, np.concatenate(rows), format="png")


def _parts(model: Any) -> tuple[keras.Model, VideoSwinBackbone]:
    """Returns what a model computes while its memory is empty, and the backbone of that."""
    if isinstance(model, RecurrentVideoSwin):
        model = model.model
    if not isinstance(model, VideoSwinClassifier | VideoSwinBackbone):
        raise TypeError(
            "Expected a VideoSwinClassifier, VideoSwinBackbone or RecurrentVideoSwin. "
            f"Received: {type(model).__name__}."
        )
    return model, model.backbone if isinstance(model, VideoSwinClassifier) else model


def _numbered(name: str, number: int, count: int) -> int:
    """Returns a number from 1 to `count`, or raises ValueError."""
    if not 1 <= abs(operator.index(number)) <= count:
        raise ValueError(
            f"`{name}` must be from 1 to {count}, or from -1 for the last to -{count}. Received: {number}."
        )
    return number if number > 0 else count + 1 + number


def _tapped(backbone: VideoSwinBackbone, output: keras.KerasTensor, clip: Any) -> Any:
    """Returns the value that a symbolic output has for a clip, as a batch of one."""
    shape, wanted = tuple(np.shape(clip)), backbone.input_shape[1:]
    fits = len(shape) == 4 and all(a == b or b is None for a, b in zip(shape, wanted, strict=True))
    if not fits or 0 in shape:
        raise ValueError(
            f"Expected one clip as the model takes it, (frames, height, width, channels): {wanted}. Received: {shape}."
        )
    return keras.Model(backbone.input, output)(ops.expand_dims(ops.convert_to_tensor(clip), 0), training=False)


def _logits_from(layer: keras.layers.Layer, model: keras.Model, backbone: VideoSwinBackbone) -> Callable[[Any], Any]:
    """Returns what computes the logits (num_classes,) from the output of `layer` for one clip."""
    layers = [*backbone.layers, *model.layers[2:-1]]  # of the model all but input, backbone and activation
    following = layers[layers.index(layer) + 1 :]

    def logits(x: Any) -> Any:
        for layer in following:
            x = layer(x, training=False)
        return ops.cast(x[0], "float32")

    return logits


def _over_clip(x: np.ndarray, backbone: VideoSwinBackbone, stage: int, clip: Any) -> np.ndarray:
    """Interpolates a map of a stage's places at the pixels of a clip, linearly between their centres."""
    frames, height, width = backbone.arguments["patch_size"]
    merged = 2 ** (stage - 1)
    for axis, stride in enumerate((frames, height * merged, width * merged)):
        places, pixels = x.shape[axis], np.arange(np.shape(clip)[axis])
        centres = (np.arange(places) + 0.5) * stride - 0.5
        spread = np.stack([np.interp(pixels, centres, one) for one in np.eye(places)]).astype("float32")
        x = np.moveaxis(np.tensordot(x, spread, (axis, 0)), -1, axis)
    return x

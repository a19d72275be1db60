"""What a forward pass costs, counted from the configuration."""

import math
from typing import Any

from videoswin_keras.models.backbone import VideoSwinBackbone
from videoswin_keras.models.classifier import VideoSwinClassifier
from videoswin_keras.nn import windows


def multiply_adds(
    model: VideoSwinBackbone | VideoSwinClassifier, size: tuple[int, int, int] | None = None
) -> dict[str, int]:
    """Counts the multiply-adds of the matrix products of one clip, as published figures do.

    Args:
        model: Backbone or classifier.
        size: (frames, height, width) of the clip in pixels. Default: the model's own input shape.

    Returns:
        Dict "patch_embedding", "stage1", "merging1", … "stage4", and "predictions" of a classifier. Attention is
        counted over padded windows, which is what is computed.

    Raises:
        ValueError: if the model takes clips of any size and `size` is not given.

    Example:

    >>> from videoswin_keras import VideoSwinBackbone
    >>> round(sum(multiply_adds(VideoSwinBackbone()).values()) / 1e9, 1)
    87.8
    """
    backbone = model.backbone if isinstance(model, VideoSwinClassifier) else model
    arguments: dict[str, Any] = backbone.arguments
    *sides, colours = arguments["input_shape"]
    if size is None and None in sides:
        raise ValueError(f"The model takes clips of any size, {tuple(sides)}: give `size` (frames, height, width).")
    patch, window_size = arguments["patch_size"], arguments["window_size"]
    tokens = tuple(windows.ceil_div(length, side) for length, side in zip(size or sides, patch, strict=True))
    channels = arguments["embed_dim"]
    counts = {"patch_embedding": math.prod(tokens) * math.prod(patch) * colours * channels}
    for stage, depth in enumerate(arguments["depths"], start=1):
        if stage > 1:
            tokens = (tokens[0], windows.ceil_div(tokens[1], 2), windows.ceil_div(tokens[2], 2))
            counts[f"merging{stage - 1}"] = math.prod(tokens) * 4 * channels * 2 * channels
            channels *= 2
        window, _ = windows.clip_window(tokens, window_size, False)
        padded = math.prod(windows.padded_size(tokens, window))
        attention = padded * channels * (4 * channels + 2 * math.prod(window))
        mlp = 2 * math.prod(tokens) * channels * int(channels * arguments["mlp_ratio"])
        counts[f"stage{stage}"] = depth * (attention + mlp)
    if isinstance(model, VideoSwinClassifier):
        counts["predictions"] = channels * model.output_shape[-1]
    return counts

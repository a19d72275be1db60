"""Resizing, cropping and normalising frames as the published tests do it."""

import numpy as np

from videoswin_keras import optional

# RGB statistics of ImageNet on the scale 0–255, which every published checkpoint was trained with.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def resize_short_side(frame: np.ndarray, size: int, is_floored: bool = False) -> np.ndarray:
    """Resizes a frame so that its shorter side is `size`, keeping the aspect.

    Args:
        frame: uint8 of shape (height, width, channels), 0–255; one to four channels.
        size: Integer. The shorter side of the result, in pixels.
        is_floored: Whether the longer side is rounded down, as torchvision does.

    Returns:
        uint8 of shape (new height, new width, channels), 0–255. A side of x pixels becomes
        ⌊x · size / shorter side + 0.5⌋; floored ⌊x · size / shorter side⌋.

    Raises:
        ValueError: if the frame is not of that kind, or `size` is below 1.
        ImportError: if OpenCV is not installed, or cannot be imported.

    Example:

    >>> resize_short_side(np.zeros((120, 161, 3), "uint8"), 60).shape
    (60, 81, 3)

    Source: `Resize` of mmaction2, github.com/open-mmlab/mmaction2, and of torchvision.
    """
    if frame.ndim != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
        raise ValueError(
            f"Expected a frame of uint8 and shape (height, width, channels). Received: {frame.dtype}, {frame.shape}."
        )
    if size < 1:
        raise ValueError(f"`size` must be at least 1. Received: {size}.")
    with optional.needed("Resizing frames", "cv2"):
        import cv2
    height, width, channels = frame.shape
    shorter = min(height, width)
    if is_floored:
        height, width = size * height // shorter, size * width // shorter
    else:
        factor = size / shorter
        height, width = int(height * factor + 0.5), int(width * factor + 0.5)
    # The checkpoints were trained and tested on frames that OpenCV shrank bilinearly, without antialiasing: each new
    # pixel mixes four old ones and skips the rest. A resize with antialiasing gives smoother frames than they know.
    resized = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.reshape(resized, (height, width, channels))  # OpenCV drops a single channel


def center_crop(clip: np.ndarray, size: int, is_rounded: bool = False) -> np.ndarray:
    """Cuts the middle square out of every frame.

    Args:
        clip: Array of shape (frames, height, width, channels).
        size: Integer. Side of the square, in pixels.
        is_rounded: Whether the left and the upper margin are rounded, halves to the even number, as torchvision does.

    Returns:
        A view of shape (frames, size, size, channels). If the margins cannot be equal, the left and the upper one are
        a pixel narrower; rounded, where that is even.

    Raises:
        ValueError: if the clip has no such shape, or its frames are smaller than the square.

    Example:

    >>> center_crop(np.arange(5).reshape(1, 1, 5, 1), 1).tolist()
    [[[[2]]]]
    """
    height, width = _sides(clip, size)
    if is_rounded:
        return _crop(clip, round((height - size) / 2), round((width - size) / 2), size)
    return _crop(clip, (height - size) // 2, (width - size) // 2, size)


def three_crops(clip: np.ndarray, size: int) -> np.ndarray:
    """Cuts three squares out of every frame: at the start, in the middle and at the end of its longer side.

    Args:
        clip: Array of shape (frames, height, width, channels).
        size: Integer. Side of the squares, in pixels.

    Returns:
        Array of shape (3, frames, size, size, channels). Along the shorter side each square is in the middle. If
        length − size is odd, the last one ends a pixel before the end, as in mmaction2.

    Raises:
        ValueError: if the clip has no such shape, or its frames are smaller than the square.

    Example:

    >>> three_crops(np.arange(5).reshape(1, 1, 5, 1), 1).ravel().tolist()
    [0, 2, 4]

    Source: `ThreeCrop` of mmaction2, which cuts the same squares in another order; scores are averaged over them.
    """
    height, width = _sides(clip, size)
    top, left = (height - size) // 2, (width - size) // 2
    corners = [(top, 0), (top, left), (top, 2 * left)]
    if height > width:
        corners = [(0, left), (top, left), (2 * top, left)]
    return np.stack([_crop(clip, *corner, size) for corner in corners])


def normalize(clip: np.ndarray) -> np.ndarray:
    """Turns RGB in 0–255 into what the published checkpoints expect: `(x − mean) / std` per channel, ImageNet's.

    Args:
        clip: Array of shape (…, 3), uint8 or floating, 0–255.

    Returns:
        float32 of the same shape, about −2.2 to 2.7.

    Raises:
        ValueError: if the last axis is not 3 channels.

    Example:

    >>> float(normalize(np.full((1, 1, 1, 3), 255, "uint8")).max()) < 2.7
    True
    """
    if clip.shape[-1:] != (3,):
        raise ValueError(f"Expected three channels (RGB) on the last axis. Received: shape {clip.shape}.")
    return (clip.astype("float32") - np.array(MEAN, "float32")) / np.array(STD, "float32")


def _sides(clip: np.ndarray, size: int) -> tuple[int, int]:
    if clip.ndim != 4:
        raise ValueError(f"Expected a clip of shape (frames, height, width, channels). Received: shape {clip.shape}.")
    height, width = clip.shape[1:3]
    if not 1 <= size <= min(height, width):
        raise ValueError(
            f"A crop of {size} × {size} does not fit into frames of height {height} and width {width}. "
            f"Resize them first, so that the shorter side is at least the crop."
        )
    return height, width


def _crop(clip: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    return clip[:, top : top + size, left : left + size]

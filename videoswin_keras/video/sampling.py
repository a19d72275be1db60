"""Which frames the published tests take from a video: index arithmetic, nothing else."""

import numpy as np


def kinetics_clips(num_frames: int, clip_frames: int = 32, interval: int = 2, num_clips: int = 1) -> np.ndarray:
    """Returns the frame numbers of the official test on Kinetics: clips of evenly spaced frames, spread over the video.

    The starts lie in the middle of `num_clips` equal parts of all possible starts. A video shorter than one clip is
    repeated from its first frame until the clip is full, and then every clip is the same.

    Args:
        num_frames: Integer. Frames of the video, at least 1.
        clip_frames: Integer. Frames of a clip. Default: 32.
        interval: Integer. Distance of neighbouring frames of a clip, in frames. Default: 2.
        num_clips: Integer. Clips. Default: 1, the one of the validation during training; the published test has 4.

    Returns:
        Integers of shape (num_clips, clip_frames), each from 0 to num_frames − 1.

    Raises:
        ValueError: if an argument is below 1.

    Example:

    >>> kinetics_clips(num_frames=10, clip_frames=4, interval=2, num_clips=2).tolist()
    [[0, 2, 4, 6], [2, 4, 6, 8]]

    Source: `SampleFrames` in test mode, github.com/SwinTransformer/Video-Swin-Transformer. A clip counts as
    `clip_frames · interval` frames there; mmaction2 1.x does otherwise: `mmaction2_clips`.
    """
    _check(num_frames=num_frames, clip_frames=clip_frames, interval=interval, num_clips=num_clips)
    span = clip_frames * interval
    starts = np.zeros(num_clips, "int64")
    if num_frames >= span:
        part = (num_frames - span + 1) / num_clips
        starts = (np.arange(num_clips) * part + part / 2).astype("int64")
    return (starts[:, None] + np.arange(clip_frames) * interval) % num_frames


def mmaction2_clips(num_frames: int, clip_frames: int = 32, interval: int = 2, num_clips: int = 1) -> np.ndarray:
    """Returns the frame numbers of mmaction2 1.x's test on Kinetics: from the first possible clip to the last.

    A clip counts from its first frame to its last, `interval − 1` frames less than in the official test. A video
    shorter than one clip is repeated from its first frame until the clip is full.

    Args:
        num_frames: Integer. Frames of the video, at least 1.
        clip_frames: Integer. Frames of a clip. Default: 32.
        interval: Integer. Distance of neighbouring frames of a clip, in frames. Default: 2.
        num_clips: Integer. Clips. Default: 1, from the middle; the published test has 4.

    Returns:
        Integers of shape (num_clips, clip_frames), each from 0 to num_frames − 1.

    Raises:
        ValueError: if an argument is below 1.

    Example:

    >>> mmaction2_clips(num_frames=10, clip_frames=4, interval=2, num_clips=2).tolist()
    [[0, 2, 4, 6], [3, 5, 7, 9]]

    Source: `SampleFrames` in test mode, github.com/open-mmlab/mmaction2 (1.x).
    """
    _check(num_frames=num_frames, clip_frames=clip_frames, interval=interval, num_clips=num_clips)
    last = max(num_frames - (clip_frames - 1) * interval - 1, 0)
    # As there: halves are rounded to the even number.
    starts = [last // 2] if num_clips == 1 else np.round(np.arange(num_clips) * (last / (num_clips - 1)))
    return (np.asarray(starts, "int64")[:, None] + np.arange(clip_frames) * interval) % num_frames


def uniform_clip(num_frames: int, clip_frames: int = 32) -> np.ndarray:
    """Returns the frame numbers of the official test on Something-Something v2: one clip over the whole video.

    The video is cut into `clip_frames` equal parts, and the middle frame of each is taken. A video of fewer frames
    than that shows some of them several times.

    Args:
        num_frames: Integer. Frames of the video, at least 1.
        clip_frames: Integer. Frames of a clip. Default: 32.

    Returns:
        Integers of shape (1, clip_frames), each from 0 to num_frames − 1, never decreasing.

    Raises:
        ValueError: if an argument is below 1.

    Example:

    >>> uniform_clip(num_frames=9, clip_frames=4).tolist()
    [[1, 3, 5, 7]]

    Source: `SampleFrames` with `frame_uniform`, github.com/SwinTransformer/Video-Swin-Transformer.
    """
    _check(num_frames=num_frames, clip_frames=clip_frames)
    # As officially: the last frame is the end of the last part, and halves are rounded to the even number.
    ends = np.round(np.arange(clip_frames + 1) * ((num_frames - 1) / clip_frames)).astype("int64")
    return ((ends[:-1] + ends[1:]) // 2)[None]


def torchvision_clips(num_frames: int, clip_frames: int = 32, num_clips: int = 1) -> np.ndarray:
    """Returns the frame numbers of torchvision's test: clips of consecutive frames, the first to the last possible.

    The numbers count frames of the video resampled to 15 frames per second. One clip is taken from the middle (where
    torchvision would take the first). A video shorter than one clip, which torchvision leaves out, is repeated from
    its first frame until the clip is full, as in the official test on Kinetics.

    Args:
        num_frames: Integer. Frames of the resampled video, at least 1.
        clip_frames: Integer. Frames of a clip. Default: 32.
        num_clips: Integer. Clips. Default: 1; the published test has 12.

    Returns:
        Integers of shape (num_clips, clip_frames), each from 0 to num_frames − 1.

    Raises:
        ValueError: if an argument is below 1.

    Example:

    >>> torchvision_clips(num_frames=8, clip_frames=3, num_clips=3).tolist()
    [[0, 1, 2], [2, 3, 4], [5, 6, 7]]

    Source: `VideoClips` and `UniformClipSampler`, github.com/pytorch/vision.
    """
    _check(num_frames=num_frames, clip_frames=clip_frames, num_clips=num_clips)
    last = max(num_frames - clip_frames, 0)
    starts = np.array([last // 2]) if num_clips == 1 else np.arange(num_clips) * last // (num_clips - 1)
    return (starts[:, None] + np.arange(clip_frames)) % num_frames


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {count}.")

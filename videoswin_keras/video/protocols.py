"""The published ways to test on a video: from the file to the clips (views) whose scores are averaged."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from videoswin_keras.video import sampling


@dataclass(frozen=True)
class Protocol:
    """How clips are taken from a video: which frames, of which size, how many clips and crops.

    Take one of the published ones with `get`, which can also change some of its values.

    Args:
        name: What decides which frames are taken: `"kinetics"`, `"kinetics_mmaction2"`, `"something_something_v2"` or
            `"torchvision"`, which decides about pixels too.
        clip_frames: Integer. Frames of a clip. Default: 32.
        interval: Integer. Distance of neighbouring frames of a clip. Only those of Kinetics use it. Default: 2.
        rate: Float. Frames per second of the time line that frames are counted on. Default: the video's own.
        num_clips: Integer. Clips of the full test. Default: 4.
        num_crops: Integer. Crops of the full test: 3 (start, middle, end of the longer side) or 1. Default: 3.
        short_side_single: Integer. Shorter side of the frames before the crop, in pixels, with one view. Default: 256.
        short_side_full: Integer. The same in the full test. Default: 224.
        crop: Integer. Side of the square that is cut out, in pixels. Default: 224.
        is_interval_checked: Whether a video of no more frames than `interval` is refused; a clip of it is one frame,
            repeated. Default: False.

    Raises:
        ValueError: if a value makes no sense.

    Example:

    >>> Protocol("kinetics", clip_frames=16, interval=1, short_side_single=64, short_side_full=64, crop=64).num_views
    12
    """

    name: str
    clip_frames: int = 32
    interval: int = 2
    rate: float | None = None
    num_clips: int = 4
    num_crops: int = 3
    short_side_single: int = 256
    short_side_full: int = 224
    crop: int = 224
    is_interval_checked: bool = False

    def __post_init__(self) -> None:
        if self.name not in ("kinetics", "kinetics_mmaction2", "something_something_v2", "torchvision"):
            raise ValueError(f"No protocol has the name {self.name!r}. Choose one of {', '.join(PROTOCOLS)}.")
        for name in ("clip_frames", "interval", "num_clips", "crop"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {getattr(self, name)}.")
        for name, most in (("clip_frames", 10_000), ("num_clips", 1000), ("crop", 10_000)):
            if getattr(self, name) > most:
                raise ValueError(f"`{name}` must be at most {most}. Received: {getattr(self, name)}.")
        if self.num_crops not in (1, 3):
            raise ValueError(f"`num_crops` must be 1 or 3. Received: {self.num_crops}.")
        if self.name == "something_something_v2" and self.num_clips != 1:
            raise ValueError(f"This protocol's one clip is the whole video. Received: num_clips={self.num_clips}.")
        if min(self.short_side_single, self.short_side_full) < self.crop:
            raise ValueError(
                f"The shorter sides must be at least the crop. Received: {self.short_side_single} (one view) and "
                f"{self.short_side_full} (full test), crop {self.crop}."
            )

    @property
    def num_views(self) -> int:
        """Number of views of the full test."""
        return self.num_clips * self.num_crops

    def describe(self, views: int = 1) -> str:
        """Returns in words what `views` takes, for people to check."""
        count = 1 if views == 1 else self.num_views
        side = self.short_side_single if views == 1 else self.short_side_full
        if self.name == "something_something_v2":
            which = "spread over the whole video"
        elif self.rate is not None:
            which = f"at {self.rate:g} per second"
        else:
            which = f"one in every {self.interval}" if self.interval > 1 else "one after another"
        return (
            f"{self.clip_frames} frames, {which}; shorter side {side}, crop {self.crop} pixels; "
            f"{count} view{'s' if count > 1 else ''} per video"
        )

    def views(self, path: str | Path, views: int = 1, input_rate: float | None = None) -> "Views":
        """Decodes the frames of all views of a video, each frame once.

        Args:
            path: The video file.
            views: Integer. 1: one clip from the middle, one crop from the middle, as in validation during training.
                12: the full published test, of as many views as the protocol has (`num_views`, which says the same).
                On Something-Something v2 these are 3.
            input_rate: Float. Frames per second of a bare stream (H.264, HEVC, motion JPEG, …), which has no times.

        Returns:
            The views, to be read one at a time.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if `views` is another number, `input_rate` is not from 0.001 to 1000 or the file has times of
                its own, or the interval is checked and as long as the video.
            VideoError: if the file is no video, or cannot be decoded.

        Example, with a picture, which is a video of one frame:

        >>> import cv2, os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "picture.png")
        >>> cv2.imwrite(path, np.zeros((90, 120, 3), "uint8"))
        True
        >>> get("kinetics", clip_frames=16, crop=64).views(path, views=12).array().shape
        (12, 16, 64, 64, 3)
        """
        if views not in (1, 12, self.num_views):
            raise ValueError(
                f"`views` must be 1 (one clip, one crop) or 12 (the full test, here of {self.num_views} views). "
                f"Received: {views}."
            )
        from videoswin_keras.video import decode, transforms  # a model has a protocol where no video can be read

        is_full = views != 1
        index = decode.probe(path, input_rate)
        num_slots = index.num_slots(self.rate)
        if self.is_interval_checked and self.name.startswith("kinetics") and 1 < num_slots <= self.interval:
            raise ValueError(
                f"The interval must be less than the video's number of frames, else a clip is one frame, repeated. "
                f"Received: interval {self.interval}; {path} has {num_slots} frames."
            )
        clips = index.frames_at(self._slots(num_slots, self.num_clips if is_full else 1), self.rate)
        short_side = self.short_side_full if is_full else self.short_side_single
        num_crops = self.num_crops if is_full else 1

        is_torchvision = self.name == "torchvision"

        def crops(frame: np.ndarray) -> np.ndarray:
            clip = transforms.resize_short_side(frame, short_side, is_torchvision)[None]
            if num_crops == 3:
                return transforms.three_crops(clip, self.crop)[:, 0]
            return transforms.center_crop(clip, self.crop, is_torchvision).copy()  # a view would hold the whole frame

        return Views(clips, decode.read_frames(path, index, clips.ravel(), crops))

    def _slots(self, num_slots: int, num_clips: int) -> np.ndarray:
        if self.name == "kinetics":
            return sampling.kinetics_clips(num_slots, self.clip_frames, self.interval, num_clips)
        if self.name == "kinetics_mmaction2":
            return sampling.mmaction2_clips(num_slots, self.clip_frames, self.interval, num_clips)
        if self.name == "torchvision":
            return sampling.torchvision_clips(num_slots, self.clip_frames, num_clips)
        return sampling.uniform_clip(num_slots, self.clip_frames)


class Views(Sequence[np.ndarray]):
    """The views of one video: clip by clip, and for each clip crop by crop.

    Views share their frames, which are held once; a view is put together when it is asked for.
    Each is uint8 of shape (frames, height, width, 3), RGB, 0–255.

    Args:
        clips: Integers of shape (clips, frames). Frame numbers of each clip.
        frames: For each of these numbers uint8 of shape (crops, height, width, 3).

    Example:

    >>> views = Views(np.array([[0, 1], [1, 1]]), {n: np.full((3, 4, 4, 3), n, "uint8") for n in (0, 1)})
    >>> len(views), views[0].shape, views.array().shape
    (6, (2, 4, 4, 3), (6, 2, 4, 4, 3))
    """

    def __init__(self, clips: np.ndarray, frames: dict[int, np.ndarray]):
        self.clips = clips
        self.frames = frames
        self.num_crops = len(next(iter(frames.values())))

    def __len__(self) -> int:
        return len(self.clips) * self.num_crops

    def __getitem__(self, view: Any) -> Any:
        if isinstance(view, slice):
            return [self[number] for number in range(*view.indices(len(self)))]
        clip, crop = divmod(range(len(self))[view], self.num_crops)
        return np.stack([self.frames[int(number)][crop] for number in self.clips[clip]])

    def array(self) -> np.ndarray:
        """All views at once: uint8 of shape (views, frames, height, width, 3)."""
        return np.stack(list(self))


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("kinetics"),
        Protocol("kinetics_mmaction2"),
        Protocol("something_something_v2", num_clips=1),
        Protocol("torchvision", interval=1, rate=15.0, num_clips=12, num_crops=1, short_side_full=256),
    )
}


def get(name: str, crop: int | None = None, **changes: Any) -> Protocol:
    """Returns a published protocol, with changes for a model of another size.

    | name | frames | full test | shorter side and crop of the full test |
    |---|---|---|---|
    | `kinetics` | 32, every second one | 4 clips × 3 crops | 224, 224 |
    | `kinetics_mmaction2` | the same, other starts | 4 clips × 3 crops | 224, 224 |
    | `something_something_v2` | 32, over the whole video | 1 clip × 3 crops | 224, 224 |
    | `torchvision` | 32, at 15 per second | 12 clips × 1 crop | 256, 224 |

    With one view each takes the middle clip, the shorter side 256 and the crop of 224 in the middle.

    Args:
        name: One of these names.
        crop: Integer. Side of the crop, in pixels. Shorter sides that are not given are scaled with it. Default: 224.
        **changes: Other values of `Protocol`.

    Raises:
        ValueError: if there is no such protocol, or a value makes no sense.
        TypeError: if `Protocol` has no value of that name.

    Example:

    >>> small = get("kinetics", clip_frames=16, interval=1, crop=64)
    >>> small.short_side_single, small.short_side_full
    (73, 64)

    Source: the test configurations of the official repository, of mmaction2 1.x and of torchvision's `Swin3D` weights.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"No protocol has the name {name!r}. Choose one of {', '.join(PROTOCOLS)}.")
    published = PROTOCOLS[name]
    unknown = sorted(changes.keys() - {field.name for field in fields(Protocol)})
    if unknown:
        raise TypeError(
            f"A protocol has no {', '.join(unknown)}; it has {', '.join(f.name for f in fields(Protocol))}."
        )
    if crop is not None:
        sides = {side: getattr(published, side) for side in ("short_side_single", "short_side_full")}
        changes = {**{side: round(pixels * crop / published.crop) for side, pixels in sides.items()}, **changes}
        changes["crop"] = crop
    return replace(published, **changes)

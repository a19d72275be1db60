"""Classifies a recording of any length, clip after clip, in constant memory."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras.classification import as_input, as_probabilities
from videoswin_keras.models.classifier import VideoSwinClassifier
from videoswin_keras.models.recurrent import RecurrentVideoSwin, flatten
from videoswin_keras.streaming.frames import sample
from videoswin_keras.streaming.smoothing import CausalMedian, check_size
from videoswin_keras.video import transforms


@dataclass(frozen=True)
class Result:
    """What a stream says about a stretch of the recording.

    Attributes:
        start: Seconds from the first frame of the recording.
        end: Seconds. The results of a recording follow each other without gap or overlap.
        probabilities: (num_classes,) in 0–1; None where frames are missing, and nothing can be said.
        smoothed: The median of the last results, scaled to sum to 1; None as above.
    """

    start: float
    end: float
    probabilities: tuple[float, ...] | None
    smoothed: tuple[float, ...] | None

    @property
    def label(self) -> int | None:
        """Index of the most probable class."""
        return None if self.probabilities is None else int(np.argmax(self.probabilities))

    @property
    def smoothed_label(self) -> int | None:
        """Index of the most probable class after smoothing."""
        return None if self.smoothed is None else int(np.argmax(self.smoothed))

    @property
    def uncertainty(self) -> float | None:
        """Entropy of the probabilities, from 0 (sure) to 1 (all classes alike)."""
        if self.probabilities is None:
            return None
        p = np.array([value for value in self.probabilities if value > 0])
        return float(-(p * np.log(p)).sum() / np.log(len(self.probabilities)))


class VideoStream:
    """Classifies recordings: a clip of the last frames every few frames, with what the memory carries along.

    Each recording begins with an empty window, an empty memory and an empty smoother. A clip in which frames are
    missing is not scored and not shown to the memory; the window fills again after a gap.

    Args:
        model: `VideoSwinClassifier`, or a `RecurrentVideoSwin` of one.
        fps: Float. Frames per second that are looked at.
        clip_frames: Integer. Frames of a clip.
        stride: Integer. A clip every so many frames.
        smooth: Integer from 1 (none) to 99. How many results the median is taken of.
        short_side: Integer. Shorter side of a frame in pixels, before the crop.
        crop: Integer. Side of the square in the middle of it that is looked at.
        batch_size: Integer. Clips that are computed at once as far as they do not depend on a memory: 1 for live
            video; more is faster for recordings, and gives the same to rounding.
        longest_hold: Float. Seconds for which a frame stands for those that follow it; then there is a gap.

    Raises:
        ValueError: if a number makes no sense, or the model takes clips of another size.

    Example:

    >>> from videoswin_keras import from_checkpoint
    >>> from videoswin_keras.data.synthetic import moving_shape
    >>> model = from_checkpoint("pico_moving_shapes", include_rescaling=True)
    >>> stream = VideoStream(model, fps=25, clip_frames=16, stride=8, short_side=64, crop=64)
    >>> frames = moving_shape(3, seed=1, frames=40, size=64)
    >>> [(result.start, result.end, result.smoothed_label) for result in stream(zip(np.arange(40) / 25, frames))]
    [(0.0, 0.64, 3), (0.64, 0.96, 3), (0.96, 1.28, 3), (1.28, 1.6, 3)]
    """

    def __init__(
        self,
        model: VideoSwinClassifier | RecurrentVideoSwin,
        fps: float = 4.0,
        clip_frames: int = 32,
        stride: int = 8,
        smooth: int = 9,
        short_side: int = 224,
        crop: int = 224,
        batch_size: int = 1,
        longest_hold: float = 2.0,
    ):
        classifier = model.model if isinstance(model, RecurrentVideoSwin) else model
        if not isinstance(classifier, VideoSwinClassifier):
            raise ValueError(f"A stream needs a model with classes. Received: {type(classifier).__name__}.")
        numbers = {"clip_frames": clip_frames, "stride": stride, "crop": crop, "batch_size": batch_size}
        for name, value in numbers.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {value}.")
        if stride > clip_frames:
            raise ValueError(f"`stride` must not exceed `clip_frames`. Received: {stride} and {clip_frames}.")
        if short_side < crop:
            raise ValueError(f"`short_side` must be at least `crop`. Received: {short_side} and {crop}.")
        wanted = classifier.input_shape[1:4]
        if any(side not in (None, given) for side, given in zip(wanted, (clip_frames, crop, crop), strict=True)):
            raise ValueError(
                f"The model takes clips of (frames, height, width) {wanted}. Received: ({clip_frames}, {crop}, {crop})."
            )
        self.fps, self.clip_frames, self.stride = fps, clip_frames, stride
        self.smooth = check_size(smooth)
        self.short_side, self.crop = short_side, crop
        self.batch_size, self.longest_hold = batch_size, longest_hold
        self._classifier, self._model = classifier, model
        self._before: keras.Model = model
        self._after: keras.Model | None = None
        if isinstance(model, RecurrentVideoSwin):
            self._before, self._after = model.split()

    def __call__(self, frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[Result]:
        """Yields the results of one recording, in order.

        Args:
            frames: Pairs of time in seconds and frame, uint8 RGB (height, width, 3), of any size.
        """
        smoother, state = CausalMedian(self.smooth), self._initial_state()
        for batch in _batches(self._clips(frames), self.batch_size):
            clips = [clip for _, _, clip in batch if clip is not None]
            scores, state = self._score(clips, state)
            remaining = iter(scores)
            for start, end, clip in batch:
                if clip is None:
                    yield Result(start, end, None, None)
                    continue
                probabilities = next(remaining)
                smoothed = smoother.add(probabilities)
                yield Result(start, end, tuple(probabilities.tolist()), tuple(smoothed.tolist()))

    def _clips(self, frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[tuple[float, float, np.ndarray | None]]:
        """Yields start, end and clip of each result; no clip where frames are missing."""
        window: deque[np.ndarray | None] = deque(maxlen=self.clip_frames)
        count = done = 0  # moments seen; moments that a result has been given for

        def clip() -> tuple[float, float, np.ndarray | None]:
            pictures = [picture for picture in window if picture is not None]
            if len(pictures) < len(window):
                return done / self.fps, count / self.fps, None
            pictures += pictures[-1:] * (self.clip_frames - len(pictures))  # a short recording: its last frame
            return done / self.fps, count / self.fps, np.stack(pictures)

        for picture in sample(((time, self._prepare(frame)) for time, frame in frames), self.fps, self.longest_hold):
            window.append(picture)
            count += 1
            if count >= self.clip_frames and (count - self.clip_frames) % self.stride == 0:
                yield clip()
                done = count
        if count > done:
            yield clip()

    def _prepare(self, frame: np.ndarray) -> np.ndarray:
        return transforms.center_crop(transforms.resize_short_side(frame, self.short_side)[None], self.crop)[0]

    def _initial_state(self) -> list[np.ndarray]:
        if self._after is None:
            return []
        return [np.array(ops.convert_to_numpy(part)) for part in flatten(self._model.initial_state(1))]

    def _score(self, clips: list[np.ndarray], state: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns the probabilities of each clip, and the state after the last."""
        if not clips:
            return [], state
        # Always a whole batch, so that every backend compiles once, and a clip's numbers do not depend on its company.
        inputs = np.stack(clips + clips[-1:] * (self.batch_size - len(clips)))
        outputs = self._before.predict_on_batch(as_input(self._classifier, inputs))[: len(clips)]
        if self._after is not None:
            scores = []
            for tokens in outputs:
                output, *state = self._after.predict_on_batch([tokens[None], *state])
                scores.append(output[0])
            outputs = np.stack(scores)
        return list(as_probabilities(self._classifier, outputs)), state


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

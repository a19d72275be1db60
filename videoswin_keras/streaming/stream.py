"""Classifies a recording of any length, clip after clip, in constant memory."""

import contextlib
import copy
import gc
import itertools
import math
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras.classification import as_input
from videoswin_keras.models.outputs import class_names, is_multi_label, probabilities, with_classes
from videoswin_keras.models.recurrent import RecurrentVideoSwin, flatten
from videoswin_keras.prefetch import at_once, prefetched
from videoswin_keras.streaming.frames import Missing, Sampler
from videoswin_keras.streaming.smoothing import check_size, smooth
from videoswin_keras.streaming.timeline import LONGEST, Result
from videoswin_keras.video import transforms

Frame = np.ndarray | Callable[[], np.ndarray]
Clip = tuple[float, float, np.ndarray | None]  # start and end in seconds, pixels or None where frames are missing
# Clips, and where the state of their stream has come with them: sampler, window, moments that have results.
Read = tuple[list[Clip], Sampler, deque[np.ndarray | None], int]


@dataclass
class StreamState:
    """All that the past of a recording can do to its future. Its size does not depend on how long that past is.

    Attributes:
        sampler: Where in time the stream is, and the frame shown last.
        window: The pictures of the next clip that are known already, None where frames are missing.
        done: Moments for which a result has been given.
        memory: Queue and count of each memory; empty for a model without one.
        projected: What is read of the slots of each queue, kept because the queue changes by one slot at a time. It
            depends on the weights, which must not change during a recording.
    """

    sampler: Sampler
    window: deque[np.ndarray | None]
    done: int
    memory: list[np.ndarray]
    projected: list[np.ndarray]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the state as arrays, for a file; `VideoStream.restore` takes them."""
        shown = self.sampler.shown()
        pictures = [picture for picture in self.window if picture is not None]
        arrays = {
            "position": np.array([self.sampler.moment, self.done], "int64"),
            "times": np.array(self.sampler.times(), "float64"),
            "shown": np.zeros(0, "uint8") if shown is None else shown[None],
            "is_known": np.array([picture is not None for picture in self.window], bool),
            "window": np.stack(pictures) if pictures else np.zeros(0, "uint8"),
        }
        return arrays | {f"memory{index}": value.copy() for index, value in enumerate(self.memory)}


@dataclass
class Feed:
    """One of several live streams.

    Attributes:
        frames: Pairs of time and frame, as `VideoStream` takes them.
        state: What `VideoStream.start` or `restore` returned.
        is_late: Function that says, when a clip is complete, whether to leave it out: where live video comes faster
            than the model can take it. The next result then covers its time too.
    """

    frames: Iterable[tuple[float, Frame]]
    state: StreamState
    is_late: Callable[[], bool]


class VideoStream:
    """Classifies recordings: a clip of the last frames every few frames, with what the memory carries along.

    Each recording begins with an empty window, an empty memory and an empty smoother. A clip in which frames are
    missing is not scored and not shown to the memory; the window fills again after a gap. A recording that is shorter
    than a clip is continued with its last frame.

    Args:
        model: `VideoSwinClassifier`, a `RecurrentVideoSwin` of one, or a Keras model with another head over a
            `VideoSwinBackbone`.
        fps: Float from 0.001 to 1000. Frames per second that are looked at.
        clip_frames: Integer. Frames of a clip.
        stride: Integer. A clip every so many frames.
        smooth: Integer from 1 (none) to 99. How many results the median is taken of.
        centred: Whether as many results after a result count for its median as before it: for recordings. Results
            then come later, by half of `smooth`.
        short_side: Integer. Shorter side of a frame in pixels, before the crop.
        crop: Integer. Side of the square in the middle of it that is looked at.
        batch_size: Integer. Clips that are computed at once as far as they do not depend on a memory: 1 for live
            video; more, for recordings, keeps a GPU or many cores busy, and gives the same to rounding.
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
        model: keras.Model,
        fps: float = 4.0,
        clip_frames: int = 32,
        stride: int = 8,
        smooth: int = 9,
        centred: bool = False,
        short_side: int = 256,
        crop: int = 224,
        batch_size: int = 1,
        longest_hold: float = 2.0,
    ):
        classifier = with_classes(model)
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
        self.smooth, self.centred = check_size(smooth), centred
        self.short_side, self.crop = short_side, crop
        self.batch_size, self.longest_hold = batch_size, longest_hold
        self._classifier, self._model = classifier, model
        self.multi_label = is_multi_label(classifier)
        self._before: keras.Model = model
        self._after: keras.Model | None = None
        self._projections: list[keras.Model] = []
        if isinstance(model, RecurrentVideoSwin):
            self._before, self._after, self._projections = model.split()
        self.start()  # says what is wrong with `fps` or `longest_hold`

    @property
    def num_classes(self) -> int:
        """How many probabilities a result has."""
        return len(class_names(self._classifier))

    def __call__(self, frames: Iterable[tuple[float, Frame]]) -> Iterator[Result]:
        """Yields the results of one recording, in order.

        Args:
            frames: Pairs of time in seconds and frame, uint8 RGB (height, width, 3), of any size; or, in place of the
                frame, a function without arguments that returns it, called only for the frames that are looked at.
                They are read in another thread, one batch of clips ahead; closing the results waits for it.
        """

        def results() -> Iterator[Result]:
            state = self.start()
            for batch in self.batches(frames, state):
                yield from batch
            yield from self.finish(state)

        return smooth(results(), self.smooth, self.centred)

    def start(self, longest_hold: float | None = None) -> StreamState:
        """Returns the state of a recording of which nothing has been seen; `longest_hold` may be its own."""
        memory: list[np.ndarray] = []
        if isinstance(self._model, RecurrentVideoSwin):
            memory = [np.array(ops.convert_to_numpy(part)) for part in flatten(self._model.initial_state(1))]
        sampler = Sampler(self.fps, longest_hold or self.longest_hold, self.prepare)
        projected = [np.zeros((*queue.shape[:-1], 2 * queue.shape[-1]), "float32") for queue in memory[::2]]
        return StreamState(sampler, deque(maxlen=self.clip_frames), 0, memory, projected)

    def restore(self, arrays: dict[str, np.ndarray], longest_hold: float | None = None) -> StreamState:
        """Returns the state that `StreamState.to_arrays` gave, of a stream with the same arguments."""
        state = self.start(longest_hold)
        try:
            moment, done = map(operator.index, arrays["position"])
            if not 0 <= done <= moment <= LONGEST * self.fps:
                raise ValueError(f"moment {moment}, of which {done} are done")
            shown = next(iter(arrays["shown"]), None)
            state.sampler.resume(moment, arrays["times"].tolist(), shown)
            if len(arrays["is_known"]) > self.clip_frames:
                raise ValueError(f"{len(arrays['is_known'])} pictures of a clip of {self.clip_frames}")
            for picture in (*arrays["window"], *(() if shown is None else (shown,))):
                if picture.dtype != np.uint8 or picture.shape != (self.crop, self.crop, 3):
                    raise ValueError(f"a picture of {picture.dtype} {picture.shape}")
            state.window.extend([None] * len(arrays["is_known"]))
            for place, picture in zip(np.flatnonzero(arrays["is_known"]), arrays["window"], strict=True):
                state.window[place] = picture
            memory = [arrays[f"memory{index}"] for index in range(len(state.memory))]
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise ValueError(f"This is no state of a stream: {error!r}.") from error
        shapes = [[(part.shape, part.dtype) for part in parts] for parts in (memory, state.memory)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"This is no state of this stream: its memory has {shapes[0]}, expected {shapes[1]}.")
        if any(not 0 <= filled[0] <= queue.shape[1] for queue, filled in zip(memory[::2], memory[1::2], strict=True)):
            raise ValueError(f"This is no state of a stream: {[int(n[0]) for n in memory[1::2]]} slots are filled.")
        state.done, state.memory[1::2] = done, memory[1::2]
        for index, (queue, filled) in enumerate(zip(memory[::2], memory[1::2], strict=True)):
            for slot in range(queue.shape[1] - int(filled[0]), queue.shape[1]):
                self._push(state, index, queue[:, slot : slot + 1])
        return state

    def batches(self, frames: Iterable[tuple[float, Frame]], state: StreamState) -> Iterator[list[Result]]:
        """Yields results as they are computed, `batch_size` at a time and not smoothed; advances `state` as it goes.

        Whenever it has yielded, `state` is that of a stream to which only these results were given. A stream that
        goes on from it, with the frames later than `state.sampler.position`, gives the same results as this one would.
        What is left when the frames end, less than a stride, has no result yet: `finish` gives it.

        Args:
            frames: As above.
            state: What `start` or `restore` returned.

        Raises:
            ValueError: if the model gives no number for a clip.
        """
        for number, (batch, sampler, window, done) in enumerate(prefetched(self._read(frames, state))):
            state.sampler, state.window, state.done = sampler, window, done
            if number % 64 == 63:
                gc.collect()  # what `_garbage_removed` leaves to collections that it keeps from coming by themselves
            clips = [clip for _, _, clip in batch if clip is not None]
            yield self._results(batch, iter(self._score(clips, [state] * len(clips))))

    def together(self, feeds: Sequence[Feed]) -> Iterator[tuple[int, list[Result] | Exception | None]]:
        """Yields the results of several live streams as they come; advances the state of each as `batches` does.

        Clips that are complete at the same time are computed at once, in a batch of `batch_size`, of which there must
        be one for each stream. Each stream is read in a thread of its own, and none waits for another.

        Yields:
            The number of a stream and its new results, not smoothed; or None when it has ended, or the error with
            which it did.

        Raises:
            ValueError: if there are more streams than `batch_size`.
        """
        if len(feeds) > self.batch_size:
            raise ValueError(f"`batch_size` must be at least {len(feeds)}, one for each stream: {self.batch_size}.")

        def take(number: int, read: Read) -> None:
            feeds[number].state.sampler, feeds[number].state.window, feeds[number].state.done = read[1:]

        reads = [self._read(feed.frames, feed.state, feed.is_late, 1) for feed in feeds]
        for round_number, ready in enumerate(at_once(reads)):
            if round_number % 64 == 63:
                gc.collect()
            clips, states = [], []
            for number, read in ready.items():
                if isinstance(read, tuple):
                    take(number, read)
                    new = [clip for _, _, clip in read[0] if clip is not None]
                    clips += new
                    states += [feeds[number].state] * len(new)
            scores = iter(self._score(clips, states, is_together=True))
            for number, read in ready.items():
                if not isinstance(read, tuple):
                    yield number, read
                    continue
                own = list(itertools.islice(scores, sum(clip is not None for _, _, clip in read[0])))
                try:
                    results: list[Result] | Exception = self._results(read[0], iter(own))
                except ValueError as error:
                    results = error
                yield number, results

    def finish(self, state: StreamState) -> list[Result]:
        """Returns the results of what is left where a recording ends. Leaves `state` as it is: more may come later."""
        state = replace(
            state,
            sampler=copy.copy(state.sampler),
            window=state.window.copy(),
            memory=[part.copy() for part in state.memory],
            projected=[part.copy() for part in state.projected],
        )
        clips = list(self._clips(state.sampler.finish(), state))
        if state.sampler.moment > state.done:
            clips.append(self._clip(state, state.sampler.moment))
        scores: list[tuple[float, ...]] = []
        for batch in _batches((clip for _, _, clip in clips if clip is not None), self.batch_size):
            scores += self._score(batch, [state] * len(batch))
        return self._results(clips, iter(scores))

    def _read(
        self,
        frames: Iterable[tuple[float, Frame]],
        state: StreamState,
        is_late: Callable[[], bool] | None = None,
        size: int | None = None,
    ) -> Iterator[Read]:
        """Yields clips, `size` (default: `batch_size`) at a time, and where `state` has come with them.

        Does not change it.
        """
        state = replace(state, sampler=copy.copy(state.sampler), window=state.window.copy())
        shown = itertools.chain.from_iterable(state.sampler.add(time, frame) for time, frame in frames)
        # The empty batch at the end carries the frames that came after the last clip.
        for batch in itertools.chain(_batches(self._clips(shown, state, is_late), size or self.batch_size), ([],)):
            yield batch, copy.copy(state.sampler), state.window.copy(), state.done

    def _clips(
        self, shown: Iterable[np.ndarray | Missing], state: StreamState, is_late: Callable[[], bool] | None = None
    ) -> Iterator[Clip]:
        """Yields the clip of each result; takes `state` along."""
        for picture in shown:
            new = 1
            if isinstance(picture, Missing):
                new = picture.count
                state.window.extend([None] * min(new, self.clip_frames))
            else:
                state.window.append(picture)
            count = state.sampler.moment
            end = count - (count - self.clip_frames) % self.stride  # of the last clip that is complete
            is_complete = end >= self.clip_frames and end > count - new
            if is_complete and (state.window[-1] is None or is_late is None or not is_late()):
                yield self._clip(state, end)  # a gap is one result, however long

    def _clip(self, state: StreamState, end: int) -> Clip:
        """Returns the clip of the result that reaches to a moment."""
        start, state.done = state.done, end
        pictures = [picture for picture in state.window if picture is not None]
        if len(pictures) < len(state.window):
            return start / self.fps, end / self.fps, None
        pictures += pictures[-1:] * (self.clip_frames - len(pictures))  # a short recording: its last frame
        return start / self.fps, end / self.fps, np.stack(pictures)

    def prepare(self, frame: Frame) -> np.ndarray:
        """Returns what a clip holds of a frame: uint8 RGB (crop, crop, 3), the middle of the resized picture."""
        frame = frame() if callable(frame) else frame
        return transforms.center_crop(transforms.resize_short_side(frame, self.short_side)[None], self.crop)[0]

    def _score(
        self, clips: list[np.ndarray], states: list[StreamState], is_together: bool = False
    ) -> list[tuple[float, ...]]:
        """Returns the probabilities of each clip.

        Args:
            clips: At most `batch_size`.
            states: Of the recording of each clip; changed.
            is_together: Whether each is of another recording; else all are of one, one after the other.
        """
        if not clips:
            return []
        # Always a whole batch, so that every backend compiles once, and a clip's numbers do not depend on its company.
        inputs = np.stack(clips + clips[-1:] * (self.batch_size - len(clips)))
        with _garbage_removed():
            outputs = self._before.predict_on_batch(as_input(self._classifier, inputs))[: len(clips)]
        if self._after is not None:
            if is_together:
                outputs = self._step(self._after, outputs, states, self.batch_size)
            else:
                steps = zip(outputs, states, strict=True)
                outputs = np.concatenate([self._step(self._after, tokens[None], [state]) for tokens, state in steps])
        return [tuple(row.tolist()) for row in probabilities(self._classifier, outputs)]

    def _results(self, clips: Iterable[Clip], scores: Iterator[tuple[float, ...]]) -> list[Result]:
        """Returns the result of each clip, of which those that are scored take the next of the scores.

        Raises:
            ValueError: if one is no number.
        """
        results = [
            Result(start, end, None if clip is None else next(scores), multi_label=self.multi_label)
            for start, end, clip in clips
        ]
        for result in results:
            if wrong := [number for number in result.probabilities or () if not math.isfinite(number)]:
                raise ValueError(
                    f"The model gives {wrong[0]} for a clip that ends at {result.end:.1f} s. Are its weights sound, "
                    f"and its dtype wide enough?"
                )
        return results

    def _step(
        self, after: keras.Model, tokens: np.ndarray, states: list[StreamState], batch_size: int = 1
    ) -> np.ndarray:
        """Takes the tokens of a clip of each state through its memories and what follows them."""

        def rows(parts: list[np.ndarray]) -> np.ndarray:
            return parts[0] if batch_size == 1 else np.concatenate(parts + parts[-1:] * (batch_size - len(parts)))

        inputs = [rows(list(tokens[:, None]))]
        for index in range(len(states[0].projected)):
            inputs.append(rows([state.memory[2 * index][:, -1:] for state in states]))
            inputs.append(rows([state.memory[2 * index + 1] for state in states]))
            inputs.append(rows([state.projected[index] for state in states]))
        with _garbage_removed():
            outputs, *new = after.predict_on_batch(inputs)
            for row, state in enumerate(states):
                for index, summary in enumerate(new[::2]):
                    self._push(state, index, summary[row : row + 1])
                state.memory[1::2] = [filled[row : row + 1] for filled in new[1::2]]
        return outputs[: len(states)]

    def _push(self, state: StreamState, memory: int, summary: np.ndarray) -> None:
        """Drops the oldest slot of a memory's queue, and appends a summary and what is read of it."""
        projection = self._projections[memory].predict_on_batch(summary)
        for slots, new in ((state.memory[2 * memory], summary), (state.projected[memory], projection)):
            flat = slots.reshape(-1)  # which NumPy moves without a copy
            flat[: -new.size] = flat[new.size :]
            flat[-new.size :] = new.reshape(-1)


@contextlib.contextmanager
def _garbage_removed() -> Iterator[None]:
    """Frees at once what Keras's calls leave behind.

    Calls of layers in Keras 3.15 leave cycles of references around their tensors. Python finds them soon while they
    are young. Those that have grown old during the call wait for a full collection: hundreds of megabytes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)  # only what is young: a full collection takes a tenth of a second
        if was_enabled:
            gc.enable()


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

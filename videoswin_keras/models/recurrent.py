"""Video Swin with a memory: one step per clip, or whole sequences of clips for training."""

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras import kernels
from videoswin_keras.atomic import replacing
from videoswin_keras.checkpoints.claims import read_npz
from videoswin_keras.models.backbone import VideoSwinBackbone
from videoswin_keras.models.classifier import VideoSwinClassifier
from videoswin_keras.models.configured import Configured
from videoswin_keras.nn.memory import FeedbackAttentionMemory

State = dict[str, dict[str, Any]]  # "stage4": {"queue": …, "filled": …}


def _of_classifier(name: str, doc: str) -> property:
    """Returns a property of a model with a memory that is its classifier's; None where that has none."""

    def get(model: Any) -> Any:
        return getattr(model.model, name, None)

    def put(model: Any, value: Any) -> None:
        setattr(model.model, name, value)

    return property(get, put, doc=doc)


@keras.saving.register_keras_serializable(package="videoswin_keras")
class RecurrentVideoSwin(Configured, keras.Model):
    """A classifier or backbone with a `FeedbackAttentionMemory` after some of its stages.

    Called on a sequence of clips it gives the outputs of each of them, the memory starting empty; this is how it is
    trained with `fit`. `step` takes one clip and the state of the memory, and returns the new state: how it
    runs for hours. Both compute the same.

    A new memory changes no output: its gate starts at zero. So any weights can be loaded, with or without memory.

    Args:
        model: `VideoSwinClassifier` or `VideoSwinBackbone`.
        stages: Integers from 1 to the number of stages. The stages a memory follows.
        num_tokens: Integer. Tokens of the summary of a clip.
        memory_length: Integer. Clips in the queue of each memory; it shapes no weight.
        bptt_clips: Integer or None. In training, gradients go back through at most this many clips; None: all.
        name: String.
        dtype: Keras dtype policy or its name, for the memory.
        trainable: Whether the weights can be trained.

    Input: (batch, clips, frames, height, width, channels), each clip what `model` takes.
    Output: (batch, clips, …), each what `model` gives: logits (batch, clips, num_classes) of a classifier.

    Raises:
        ValueError: if there is no such stage, or a number is not positive.

    Example:

    >>> import numpy as np
    >>> from videoswin_keras import VideoSwinT
    >>> small = {"embed_dim": 8, "num_heads": (1, 1, 2, 4), "depths": (1, 1, 1, 1)}
    >>> model = VideoSwinT((None, None, None, 3), num_classes=3, memory={"num_tokens": 4}, **small)
    >>> tuple(model(np.ones((2, 5, 4, 32, 32, 3), "float32")).shape)
    (2, 5, 3)
    >>> state = model.initial_state(batch_size=2)
    >>> for _ in range(5):
    ...     logits, state = model.step(np.ones((2, 4, 32, 32, 3), "float32"), state)
    >>> tuple(logits.shape), [int(n) for n in state["stage4"]["filled"]]
    ((2, 3), [5, 5])
    """

    def __init__(
        self,
        model: VideoSwinClassifier | VideoSwinBackbone,
        stages: tuple[int, ...] = (4,),
        num_tokens: int = 128,
        memory_length: int = 25,
        bptt_clips: int | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        super().__init__(name=name, dtype=dtype)
        if isinstance(model, dict):
            model = keras.saving.deserialize_keras_object(model)
        self.model = model
        backbone = _backbone(model)
        depth = len(backbone.arguments["depths"])
        if not stages or len(set(stages)) < len(stages) or not set(stages) <= set(range(1, depth + 1)):
            raise ValueError(f"`stages` must be different numbers from 1 to {depth}. Received: {tuple(stages)}.")
        if bptt_clips is not None and bptt_clips < 1:
            raise ValueError(f"`bptt_clips` must be at least 1, or None. Received: {bptt_clips}.")
        self.bptt_clips = bptt_clips
        self.memories = {}
        for stage in sorted(stages):
            memory = FeedbackAttentionMemory(num_tokens, memory_length, dtype=self.dtype_policy, name=f"memory{stage}")
            memory.build((None, None, backbone.get_layer(f"stage{stage}").output.shape[-1]))
            self.memories[f"stage{stage}"] = memory
        self.built = True
        self._remember(
            {
                "stages": tuple(sorted(stages)),
                "num_tokens": num_tokens,
                "memory_length": memory_length,
                "bptt_clips": bptt_clips,
            },
            dtype,
        )
        if not trainable:
            self.trainable = False

    labels = _of_classifier("labels", "Names of the classifier's classes, or None.")
    protocol = _of_classifier("protocol", "How clips are taken of a video for the classifier, or None.")
    multi_label = _of_classifier("multi_label", "Whether several of its classes can be there at once, as it was said.")

    def fit(self, *arguments: Any, **keywords: Any) -> Any:
        _refuse_class_weight(super().fit, arguments, keywords)
        return super().fit(*arguments, **keywords)

    def train_on_batch(self, *arguments: Any, **keywords: Any) -> Any:
        _refuse_class_weight(super().train_on_batch, arguments, keywords)
        return super().train_on_batch(*arguments, **keywords)

    def _layers_in_order(self) -> Iterator[keras.layers.Layer]:
        backbone = _backbone(self.model)
        yield from backbone.layers[1:]  # after the input
        if self.model is not backbone:
            yield from self.model.layers[2:]  # after the input and the backbone

    def call(self, clips: Any, training: bool | None = None) -> Any:
        _check_rank(clips, _SEQUENCE, "One clip goes into `step`, with the state of the memory.")
        return self.steps(clips, self.initial_state(ops.shape(clips)[0]), training)[0]

    def steps(self, clips: Any, state: State, training: bool | None = None) -> tuple[Any, State]:
        """Takes the next clips of each stream, as many calls of `step` would.

        Args:
            clips: (batch, clips, frames, height, width, channels).
            state: What `initial_state`, `step` or `steps` returned; it is not changed.
            training: Whether to drop, and to truncate the back-propagation.

        Returns:
            The outputs of `model` for each clip (batch, clips, …), and the state after the last.

        Raises:
            ValueError: if `clips` are no sequences, or `state` is none of this model.
        """
        _check_rank(clips, _SEQUENCE, "One clip goes into `step`.")
        self._check_state(state)
        shape = ops.shape(clips)
        x = ops.reshape(clips, (shape[0] * shape[1], *shape[2:]))
        # What a layer computes for a clip depends on other clips only through the memories before it. So all layers
        # take all clips at once, and only the memories go from clip to clip.
        new_state = {}
        for layer in self._layers_in_order():
            x = layer(x, training=training)
            if layer.name in self.memories:
                x, new_state[layer.name] = self._over_clips(layer.name, x, state[layer.name], shape[1], training)
        return ops.reshape(x, (*shape[:2], *ops.shape(x)[1:])), new_state

    def _over_clips(self, stage: str, x: Any, state: dict[str, Any], clips: Any, training: Any) -> tuple:
        memory = self.memories[stage]
        shape = ops.shape(x)
        x = ops.swapaxes(ops.reshape(x, (shape[0] // clips, clips, *shape[1:])), 0, 1)

        def remember(tokens: Any, queue: Any, filled: Any) -> tuple:
            output, (queue, filled) = memory(tokens, [queue, filled], training=training)
            return output, queue, filled

        if training and _backbone(self.model).arguments["use_rematerialization"] and not memory.is_float8:
            remember = kernels.recompute(remember)

        def advance(index: Any, queue: Any, filled: Any) -> tuple:
            if training and self.bptt_clips is not None:
                queue = ops.where(index % self.bptt_clips == 0, ops.stop_gradient(queue), queue)
            return remember(x[index], queue, filled)

        queue, filled = state["queue"], state["filled"]
        if isinstance(clips, int):
            outputs = []
            for index in range(clips):
                output, queue, filled = advance(index, queue, filled)
                outputs.append(output)
            x = ops.stack(outputs)
        else:  # TensorFlow, once it has seen sequences of different length; Keras 3.15's `scan` fails there

            def body(index: Any, queue: Any, filled: Any, outputs: Any) -> tuple:
                output, queue, filled = advance(index, queue, filled)
                start = (index, *(0 for _ in output.shape))
                return index + 1, queue, filled, ops.slice_update(outputs, start, ops.expand_dims(output, 0))

            start = (ops.zeros((), "int32"), queue, filled, ops.zeros_like(x))
            _, queue, filled, x = ops.while_loop(lambda index, *_: index < clips, body, start)
        return ops.reshape(ops.swapaxes(x, 0, 1), shape), {"queue": queue, "filled": filled}

    def compute_output_shape(self, clips_shape: tuple) -> tuple:
        batch, clips, *clip = clips_shape
        return (batch, clips, *self.model.compute_output_shape((None, *clip))[1:])

    def initial_state(self, batch_size: int) -> State:
        """Returns the state of `batch_size` streams that have seen nothing.

        A dict "stage4" (of every stage with a memory) → "queue" (batch, memory_length, num_tokens, channels) float32,
        and "filled" (batch,) int32. It holds all that the past can do to the future.
        """
        return {
            stage: dict(zip(STATE_DTYPES, memory.get_initial_state(batch_size), strict=True))
            for stage, memory in self.memories.items()
        }

    def step(self, clip: Any, state: State, training: bool | None = None) -> tuple[Any, State]:
        """Takes the next clip of each stream.

        Args:
            clip: (batch, frames, height, width, channels), what `model` takes.
            state: What `initial_state`, `step` or `steps` returned; it is not changed.
            training: Whether to drop.

        Returns:
            The outputs of `model` (batch, …), and the new state.

        Raises:
            ValueError: if `clip` is no clip, or `state` is none of this model.
        """
        _check_rank(
            clip, _SEQUENCE[:1] + _SEQUENCE[2:], "A sequence of clips goes into `steps`, or the model is called."
        )
        self._check_state(state)
        self._look(clip)
        return self._through(self._layers_in_order(), clip, state, training)

    def _check_state(self, state: Any) -> None:
        if not isinstance(state, dict) or state.keys() != self.memories.keys():
            received = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(
                f"`state` must be what `initial_state(batch_size)`, `step` or `steps` returned, a dict of "
                f"{list(self.memories)}. Received: {received}."
            )

    def _through(self, layers: Iterable[keras.layers.Layer], x: Any, state: State, training: Any) -> tuple[Any, State]:
        new_state: State = {}
        for layer in layers:
            x = layer(x, training=training)
            if layer.name in self.memories:
                x, of_stage = self._through_memory(layer.name, x, state, training)
                new_state |= of_stage
        return x, new_state

    def _through_memory(self, stage: str, x: Any, state: State, training: Any) -> tuple[Any, State]:
        of_stage = state[stage]
        states = [of_stage["queue"], of_stage["filled"]]
        x, (queue, filled) = self.memories[stage](x, states, of_stage.get("projected"), training=training)
        return x, {stage: {"queue": queue, "filled": filled}}

    def reset_state(self, state: State, which: Any = None) -> State:
        """Returns `state` with some streams as if they had seen nothing, and the others untouched.

        Args:
            state: A state.
            which: Booleans (batch,), true for the streams that begin anew. Default: all of them.
        """
        which = ops.convert_to_tensor(True if which is None else which, "bool")

        def reset(x: Any) -> Any:
            return ops.where(ops.reshape(which, (-1,) + (1,) * (len(x.shape) - 1)), ops.zeros_like(x), x)

        return {stage: {name: reset(x) for name, x in part.items()} for stage, part in state.items()}

    def step_model(self) -> keras.Model:
        """Returns `step` as a functional model that shares the weights: for compiled inference, and for export.

        Inputs: a list of the clip, then queue and filled of each memory, in the order of the stages. Outputs: a list of
        the outputs of `model`, then the new queues and counts in the same order.
        """
        inputs = _backbone(self.model).input
        clip = keras.Input(inputs.shape[1:], dtype=inputs.dtype, name="clip")
        state = {
            stage: {
                name: keras.Input(size, dtype=dtype, name=f"{stage}_{name}")
                for (name, dtype), size in zip(STATE_DTYPES.items(), memory.state_size, strict=True)
            }
            for stage, memory in self.memories.items()
        }
        outputs, new_state = self._through(self._layers_in_order(), clip, state, None)
        return keras.Model([clip, *flatten(state)], [outputs, *flatten(new_state)], name=f"{self.name}_step")

    def split(self) -> tuple[keras.Model, keras.Model, list[keras.Model]]:
        """Returns `step` in functional models that share the weights, for streams.

        What comes before the first memory does not depend on the past: of a recording it can run for many clips at a
        time. And what is read of a slot of a queue is the same at every step, but for its age.

        Returns:
            What comes before the first memory: takes clips (batch, frames, height, width, channels), and gives the
            tokens that the first memory takes.

            What follows: takes a list of these tokens, and then of each memory the newest slot of its queue (batch,
            1, num_tokens, channels), `filled`, and what is read of all its slots (batch, memory_length, num_tokens,
            2 · channels); gives a list of the outputs of `model`, and then of each memory its new slot and `filled`.

            For each memory, what is read of slots: takes (batch, slots, num_tokens, channels), and gives (batch,
            slots, num_tokens, 2 · channels). Of slots that are not filled, zeros do.
        """
        layers = list(self._layers_in_order())
        first = next(index for index, layer in enumerate(layers) if layer.name in self.memories)
        before = keras.Model(_backbone(self.model).input, layers[first].output, name=f"{self.name}_before")
        state: State = {}
        projections = []
        for stage, memory in self.memories.items():
            length, *slot = memory.state_size[0]
            slots = keras.Input((None, *slot), name=f"{stage}_slots")
            projections.append(keras.Model(slots, memory.project(slots), name=f"{self.name}_{stage}_projection"))
            state[stage] = {
                "queue": keras.Input((1, *slot), name=f"{stage}_newest"),
                "filled": keras.Input((), dtype="int32", name=f"{stage}_filled"),
                "projected": keras.Input((length, *projections[-1].output.shape[2:]), name=f"{stage}_projected"),
            }
        inputs = [part for of_stage in state.values() for part in of_stage.values()]
        tokens = keras.Input(layers[first].output.shape[1:], dtype=layers[first].output.dtype, name="tokens")
        x, new_state = self._through_memory(layers[first].name, tokens, state, None)
        x, others = self._through(layers[first + 1 :], x, state, None)
        after = keras.Model([tokens, *inputs], [x, *flatten(new_state | others)], name=f"{self.name}_after")
        return before, after, projections

    def get_config(self) -> dict:
        return {**super().get_config(), "model": keras.saving.serialize_keras_object(self.model)}


_SEQUENCE = ("batch", "clips", "frames", "height", "width", "channels")


def _refuse_class_weight(method: Any, arguments: tuple, keywords: dict) -> None:
    """Keras 3.15 takes labels (batch, clips) for one-hot, and would weigh by where in the sequence the largest is."""
    class_weight = inspect.signature(method).bind(*arguments, **keywords).arguments.get("class_weight")
    if class_weight is not None:
        raise ValueError(
            "`class_weight` weighs whole samples, but each clip of a sequence has a label of its own. Give each clip a "
            f"weight: sample_weight=np.vectorize({class_weight}.get)(labels), of shape (batch, clips)."
        )


def _check_rank(x: Any, axes: tuple[str, ...], advice: str) -> None:
    if len(x.shape) != len(axes):
        raise ValueError(f"Expected shape ({', '.join(axes)}). Received: {tuple(x.shape)}. {advice}")


def _backbone(model: VideoSwinClassifier | VideoSwinBackbone) -> VideoSwinBackbone:
    # Not an attribute of the model: Keras would save it as a part of its own.
    return model.backbone if isinstance(model, VideoSwinClassifier) else model


STATE_DTYPES = {"queue": "float32", "filled": "int32"}


def flatten(state: State) -> list[Any]:
    """Returns queue and filled of each memory in turn, as `step_model` takes and gives them."""
    return [part[name] for part in state.values() for name in STATE_DTYPES]


def unflatten(tensors: list[Any], stages: list[str]) -> State:
    """Makes a state of what `flatten` returned for memories after `stages`."""
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return {stage: {"queue": queue, "filled": filled} for stage, (queue, filled) in zip(stages, pairs, strict=True)}


def save_state(state: State, path: str | Path) -> None:
    """Writes a state to one file (NumPy's .npz), by way of a temporary name; it loads on every backend."""
    arrays = {
        f"{stage}/{name}": ops.convert_to_numpy(value) for stage, part in state.items() for name, value in part.items()
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_state(path: str | Path) -> State:
    """Reads what `save_state` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no state.
    """
    state: State = {}
    try:
        for key, value in read_npz(path).items():
            stage, name = key.split("/")
            state.setdefault(stage, {})[name] = ops.convert_to_tensor(value, STATE_DTYPES[name])
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} holds no state of a memory: {error}") from error
    return state

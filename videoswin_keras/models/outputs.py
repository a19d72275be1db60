"""What the outputs of a model with classes mean: one of several classes, one that is there or not, or several at once.

A model of one output says whether something is there: that is one of two classes. Several outputs are one of several
classes, or with `multi_label` classes that are there or not each by itself.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from videoswin_keras.models.backbone import VideoSwinBackbone
from videoswin_keras.models.recurrent import RecurrentVideoSwin
from videoswin_keras.nn.layers import PatchEmbedding, PixelNormalization
from videoswin_keras.text import writable


def with_classes(model: Any) -> Any:
    """Returns what of `model` gives classes: of a `RecurrentVideoSwin` its classifier, else the model.

    Raises:
        ValueError: if it has no classes: it must take clips (batch, frames, height, width, channels), straight into
            layers of this library, and give (batch, classes) by a layer that says its activation.
    """
    part = model.model if isinstance(model, RecurrentVideoSwin) else model
    shapes: Any = [getattr(part, name, None) for name in ("input_shape", "output_shape")]
    ranks = [len(shape) if isinstance(shape, tuple) else 0 for shape in shapes]
    # Clips that go through something else first: nobody could say which pixels it expects.
    begins = isinstance(_first(part), PatchEmbedding | PixelNormalization)
    if ranks != [5, 2] or isinstance(part, VideoSwinBackbone) or not begins:
        raise ValueError(
            f"A model with classes is a VideoSwinClassifier, or any functional or sequential model that takes clips "
            f"(batch, frames, height, width, channels) straight into layers of this library and gives (batch, "
            f"classes). Received: {type(part).__name__} from {shapes[0]} to {shapes[1]}, {_first(part)!r} first."
        )
    _activation(part)
    return part


def is_multi_label(model: Any) -> bool:
    """Whether the classes of `model` are there or not each by itself; the two of a single output are not."""
    if model.output_shape[-1] == 1:
        return False
    said = told(model, "multi_label")
    return _activation(model) is keras.activations.sigmoid if said is None else said


def probabilities(model: Any, outputs: Any) -> np.ndarray:
    """Returns the probability of each class (batch, classes), in 0–1, from what `model` gives (batch, outputs).

    Logits go through a softmax, or through a sigmoid where classes are there or not each by itself. A single output
    gives two classes: that it is not, and that it is there.

    Raises:
        ValueError: if the model has an activation that gives no probabilities.
    """
    activation = _activation(model)
    is_single, each_by_itself = model.output_shape[-1] == 1, is_multi_label(model)
    if activation is keras.activations.linear:
        outputs = ops.sigmoid(outputs) if is_single or each_by_itself else ops.softmax(outputs)
    values = ops.convert_to_numpy(ops.cast(outputs, "float32"))
    if (values < -1e-3).any() or (values > 1 + 1e-3).any():
        name = getattr(activation, "__name__", activation)
        raise ValueError(f"The activation of a model with classes must give 0–1, or be None. {name} gives {values}.")
    values = np.clip(values, 0.0, 1.0)  # narrow numbers are rounded to a little more
    if is_single:
        return np.concatenate([1 - values, values], axis=-1)
    if activation is keras.activations.sigmoid and not each_by_itself:
        total = values.sum(axis=-1, keepdims=True)
        return np.where(total > 0, values / np.maximum(total, np.finfo("float32").tiny), 1 / values.shape[-1])
    return values


def class_names(model: Any, labels: Sequence[str] | None = None) -> tuple[str, ...]:
    """Returns the names of the classes that `probabilities` gives.

    Args:
        model: What `with_classes` returned.
        labels: Names in the order of the outputs; of a single output its own, or those of its absence and presence.
            Default: those the model was given, else "class 0", "class 1", ….

    Raises:
        ValueError: if there are not as many labels as classes.
    """
    outputs = model.output_shape[-1]
    count = max(outputs, 2)
    labels = labels or told(model, "labels") or [f"class {index}" for index in range(count)]
    if outputs == 1 and len(labels) == 1:
        labels = [f"not {labels[0]}", labels[0]]
    if len(labels) != count:
        raise ValueError(
            f"The model has {count} classes, but the list of class names has {len(labels)}. Is it the right list?"
        )
    return tuple(map(writable, labels))


def told(model: Any, name: str) -> Any:
    """Returns "labels", "protocol" or "multi_label" of a model, or of the classifier in it that gives its outputs."""
    models = (one for one in _inwards(model) if isinstance(one, keras.Model))
    return next((getattr(one, name) for one in models if hasattr(one, name)), None)


def _inwards(model: Any) -> Iterator[Any]:
    """Yields a model, what in it gives its outputs, and so on; the last is a layer that computes, or an operation."""
    one = model
    while True:
        yield one
        if isinstance(one, keras.Model):
            one = one.outputs[0]._keras_history.operation
        elif isinstance(one, keras.layers.Activation) and one.activation is keras.activations.linear:
            one = one.input._keras_history.operation  # it changes the dtype alone
        else:
            return


def _first(model: Any) -> Any:
    """Returns the operation that takes the clips."""
    while isinstance(model, keras.Model):
        operations = getattr(model, "operations", model.layers)
        model = next((one for one in operations if not isinstance(one, keras.layers.InputLayer)), None)
    return model


def _activation(model: Any) -> Any:
    """Returns the activation function of the layer that gives the outputs."""
    *_, last = _inwards(model)
    if isinstance(last, keras.layers.Softmax):
        return keras.activations.softmax
    if not isinstance(last, keras.layers.Layer) or not hasattr(last, "activation"):
        raise ValueError(
            f"The last layer of a model with classes must say its activation, as Dense and Activation do; without one "
            f"it gives logits. Received: {type(last).__name__}."
        )
    return keras.activations.get(last.activation)

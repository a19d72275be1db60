"""What `fit` takes, and what it says of data that it would learn the wrong thing from."""

import contextlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from videoswin_keras import VideoSwinT

TINY = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": (2, 3, 3), "drop_path_rate": 0.0}
MEMORY = {"stages": (2,), "num_tokens": 4, "memory_length": 3}
LABELS = np.array([0, 1, 2, 1])


def tiny(**kwargs):
    return VideoSwinT((None, None, None, 3), num_classes=3, dropout_rate=0.0, **TINY, **kwargs)


def compiled(model):
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return model


def pixels(kind, *batch):
    values = np.random.default_rng(0).uniform(0, 255, (*batch, 2, 12, 12, 3))
    if kind == "uint8":
        return values.astype("uint8")
    return {"0-255": values, "0-1": values / 255, "normalised": values / 64 - 2}[kind].astype("float32")


class Batches(keras.utils.PyDataset):
    def __init__(self, clips):
        super().__init__()
        self.clips = clips

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.clips[2 * index : 2 * index + 2], LABELS[2 * index : 2 * index + 2]


@contextlib.contextmanager
def said():
    """Yields a list of what is said of pixels, whatever Keras warns of beside."""
    messages = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += [text for text in (str(warning.message) for warning in caught) if text.startswith("The model takes")]


def tf_data(clips):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((clips, LABELS)).batch(2)


def torch_loader(clips):
    import torch

    dataset = torch.utils.data.TensorDataset(torch.from_numpy(clips), torch.from_numpy(LABELS))
    return torch.utils.data.DataLoader(dataset, batch_size=2)


SOURCES = {
    "arrays": lambda clips: {"x": clips, "y": LABELS, "batch_size": 2},
    "a dataset of Keras": lambda clips: {"x": Batches(clips)},
    "a loader of PyTorch": lambda clips: {"x": torch_loader(clips)},
    "tf.data": lambda clips: {"x": tf_data(clips)},
    "a generator": lambda clips: {
        "x": (pair for pair in [(clips[:2], LABELS[:2]), (clips[2:], LABELS[2:])]),
        "steps_per_epoch": 2,
    },
}


@pytest.mark.parametrize("source", SOURCES)
def test_pixels_of_another_range_are_said_once(source):
    model = compiled(tiny())
    with said() as messages:
        model.fit(**SOURCES[source](pixels("0-255", 4)), verbose=0)
        model.fit(**SOURCES["arrays"](pixels("0-255", 4)), verbose=0)
    assert len(messages) == 1
    assert "takes normalised pixels, and was given clips of float32 from" in messages[0]


@pytest.mark.parametrize("source", [name for name in SOURCES if name != "arrays"])
def test_sources_train_alike(source):
    """On every backend, and nothing of a generator is lost to a look at its pixels."""
    weights = []
    for name in ("arrays", source):
        keras.utils.set_random_seed(0)
        model = compiled(tiny())
        model.fit(**SOURCES[name](pixels("normalised", 4)), shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


def test_one_look_whatever_it_shows():
    """A step that looked is not wrapped again and again where nothing can be seen."""
    model = compiled(tiny())
    clips = np.zeros((4, 2, 12, 12, 3), "float32")
    for _ in range(2):
        model.fit(clips, LABELS, batch_size=2, verbose=0)
        assert getattr(model.train_function, "__name__", "") != "looking_step"
    with said() as messages:
        model(pixels("0-255", 1))
    assert messages == []


@pytest.mark.one_backend
@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_two_devices_train_as_one(backend):
    """`keras.distribution` on JAX, `tf.distribute` on TensorFlow; PyTorch's is in `test_autocast.py`."""
    script = Path(__file__).parent / "fit_over_devices.py"
    environment = {**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert result.stdout.split()[-1:] == ["same"], result.stderr


@pytest.mark.parametrize(
    ("rescaling", "kind", "message"),
    [
        (False, "uint8", "include_rescaling=True` for RGB"),
        (False, "0-255", "include_rescaling=True` for RGB"),
        (True, "0-1", "Do not scale"),
        (True, "normalised", "Do not scale"),
        (True, "0-255", None),
        (True, "uint8", None),
        (False, "normalised", None),
        (False, "0-1", None),
    ],
)
@pytest.mark.parametrize("memory", [None, MEMORY])
def test_pixels_of_a_call(rescaling, kind, message, memory):
    model = tiny(include_rescaling=rescaling, memory=memory)
    clips = pixels(kind, *((1, 2) if memory else (1,)))
    with said() as messages:
        model(clips)
        model(clips)
    assert [message in text for text in messages] == ([] if message is None else [True])


@pytest.mark.one_backend
def test_a_model_that_pytorch_traces_is_not_looked_at():
    import torch

    model = tiny()
    with said() as messages:
        torch.export.export(model, (torch.tensor(pixels("0-255", 1)),))
    assert messages == []
    clip = torch.tensor(pixels("normalised", 1))
    program = torch.export.export(model, (clip,))
    np.testing.assert_allclose(program.module()(clip).detach(), model(clip).detach(), atol=1e-4)


def test_class_weights_of_a_memory():
    """Refused; what is advised weighs each clip by its own label."""
    model = compiled(tiny(memory=MEMORY))
    clips, labels, weights = pixels("normalised", 2, 3), np.array([[0, 2, 1], [2, 2, 0]]), {0: 1.0, 1: 100.0, 2: 10.0}
    for train, arguments in (
        (model.fit, {"class_weight": weights}),
        (model.train_on_batch, {"class_weight": weights}),
        (lambda x, y: model.fit(x, y, 2, 1, 0, None, 0.0, None, False, weights), {}),
    ):
        with pytest.raises(ValueError, match=r"sample_weight=np.vectorize\(.*\.get\)\(labels\)"):
            train(clips, labels, **arguments)
    logits = keras.ops.convert_to_numpy(model(clips))
    losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    sample_weight = np.vectorize(weights.get)(labels)
    loss = model.evaluate(clips, labels, sample_weight=sample_weight, verbose=0)
    np.testing.assert_allclose(loss, (losses * sample_weight).mean(), rtol=1e-5)

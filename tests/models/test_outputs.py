"""What outputs mean, and that a model keeps the names of its classes and how its clips are taken."""

import keras
import numpy as np
import pytest

from videoswin_keras import VideoSwinBackbone, VideoSwinT
from videoswin_keras.classification import VideoPipeline
from videoswin_keras.models import outputs
from videoswin_keras.video import protocols
from videoswin_keras.video.transforms import normalize

TINY = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}
LOGITS = np.array([[2.0, -1.0, 0.5], [-3.0, 4.0, 4.0]], "float32")


def tiny(num_classes=3, shape=(None, None, None, 3), **kwargs):
    return VideoSwinT(shape, num_classes=num_classes, **TINY, **kwargs)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("arguments", "given", "expected"),
    [
        ({}, LOGITS, np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)),
        ({"activation": "softmax"}, [[0.2, 0.3, 0.5]], [[0.2, 0.3, 0.5]]),
        ({"activation": "softmax"}, [[1.0005, -0.0005, 0.0]], [[1, 0, 0]]),  # of narrow numbers; never beyond 0–1
        ({"multi_label": True}, LOGITS, sigmoid(LOGITS)),
        ({"activation": "sigmoid"}, sigmoid(LOGITS), sigmoid(LOGITS)),
        ({"activation": "sigmoid", "multi_label": False}, [[0.1, 0.1, 0.6]], [[0.125, 0.125, 0.75]]),
        ({"activation": "sigmoid", "multi_label": False}, [[0.0, 0.0, 0.0]], [[1 / 3, 1 / 3, 1 / 3]]),
        ({"num_classes": 1}, [[-2.0]], [[sigmoid(2.0), sigmoid(-2.0)]]),
        ({"num_classes": 1, "activation": "sigmoid"}, [[0.000009]], [[0.999991, 0.000009]]),
    ],
)
def test_probabilities(arguments, given, expected):
    model = tiny(**arguments)
    np.testing.assert_allclose(outputs.probabilities(model, np.array(given, "float32")), expected, atol=1e-6)


def test_activations_that_give_no_probabilities_are_said():
    with pytest.raises(ValueError, match="tanh gives"):
        outputs.probabilities(tiny(activation="tanh"), np.array([[-0.9, 0.1, 0.2]], "float32"))
    with pytest.raises(ValueError, match="always 1"):
        tiny(num_classes=1, activation="softmax")


def test_kinds():
    kinds = [tiny(), tiny(activation="sigmoid"), tiny(multi_label=True), tiny(1, activation="sigmoid"), tiny(1)]
    assert [outputs.is_multi_label(model) for model in kinds] == [False, True, True, False, False]
    assert outputs.class_names(tiny(1, labels=["lying"])) == ("not lying", "lying")
    assert outputs.class_names(tiny(1, labels=["up", "lying"])) == ("up", "lying")
    assert outputs.class_names(tiny(1)) == ("class 0", "class 1")


@pytest.mark.parametrize("memory", [None, {"num_tokens": 4, "stages": (2,)}])
def test_a_saved_model_knows_its_classes_and_clips(memory, tmp_path):
    protocol = protocols.get("kinetics", clip_frames=8, interval=4, crop=32)
    model = tiny(shape=(8, 32, 32, 3), memory=memory, labels=("a", "b", "c"), multi_label=True)
    model.protocol = protocol
    model.save(tmp_path / "mine.keras")
    loaded = VideoPipeline.load(tmp_path / "mine.keras")
    assert (loaded.labels, loaded.protocol) == (("a", "b", "c"), protocol)
    assert outputs.is_multi_label(loaded.model)
    assert VideoPipeline.load(tmp_path / "mine.keras", ["x", "y", "z"]).labels == ("x", "y", "z")
    model.labels = model.protocol = None
    model.save(tmp_path / "mine.keras")
    assert VideoPipeline.load(tmp_path / "mine.keras").labels == ("class 0", "class 1", "class 2")


def test_labels_and_protocols_that_do_not_fit():
    with pytest.raises(ValueError, match="3 names"):
        tiny(labels=("a", "b"))
    with pytest.raises(ValueError, match="3 names"):
        tiny(labels="abc")
    for wrong in ({"a", "b", "c"}, ("a", "", "c")):
        with pytest.raises(ValueError, match="3 names"):
            tiny(labels=wrong)
    with pytest.raises(ValueError, match="`multi_label` must be"):
        tiny(multi_label="yes")
    with pytest.raises(ValueError, match="different"):
        tiny(labels=("a", "b", "a"))
    with pytest.raises(ValueError, match=r"\(8, 32, 32\), `protocol` gives \(32, 32, 32\)"):
        tiny(shape=(8, 32, 32, 3), protocol=protocols.get("kinetics", crop=32))
    with pytest.raises(TypeError, match="must be a Protocol"):
        tiny(protocol="kinetics")


@pytest.mark.parametrize("rescaling", [True, False])
@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_another_head_over_the_backbone(kind, rescaling, tmp_path):
    backbone = VideoSwinBackbone((8, 32, 32, 3), **TINY, include_rescaling=rescaling, pooling="avg")
    head = [keras.layers.Dense(5, "relu"), keras.layers.Dense(4, "sigmoid")]
    if kind == "sequential":
        model = keras.Sequential([backbone, *head])
    else:
        model = keras.Model(backbone.input, head[1](head[0](backbone.output)))
    model.save(tmp_path / "other.keras")
    pipeline = VideoPipeline.load(tmp_path / "other.keras")
    assert outputs.is_multi_label(pipeline.model)
    assert (pipeline.protocol.clip_frames, pipeline.protocol.crop) == (8, 32)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), "uint8")
    inputs = pixels.astype("float32") if rescaling else normalize(pixels)
    expected = keras.ops.convert_to_numpy(model(inputs[None]))[0]
    np.testing.assert_allclose(pipeline.probabilities(pixels), expected, atol=1e-6)


def test_a_classifier_within_a_model_says_what_it_is():
    classifier = tiny(shape=(8, 32, 32, 3), labels=("a", "b", "c"))
    classifier.multi_label = True
    clip = keras.Input((8, 32, 32, 3))
    pipeline = VideoPipeline(keras.Model(clip, keras.layers.Activation("linear", dtype="float32")(classifier(clip))))
    assert (pipeline.labels, outputs.is_multi_label(pipeline.model)) == (("a", "b", "c"), True)
    sure = keras.Model(clip, keras.layers.Activation("linear")(tiny(activation="softmax")(clip)))
    given = np.array([[0.2, 0.3, 0.5]], "float32")
    np.testing.assert_allclose(outputs.probabilities(sure, given), given)  # no second softmax


def test_models_without_classes():
    backbone = VideoSwinBackbone((None, None, None, 3), **TINY, pooling="avg")
    strange = keras.Sequential([keras.Input((8, 32, 32, 3)), keras.layers.GlobalAveragePooling3D()])
    for model in (backbone, strange):
        with pytest.raises(ValueError, match="A model with classes is"):
            VideoPipeline(model)
    backbone = VideoSwinBackbone((8, 32, 32, 3), **TINY, pooling="avg")
    logits = keras.layers.Dense(3)(backbone.output)
    for outputs_of in (keras.layers.UnitNormalization(), keras.ops.softmax, lambda x: keras.ops.sigmoid(2 * x)):
        with pytest.raises(ValueError, match="say its activation"):
            VideoPipeline(keras.Model(backbone.input, outputs_of(logits)))
    head = keras.layers.Dense(3)
    clip = keras.Input((8, 32, 32, 3))
    for model in (
        keras.Sequential([keras.layers.Rescaling(1 / 127.5, -1), backbone, head]),
        keras.Model(clip, head(backbone(clip / 255))),
    ):
        model.build((None, 8, 32, 32, 3))
        with pytest.raises(ValueError, match="straight into layers of this library"):
            VideoPipeline(model)

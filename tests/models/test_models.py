"""Backbone, classifier and sizes, used as Keras people use models."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
from contract import check_config, check_gradients, check_policy, check_saving, compute
from gradients import outputs_and_gradients, set_seeds
from keras import ops

import videoswin_keras
from videoswin_keras import (
    AdamW,
    VideoSwinB,
    VideoSwinBackbone,
    VideoSwinClassifier,
    VideoSwinL,
    VideoSwinS,
    VideoSwinT,
)

TWO_STAGES = {"embed_dim": 8, "depths": (2, 1), "num_heads": (1, 2), "window_size": (2, 3, 3)}
SMALL = {"embed_dim": 8, "depths": (2, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": (2, 3, 3)}
ANY = (None, None, None, 3)


def small_backbone(input_shape=ANY, **kwargs):
    return VideoSwinBackbone(input_shape, **{**SMALL, **kwargs})


def small_classifier(num_classes=5, dtype=None, **kwargs):
    return VideoSwinClassifier(small_backbone(dtype=dtype, **kwargs), num_classes, dtype=dtype)


def clip(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def predict(model, inputs):
    return model.predict(inputs, verbose=0)


# --- sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "parameters", "channels"),
    [
        (VideoSwinT, 28_158_070, 768),
        (VideoSwinS, 49_816_678, 768),
        (VideoSwinB, 88_048_984, 1024),
        (VideoSwinL, 196_953_916, 1536),  # the published counts
    ],
)
def test_published_sizes(make, parameters, channels):
    model = make(input_shape=ANY)
    assert model.count_params() == parameters
    assert model.output_shape == (None, 400)
    assert model.backbone.output_shape == (None, None, None, None, channels)


def test_defaults_are_those_of_the_paper():
    model = VideoSwinT()
    assert model.input_shape == (None, 32, 224, 224, 3)
    assert model.backbone.output_shape == (None, 16, 7, 7, 768)
    rates = [
        block.drop_path_rate for index in range(1, 5) for block in model.backbone.get_layer(f"stage{index}").blocks
    ]
    np.testing.assert_allclose(rates, [0.1 * index / 11 for index in range(12)], atol=1e-12)
    assert model.get_layer("dropout").rate == 0.5
    shifted = [block.shifted for block in model.backbone.get_layer("stage3").blocks]
    assert shifted == [False, True] * 3
    epsilons = {
        layer.epsilon for layer in model._flatten_layers() if isinstance(layer, keras.layers.LayerNormalization)
    }
    assert epsilons == {1e-5}
    defaults = {"S": 0.1, "B": 0.3, "L": 0.4}
    for size, rate in defaults.items():
        make = getattr(videoswin_keras, f"VideoSwin{size}")
        small = make(ANY, 3, embed_dim=8, num_heads=(1, 1, 1, 1), depths=(1, 1, 1, 1))
        assert small.backbone.arguments["drop_path_rate"] == rate


def test_initialisers():
    """Normal of deviation 0.02 for linear weights and tables, PyTorch's uniform for patches, 0.01 for the head."""
    keras.utils.set_random_seed(0)
    model = VideoSwinT(ANY, num_classes=1000, depths=(1, 1, 1, 1))
    values = {variable.path: ops.convert_to_numpy(variable.value) for variable in model.trainable_variables}
    for path, value in values.items():
        if path.endswith("bias_table") or (path.endswith("kernel") and "stage" in path):
            assert value.std() == pytest.approx(0.02, rel=0.05), path
        elif path.endswith("reduction/kernel"):
            assert value.std() == pytest.approx(0.02, rel=0.02), path
        elif path.endswith("gamma"):
            assert (value == 1).all(), path
        elif path.startswith("stage") or path.endswith("beta"):
            assert (value == 0).all(), path
    bound = 1 / np.sqrt(2 * 4 * 4 * 3)
    for name in ("kernel", "bias"):
        patches = values[f"patch_embedding/{name}"]
        assert np.abs(patches).max() <= bound
        assert patches.std() == pytest.approx(bound / np.sqrt(3), rel=0.15)
    assert values["head/kernel"].std() == pytest.approx(0.01, rel=0.02)
    # Not truncated at two deviations, as Keras's TruncatedNormal would be.
    assert np.abs(values["stage4/block1/mlp_expansion/kernel"]).max() > 0.08


def test_variable_paths_are_pinned():
    """Names are a file format: a renamed layer makes saved weights unreadable."""
    model = small_classifier(patch_norm=True)
    paths = [variable.path for variable in model.trainable_variables]
    pinned = (Path(__file__).parent.parent / "data" / "variable_paths.txt").read_text().split()
    assert paths == pinned
    every = [variable.path for variable in small_classifier(projection_dropout_rate=0.1).variables]
    assert len(every) == len(set(every))
    assert "stage1/block2/attention/seed_generator/seed_generator_state" in every


# --- any size ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 3),  # less than a patch
        (3, 2, 33, 31, 3),
        (1, 5, 96, 40, 3),  # portrait
        (2, 9, 40, 97, 3),
        (1, 16, 64, 64, 3),
    ],
)
def test_any_size_equals_fixed_size(shape):
    model = small_classifier()
    fixed = small_classifier(input_shape=shape[1:])
    fixed.set_weights(model.get_weights())
    inputs = clip(*shape)
    outputs = predict(model, inputs)
    assert outputs.shape == (shape[0], 5)
    np.testing.assert_allclose(outputs, predict(fixed, inputs), atol=1e-6)
    for one, expected in zip(inputs, outputs, strict=True):
        np.testing.assert_allclose(predict(model, one[None])[0], expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_channels(channels):
    model = small_classifier(input_shape=(None, None, None, channels))
    assert predict(model, clip(1, 4, 32, 32, channels)).shape == (1, 5)


def test_changing_sizes_with_one_model():
    """Clips of many shapes in turn, so that every backend's compiled functions are used more than once."""
    model = small_backbone(pooling="avg", **TWO_STAGES)
    for frames, height, width in ((4, 32, 32), (5, 40, 33), (4, 32, 32), (1, 70, 30), (5, 40, 33)):
        inputs = clip(2, frames, height, width, 3)
        np.testing.assert_allclose(
            predict(model, inputs), ops.convert_to_numpy(model(inputs, training=False)), atol=1e-5
        )


# --- outputs ----------------------------------------------------------------------------------------------------


def test_features_pooling_and_pyramid():
    inputs = clip(2, 7, 65, 40, 3)
    features = VideoSwinT(ANY, include_top=False, **SMALL)
    maps = predict(features, inputs)
    assert maps.shape == (2, 4, 3, 2, 64)
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = VideoSwinT(ANY, include_top=False, pooling=pooling, **SMALL)
        pooled.set_weights(features.get_weights())
        np.testing.assert_allclose(predict(pooled, inputs), reduce(maps, axis=(1, 2, 3)), atol=1e-5)
    pyramid = keras.Model(features.input, features.pyramid_outputs).predict(inputs, verbose=0)
    assert {name: value.shape for name, value in pyramid.items()} == {
        "stage1": (2, 4, 17, 10, 8),
        "stage2": (2, 4, 9, 5, 16),
        "stage3": (2, 4, 5, 3, 32),
        "stage4": (2, 4, 3, 2, 64),
    }
    normalised = features.get_layer("norm")(pyramid["stage4"])
    np.testing.assert_allclose(ops.convert_to_numpy(normalised), maps, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_rescaling(dtype):
    plain, rescaling = small_classifier(), small_classifier(include_rescaling=True)
    rescaling.set_weights(plain.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 32, 32, 3)).astype(dtype)
    normalised = (pixels - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    np.testing.assert_allclose(predict(rescaling, pixels), predict(plain, normalised.astype("float32")), atol=1e-5)


def test_activation():
    logits = small_classifier()
    model = VideoSwinClassifier(logits.backbone, 5, activation="softmax")
    model.get_layer("head").set_weights(logits.get_layer("head").get_weights())
    inputs = clip(1, 4, 32, 32, 3)
    expected = np.exp(predict(logits, inputs))
    np.testing.assert_allclose(predict(model, inputs), expected / expected.sum(), atol=1e-6)


# --- the contract -----------------------------------------------------------------------------------------------

MODELS = {
    "backbone": lambda **k: small_backbone(**k),
    "backbone_options": lambda **k: small_backbone(
        qkv_bias=False, patch_norm=False, mlp_ratio=2.0, patch_size=(1, 4, 4), pooling="max", frozen_stages=1, **k
    ),
    "classifier": lambda **k: small_classifier(**k),
}


@pytest.mark.parametrize("name", MODELS)
def test_contract(name, tmp_path):
    check_config(MODELS[name]())
    for policy in ("float32", "mixed_bfloat16", "mixed_float16", "bfloat16"):
        model = MODELS[name](dtype=policy)
        check_policy(model, policy)
        if policy in ("float32", "mixed_bfloat16"):  # each layer is saved under every policy in tests/nn
            check_saving(model, clip(1, 4, 32, 40, 3), tmp_path)
    check_gradients(MODELS[name](drop_path_rate=0.0), clip(2, 4, 32, 40, 3))


def test_lists_become_tuples():
    model = VideoSwinBackbone(
        [None, None, None, 3], **{key: list(v) if isinstance(v, tuple) else v for key, v in SMALL.items()}
    )
    restored = VideoSwinBackbone.from_config(json.loads(json.dumps(model.get_config())))
    assert restored.arguments == model.arguments
    assert restored.arguments["depths"] == (2, 1, 2, 1)


def test_trainable_is_saved(tmp_path):
    model = small_classifier()
    model.backbone.trainable = False
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    assert [variable.path for variable in restored.trainable_variables] == ["head/kernel", "head/bias"]


def test_layers_frozen_within_are_saved(tmp_path):
    model = small_classifier(frozen_stages=1)
    model.backbone.get_layer("stage2").blocks[0].attention.trainable = False
    model.backbone.get_layer("stage1").trainable = True
    paths = [variable.path for variable in model.trainable_variables]
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    assert [variable.path for variable in restored.trainable_variables] == paths
    assert not any("stage2/block1/attention/" in path for path in paths)
    assert any(path.startswith("stage1/") for path in paths)


def test_reloaded_model_continues_training(tmp_path):
    model = small_classifier()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(clip(2, 4, 32, 32, 3), np.array([0, 1]), verbose=0)
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    restored.fit(clip(2, 4, 32, 32, 3), np.array([0, 1]), verbose=0)
    assert int(restored.optimizer.iterations) == 2


# --- training ---------------------------------------------------------------------------------------------------


def test_fit_learns():
    keras.utils.set_random_seed(0)
    model = small_classifier(2, drop_path_rate=0.1)
    model.compile(AdamW(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    labels = np.arange(8) % 2
    clips = clip(8, 4, 32, 32, 3) + labels[:, None, None, None, None]
    model.fit(clips, labels, batch_size=4, epochs=8, verbose=0)
    assert model.evaluate(clips, labels, verbose=0)[1] == 1.0


def test_a_step_is_traced_once():
    """TensorFlow traces a step again if it makes weights, as an optimizer does in its first."""
    traces = []

    class Counting(VideoSwinClassifier):
        def train_step(self, *arguments, **named):
            traces.append(self)
            return super().train_step(*arguments, **named)

    model = Counting(small_backbone(), 2)
    model.compile(AdamW(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.train_on_batch(clip(1, 4, 32, 32, 3), np.array([0]))
    assert len(traces) == 1


def test_a_subclass_whose_layer_is_built_by_its_first_step():
    class WithSecondHead(VideoSwinClassifier):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.second = keras.layers.Dense(2)

        def call(self, inputs, training=None):
            return self.second(super().call(inputs, training=training))

    model = WithSecondHead(small_backbone(), 2)
    model.compile(AdamW(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.train_on_batch(clip(1, 4, 32, 32, 3), np.array([0]))
    assert len(model.optimizer.variables) > 2 * len(model.trainable_variables)


def test_sequential_with_a_new_head():
    keras.utils.set_random_seed(0)
    backbone = small_backbone(pooling="avg")
    backbone.trainable = False
    model = keras.Sequential([backbone, keras.layers.Dense(3)])
    before = backbone.get_weights()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(clip(4, 4, 32, 32, 3), np.array([0, 1, 2, 0]), verbose=0)
    assert len(model.trainable_variables) == 2
    for old, new in zip(before, backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert predict(model, clip(1, 3, 40, 32, 3)).shape == (1, 3)


def test_frozen_stages():
    """−1 nothing, 0 the patch embedding, n also n stages with the merging after each: as in the official code."""

    def frozen_layers(stages):
        trainable = {
            variable.path.split("/")[0] for variable in small_backbone(frozen_stages=stages).trainable_variables
        }
        everything = {variable.path.split("/")[0] for variable in small_backbone().trainable_variables}
        return everything - trainable

    assert frozen_layers(-1) == set()
    assert frozen_layers(0) == {"patch_embedding"}
    assert frozen_layers(2) == {"patch_embedding", "stage1", "merging1", "stage2", "merging2"}
    rates = {"drop_path_rate": 0.5, "projection_dropout_rate": 0.5, "attention_dropout_rate": 0.5}
    model = small_backbone(frozen_stages=2, **rates)
    stage2 = keras.Model(model.input, model.pyramid_outputs["stage2"])
    inputs = clip(4, 4, 32, 32, 3)
    outputs = [ops.convert_to_numpy(stage2(inputs, training=training)) for training in (True, False)]
    np.testing.assert_allclose(*outputs, atol=1e-6)  # a frozen stage never drops
    assert not np.allclose(*(ops.convert_to_numpy(model(inputs, training=training)) for training in (True, False)))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_training(policy):
    keras.utils.set_random_seed(0)
    model = small_classifier(2, dtype=policy)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = model.fit(clip(4, 4, 32, 32, 3), np.array([0, 1, 0, 1]), epochs=4, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert all(variable.dtype == "float32" for variable in model.trainable_variables)


def test_jit_compile():
    """`jit_compile=True`: XLA on JAX and TensorFlow. PyTorch's compiler takes minutes, see the README."""
    model = small_classifier(2)
    inputs = clip(2, 4, 32, 32, 3)
    expected = predict(model, inputs)
    model.compile("sgd", "mse", jit_compile=keras.backend.backend() != "torch")
    np.testing.assert_allclose(predict(model, inputs), expected, atol=1e-5)
    assert np.isfinite(model.train_on_batch(inputs, np.zeros((2, 2))))


def test_rematerialisation_of_a_model_changes_no_gradient():
    def run(use_rematerialization):
        keras.utils.set_random_seed(4)
        rates = {"drop_path_rate": 0.4, "projection_dropout_rate": 0.2, "attention_dropout_rate": 0.2}
        model = small_classifier(use_rematerialization=use_rematerialization, **rates, **TWO_STAGES)
        set_seeds(model)
        return outputs_and_gradients(model, clip(3, 5, 40, 40, 3))

    outputs, gradients = run(False)
    recomputed_outputs, recomputed = run(True)
    np.testing.assert_allclose(recomputed_outputs, outputs, atol=1e-6)
    for path, gradient in gradients.items():
        np.testing.assert_allclose(recomputed[path], gradient, atol=2e-5 * np.abs(gradient).max(), err_msg=path)


TRAINING_STEP = """
import re, sys
import keras, numpy as np
from videoswin_keras import VideoSwinT
def peak():  # not getrusage, whose peak a process inherits from the one that started it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
model = VideoSwinT((8, 112, 112, 3), 4, depths=(8, 1, 1, 1), use_rematerialization=sys.argv[1] == "on")
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
before = peak()
model.train_on_batch(np.ones((8, 8, 112, 112, 3), "float32"), np.arange(8) % 4)
print(peak() - before)
"""


def test_rematerialisation_lowers_the_memory_of_training():
    """By how much one training step raises the peak memory of a process."""

    def growth(choice):
        command = [sys.executable, "-c", TRAINING_STEP, choice]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(result.stdout.split()[-1])

    assert growth("on") < 0.8 * growth("off")


def test_models_export_themselves(tmp_path):
    """On every backend, also where Keras's own way fails or writes what cannot be loaded."""
    model = small_classifier(3, **TWO_STAGES)
    model.export(tmp_path / "model.onnx", format="onnx")
    inputs = clip(2, 4, 20, 24, 3)
    (outputs,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"clip": inputs})
    np.testing.assert_allclose(outputs, compute(model, inputs), atol=1e-5)
    with pytest.raises(ValueError, match="can be exported as onnx, tf_saved_model"):
        model.export(tmp_path / "model.bin", format="coreml")


# --- quantisation -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize("nested", [False, pytest.param(True, marks=pytest.mark.one_backend)])
def test_int8_survives_saving(nested, tmp_path):
    if nested:
        model = keras.Sequential([small_backbone(pooling="avg", **TWO_STAGES), keras.layers.Dense(3)])
    else:
        model = small_classifier(3, **TWO_STAGES)
    inputs = clip(2, 4, 40, 32, 3)
    exact = compute(model, inputs)
    model.quantize("int8")
    outputs = compute(model, inputs)
    assert 0 < np.abs(outputs - exact).max() < 0.1 * np.abs(exact).max()
    kernels = sum(variable.dtype == "int8" for variable in model.variables)
    assert kernels == 4 * 3 + 1 + 1  # four in each of three blocks, a merging, the head
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    assert sum(variable.dtype == "int8" for variable in restored.variables) == kernels
    np.testing.assert_array_equal(compute(restored, inputs), outputs)


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VideoSwinBackbone((32, 224, 224)), "must be \\(frames, height, width, channels\\)"),
        (lambda: VideoSwinBackbone((32, 224, 224, None)), "not for channels"),
        (lambda: VideoSwinBackbone(ANY, depths=(2, 2)), "one positive entry per stage"),
        (lambda: VideoSwinBackbone(ANY, depths=(), num_heads=()), "one positive entry per stage"),
        (lambda: VideoSwinBackbone(ANY, depths=(0, 1), num_heads=(1, 1)), "one positive entry per stage"),
        (lambda: VideoSwinBackbone((0, 32, 32, 3)), "must be at least 1, or None"),
        (lambda: VideoSwinT(ANY, num_classes=None, **SMALL), "an integer, at least 1"),
        (lambda: small_backbone(frozen_stages=5), "from -1 to 4"),
        (lambda: small_backbone(pooling="mean"), "one of \\['avg', 'max'\\]"),
        (lambda: VideoSwinClassifier(small_backbone(pooling="avg"), 3), "pooling=None"),
        (lambda: VideoSwinT(ANY, num_classes=0, **SMALL), "at least 1"),
        (lambda: VideoSwinT(ANY, dropout_rate=1.5, **SMALL), "`dropout_rate`"),
        (lambda: small_backbone((None, None, None, 1), include_rescaling=True), "1 channels"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_summary_runs():
    lines = []
    small_classifier().summary(print_fn=lambda line, **_: lines.append(line))
    assert "VideoSwinBackbone" in "\n".join(lines)


IMPORTS = """
import sys
import keras
before = set(sys.modules)
import videoswin_keras
print([name for name in ("torch", "jax", "tensorflow", "av", "cv2") if name in set(sys.modules) - before])
"""


def test_importing_brings_no_backend_of_its_own():
    result = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

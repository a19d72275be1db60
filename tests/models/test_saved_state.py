"""What a saved model goes on with: its masks, its adapters, its quantisation; and files of earlier versions."""

import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from contract import compute
from keras import ops
from keras.quantizers import Int4QuantizationConfig, Int8QuantizationConfig

from videoswin_keras import AdamW, VideoSwinBackbone, VideoSwinStage, VideoSwinT

SAVED = Path(__file__).parent.parent / "data" / "saved"
TINY = {"embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "window_size": (2, 3, 3)}
ANY = (None, None, None, 3)
DROPS = {"projection_dropout_rate": 0.2, "attention_dropout_rate": 0.2, "drop_path_rate": 0.3}
MEMORY = {"stages": (2,), "num_tokens": 4, "memory_length": 3}


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


# --- a run that was stopped -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A training of four steps, the model saved whole and as weights after two, and a function that goes on."""
    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("runs")
    model = VideoSwinT(ANY, num_classes=3, memory=MEMORY, **TINY, **DROPS)
    clips, labels = draw(4, 2, 4, 24, 24, 3), np.array([[0, 1], [2, 1], [0, 0], [2, 1]])

    def go_on(model):
        model.fit(clips, labels, batch_size=2, shuffle=False, verbose=0)
        return model.get_weights()

    model.compile(AdamW(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    go_on(model)
    model.save(folder / "half.keras")
    model.save_weights(folder / "half.weights.h5")
    return model, go_on, folder, go_on(model)


def test_a_resumed_run_equals_an_unbroken_one(runs):
    _, go_on, folder, expected = runs
    for weight, other in zip(go_on(keras.models.load_model(folder / "half.keras")), expected, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)


def test_without_its_seeds_it_would_not(runs):
    _, go_on, folder, expected = runs
    model = keras.models.load_model(folder / "half.keras")
    for variable in model.non_trainable_variables:
        if "seed" in variable.path:
            variable.assign(np.array([7, 7], "uint32"))
    assert max(np.abs(a - b).max() for a, b in zip(go_on(model), expected, strict=True)) > 1e-3


def test_weights_bring_their_seeds(runs):
    model, _, folder, _ = runs
    whole = keras.models.load_model(folder / "half.keras")
    model.load_weights(folder / "half.weights.h5")
    seeds = [
        [ops.convert_to_numpy(variable) for variable in one.non_trainable_variables if "seed" in variable.path]
        for one in (whole, model)
    ]
    assert len(seeds[0]) == 8  # dropout of patches and before the head, three blocks, the attention of each
    np.testing.assert_array_equal(*seeds)


def test_state_trees(runs):
    """What `OrbaxCheckpoint` saves: a tree by variable paths, which must be unique."""
    model, _, folder, _ = runs
    tree = model.get_state_tree(value_format="numpy_array")
    other = keras.models.load_model(folder / "half.keras")
    other.set_state_tree(tree)
    for variable, same in zip(model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (variable, same)), err_msg=variable.path)


def test_a_run_that_was_killed_is_restored(tmp_path):
    """`BackupAndRestore`, whose file brings the seeds along."""

    def trained(epochs, stop=False):
        keras.utils.set_random_seed(1)
        model = VideoSwinT(ANY, num_classes=3, **TINY, **DROPS)
        model.compile(AdamW(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
        callbacks = [keras.callbacks.BackupAndRestore(tmp_path / "backup")] if stop is not None else []
        if stop:
            callbacks.append(keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: 1 / (2 - epoch)))
        inputs = draw(2, 4, 24, 24, 3), np.array([0, 1])
        history = model.fit(*inputs, epochs=epochs, callbacks=callbacks, shuffle=False, verbose=0)
        return history.epoch, model.get_weights()

    with pytest.raises(ZeroDivisionError):
        trained(3, stop=True)
    (restored_epochs, restored), (epochs, expected) = trained(3), trained(3, stop=None)
    assert (restored_epochs, epochs) == ([2], [0, 1, 2])
    for weight, other in zip(restored, expected, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)


# --- adapters and quantisation ----------------------------------------------------------------------------------


def adapted(model):
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dense) and layer.name in ("qkv", "mlp_expansion"):
            layer.enable_lora(2, lora_alpha=6)
            layer.lora_kernel_b.assign(draw(*layer.lora_kernel_b.shape))


def weight_only(model):
    model.quantize(config=Int8QuantizationConfig(activation_quantizer=None))


def in_blocks(model):
    model.quantize(config=Int4QuantizationConfig(block_size=4))


def make(kind):
    if kind == "classifier":
        return VideoSwinT(ANY, num_classes=3, **TINY)
    if kind == "memory":
        return VideoSwinT(ANY, num_classes=3, memory=MEMORY, **TINY)
    if kind == "nested":
        return keras.Sequential([VideoSwinBackbone(ANY, **TINY, pooling="avg"), keras.layers.Dense(3)])
    inputs = keras.Input((4, 6, 6, 8))
    return keras.Model(inputs, keras.layers.Dense(3)(VideoSwinStage(2, (0.0, 0.1), (2, 3, 3))(inputs)))


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize("change", [adapted, weight_only, in_blocks])
@pytest.mark.parametrize(
    "kind",
    ["memory", *(pytest.param(kind, marks=pytest.mark.one_backend) for kind in ("classifier", "nested", "stage"))],
)
def test_lora_and_quantisation_survive_saving(kind, change, tmp_path):
    """As a plain Dense layer keeps them, but for its `lora_alpha`, which Keras 3.15 forgets."""
    model = make(kind)
    inputs = {"memory": draw(1, 2, 4, 12, 12, 3), "stage": draw(1, 4, 6, 6, 8)}.get(kind, draw(1, 4, 12, 12, 3))
    model(inputs)
    change(model)
    outputs = compute(model, inputs)
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(compute(restored, inputs), outputs, atol=2e-6 * np.abs(outputs).max())

    def said(model):
        dense = [layer.get_config() for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dense)]
        names = ("dtype", "quantization_config", "lora_rank", "lora_alpha")
        return [{name: config.get(name) for name in names} for config in dense]

    assert said(restored) == said(model)
    for count in ("trainable_variables", "non_trainable_variables"):
        assert len(getattr(restored, count)) == len(getattr(model, count)), count


# --- files of earlier versions ----------------------------------------------------------------------------------


def test_files_of_0_1_load(tmp_path):
    clips = np.random.default_rng(0).uniform(0, 255, (1, 3, 4, 24, 24, 3)).astype("float32")
    expected = [  # what version 0.1 gave, on PyTorch
        [-0.2937350273132324, -0.03382980450987816, 0.09263761341571808],
        [-0.3398378789424896, -0.14506277441978455, 0.04272794350981712],
        [-0.3536113500595093, -0.10391256958246231, -0.064739890396595],
    ]
    model = keras.models.load_model(SAVED / "memory_0.1.keras")
    np.testing.assert_allclose(compute(model, clips), [expected], atol=1e-5)
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    with zipfile.ZipFile(SAVED / "memory_0.1.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
    model.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(compute(model, clips), [expected], atol=1e-5)


def test_a_quantised_file_of_0_1_loads():
    model = keras.models.load_model(SAVED / "stage_int8_0.1.keras")
    assert sum(variable.dtype == "int8" for variable in model.variables) == 8
    inputs = np.random.default_rng(0).normal(size=(1, 4, 4, 4, 8)).astype("float32")
    expected = [0.11868508160114288, -0.1375175565481186, 0.6403530240058899, 0.11409339308738708]  # on JAX
    np.testing.assert_allclose(compute(model, inputs)[0, 0, 0, 0, :4], expected, atol=1e-5)

"""Every public layer, held to the contract, and what is special about each."""

import keras
import numpy as np
import pytest
from contract import check_layer
from gradients import gradients_of, outputs_and_gradients, second_gradients_of, set_seeds
from keras import ops

from videoswin_keras import (
    PatchEmbedding,
    PatchMerging,
    PixelNormalization,
    VideoSwinBlock,
    VideoSwinStage,
    WindowAttention,
)
from videoswin_keras.kernels import device
from videoswin_keras.nn import dropout
from videoswin_keras.nn.windows import ShiftMask

LAYERS = {
    "attention": (lambda **k: WindowAttention(2, (2, 3, 3), **k), (6, 18, 8)),
    "attention_without_bias": (lambda **k: WindowAttention(2, (2, 3, 3), qkv_bias=False, **k), (6, 18, 8)),
    "block": (lambda **k: VideoSwinBlock(2, (2, 3, 5), **k), (2, 5, 7, 9, 8)),
    "shifted_block": (lambda **k: VideoSwinBlock(2, (2, 3, 5), shifted=True, mlp_ratio=2.0, **k), (2, 5, 7, 9, 8)),
    "stage": (lambda **k: VideoSwinStage(2, (0.0, 0.1), (2, 3, 3), **k), (4, 4, 6, 6, 8)),
    "patch_embedding": (lambda **k: PatchEmbedding(8, (2, 4, 3), **k), (2, 5, 9, 9, 4)),
    "patch_embedding_without_norm": (lambda **k: PatchEmbedding(8, patch_norm=False, **k), (2, 4, 8, 8, 1)),
    "patch_merging": (lambda **k: PatchMerging(**k), (2, 3, 5, 4, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_contract(name, tmp_path):
    check_layer(*LAYERS[name], tmp_path)


def test_pixel_normalization_is_exact_under_low_precision():
    layer = PixelNormalization(dtype="mixed_bfloat16")
    pixels = np.array([[0, 128, 255]], "uint8")
    expected = (pixels - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    outputs = ops.convert_to_numpy(ops.cast(layer(pixels), "float32"))
    np.testing.assert_allclose(outputs, expected, rtol=2**-8)
    np.testing.assert_allclose(ops.convert_to_numpy(PixelNormalization()(pixels)), expected, rtol=1e-6)


def test_patch_merging_order():
    """[0::2, 0::2], [1::2, 0::2], [0::2, 1::2], [1::2, 1::2] over (height, width), as officially."""
    merging = PatchMerging()
    merging.build((None, None, None, None, 2))
    x = np.random.default_rng(0).normal(size=(1, 2, 5, 7, 2)).astype("float32")
    padded = np.pad(x, [(0, 0), (0, 0), (0, 1), (0, 1), (0, 0)])
    corners = [padded[:, :, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    expected = merging.reduction(merging.norm(np.concatenate(corners, axis=-1)))
    np.testing.assert_allclose(ops.convert_to_numpy(merging(x)), ops.convert_to_numpy(expected), atol=1e-6)


def test_patch_embedding_is_a_convolution():
    embedding = PatchEmbedding(6, (2, 3, 4), patch_norm=False)
    x = np.random.default_rng(0).normal(size=(2, 4, 9, 8, 3)).astype("float32")
    outputs = ops.convert_to_numpy(embedding(x))
    convolved = ops.conv(x, embedding.kernel, strides=(2, 3, 4), padding="valid") + embedding.bias
    np.testing.assert_allclose(outputs, ops.convert_to_numpy(convolved), atol=1e-5)


def test_shift_mask_keeps_regions_apart():
    """Attention with a shift mask gives what each region gives alone, where the bias table treats all tokens alike."""
    attention = WindowAttention(1, (1, 1, 4))
    attention.build((None, None, 4))
    attention.relative_position_bias_table.assign(np.zeros(attention.relative_position_bias_table.shape, "float32"))
    x = np.random.default_rng(0).normal(size=(1, 4, 4)).astype("float32")
    shift_mask = ShiftMask(np.array([[0, 0, 1, 1]], "int32"), np.zeros(1, "int32"))
    outputs = ops.convert_to_numpy(attention(x, shift_mask=shift_mask))
    apart = [ops.convert_to_numpy(attention(part)) for part in (x[:, :2], x[:, 2:])]
    np.testing.assert_allclose(outputs, np.concatenate(apart, axis=1), atol=1e-6)


def test_rejects_shift_mask_of_other_windows():
    attention = WindowAttention(1, (1, 1, 4))
    shift_mask = ShiftMask(np.zeros((1, 4), "int32"), np.zeros(3, "int32"))
    with pytest.raises(ValueError, match=r"covers 3 windows\. Received: 6"):
        attention(np.zeros((6, 4, 4), "float32"), shift_mask=shift_mask)
    assert attention(np.zeros((2, 3, 4, 4), "float32"), shift_mask=shift_mask).shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    "rates",
    [
        {"attention_dropout_rate": 0.5},
        {"projection_dropout_rate": 0.5},
        {"drop_path_rate": 0.5},
    ],
)
def test_training_drops_and_inference_does_not(rates):
    keras.utils.set_random_seed(0)
    block = VideoSwinBlock(2, (2, 3, 3), **rates)
    plain = VideoSwinBlock(2, (2, 3, 3))
    x = np.random.default_rng(0).normal(size=(4, 2, 3, 3, 8)).astype("float32")
    block.build(x.shape)
    plain.build(x.shape)
    plain.set_weights(block.get_weights())
    inference = ops.convert_to_numpy(block(x, training=False))
    np.testing.assert_allclose(inference, ops.convert_to_numpy(plain(x, training=True)), atol=1e-6)
    first, second = (ops.convert_to_numpy(block(x, training=True)) for _ in range(2))
    assert not np.allclose(first, inference)
    assert not np.allclose(first, second)


def test_drop_path_skips_whole_samples_and_keeps_the_mean():
    keras.utils.set_random_seed(1)
    block = VideoSwinBlock(2, (2, 3, 3), drop_path_rate=0.4)
    x = np.random.default_rng(0).normal(size=(400, 2, 3, 3, 8)).astype("float32")
    block.build(x.shape)
    for layer in (block.mlp_projection,):  # leave one residual branch, the attention's
        layer.kernel.assign(np.zeros(layer.kernel.shape, "float32"))
        layer.bias.assign(np.zeros(layer.bias.shape, "float32"))
    branch = ops.convert_to_numpy(block(x, training=False)) - x
    dropped = ops.convert_to_numpy(block(x, training=True)) - x
    kept = np.abs(dropped).max(axis=(1, 2, 3, 4)) > 1e-6
    np.testing.assert_allclose(dropped[kept], branch[kept] / 0.6, atol=1e-5)
    assert 0.5 < kept.mean() < 0.7  # 0.6 ± 4 deviations of 400 draws


@pytest.mark.parametrize("use_rematerialization", [False, True])
@pytest.mark.parametrize("batch", [1, 4])
def test_what_stochastic_depth_drops_has_gradients_of_zero(batch, use_rematerialization, monkeypatch):
    """Against a GPU's way, which computes everything and multiplies by zero."""
    x = np.random.default_rng(0).normal(size=(batch, 4, 4, 4, 8)).astype("float32")
    inputs = keras.Input(x.shape[1:])
    block = VideoSwinBlock(2, (2, 3, 3), True, drop_path_rate=0.5, use_rematerialization=use_rematerialization)
    model = keras.Model(inputs, block(inputs))
    dropped = set()
    for seed in range(8):

        def run(seed=seed):
            block.seed_generator.state.assign(np.array([seed, 0], "uint32"))
            return outputs_and_gradients(model, x)

        outputs, gradients = run()
        with monkeypatch.context() as patch:
            patch.setattr(device, "is_on_cpu", lambda x: False)
            expected_outputs, expected = run()
        np.testing.assert_allclose(outputs, expected_outputs, atol=1e-6)
        for (path, gradient), other in zip(gradients.items(), expected.values(), strict=True):
            np.testing.assert_allclose(gradient, other, atol=2e-6 * max(1, np.abs(other).max()), err_msg=path)
        dropped.add(sum(not gradient.any() for gradient in expected.values()))
    assert batch > 1 or len(dropped) > 2  # nothing, one branch, another, or both


@pytest.mark.parametrize("batch", [1, 4])
def test_what_stochastic_depth_drops_is_not_computed(batch):
    """Weights that are not numbers leave what is not computed with them as it is."""
    x = np.random.default_rng(0).normal(size=(batch, 2, 3, 3, 8)).astype("float32")
    block = VideoSwinBlock(2, (2, 3, 3), drop_path_rate=0.6)
    model = keras.Sequential([keras.Input(x.shape[1:]), block])
    block.set_weights([np.full_like(weight, np.nan) for weight in block.get_weights()])
    untouched = 0
    for seed in range(8):
        block.seed_generator.state.assign(np.array([seed, 0], "uint32"))
        outputs, _ = outputs_and_gradients(model, x)
        for found, sample in zip(outputs, x, strict=True):
            untouched += np.array_equal(found, sample)
            assert np.isnan(found).all() or np.array_equal(found, sample)
    backend = keras.backend.backend()
    assert bool(untouched) == (backend == "torch" or (backend == "jax" and batch == 1))


@pytest.mark.parametrize("filters", ["qkv", "mlp_projection"])
def test_float8_anywhere_is_never_skipped(filters, monkeypatch):
    """Its scales would be left without what they are updated with."""
    skippable = []

    def residual(x, branch, rate, seed, is_skippable):
        skippable.append(is_skippable)
        return x

    model = keras.Sequential([keras.Input((2, 3, 3, 8)), VideoSwinBlock(2, (2, 3, 3), drop_path_rate=0.5)])
    model.quantize("float8", filters=filters)
    monkeypatch.setattr(dropout, "residual", residual)
    model(np.zeros((1, 2, 3, 3, 8), "float32"), training=True)
    assert skippable == [False, False]


@pytest.mark.parametrize("training", [False, True])
def test_second_derivatives(training):
    """Against finite differences of the gradient: half its square changes by the Hessian times it."""
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 3, 8)).astype("float32")
    block = VideoSwinBlock(2, (2, 3, 3))
    block.build(x.shape)

    def loss(x):
        return ops.sum(ops.square(block(x, training=training)))

    if training and keras.backend.backend() == "tensorflow":
        with pytest.raises(NotImplementedError):
            second_gradients_of(loss, x)
        return
    (slope,), (found,) = gradients_of(loss, x), second_gradients_of(loss, x)
    ahead, behind = (gradients_of(loss, x + step * slope)[0] for step in (1e-3, -1e-3))
    expected = (ahead - behind) / 2e-3
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("filters", ["qkv", "mlp_projection"])
def test_float8_trains_as_it_does_without_rematerialisation(filters):
    x = np.random.default_rng(0).normal(size=(2, 2, 3, 3, 8)).astype("float32")

    def trained(use_rematerialization):
        keras.utils.set_random_seed(0)
        block = VideoSwinBlock(2, (2, 3, 3), use_rematerialization=use_rematerialization)
        model = keras.Sequential([keras.Input(x.shape[1:]), block])
        model.quantize("float8", filters=filters)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        for _ in range(3):
            model.train_on_batch(x, x[::-1])
        return model.get_weights()

    for found, expected in zip(trained(True), trained(False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_stochastic_depth_of_no_samples():
    block = VideoSwinBlock(2, (2, 3, 3), drop_path_rate=0.5)
    assert block(ops.zeros((0, 2, 3, 3, 8)), training=True).shape == (0, 2, 3, 3, 8)


@pytest.mark.parametrize(
    "rates", [{}, {"drop_path_rate": 0.5, "projection_dropout_rate": 0.3, "attention_dropout_rate": 0.2}]
)
def test_rematerialisation_changes_no_gradient(rates):
    def run(use_rematerialization):
        keras.utils.set_random_seed(2)
        inputs = keras.Input((None, None, None, 8))
        block = VideoSwinBlock(2, (2, 3, 3), shifted=True, use_rematerialization=use_rematerialization, **rates)
        model = keras.Model(inputs, block(inputs))
        set_seeds(model)
        return outputs_and_gradients(model, np.random.default_rng(0).normal(size=(4, 3, 5, 5, 8)).astype("float32"))

    outputs, gradients = run(False)
    recomputed_outputs, recomputed = run(True)
    np.testing.assert_allclose(recomputed_outputs, outputs, atol=1e-6)
    for (path, gradient), other in zip(gradients.items(), recomputed.values(), strict=True):
        np.testing.assert_allclose(other, gradient, atol=1e-5 * np.abs(gradient).max(), err_msg=path)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_rematerialisation_in_low_precision(dtype):
    def run(use_rematerialization):
        keras.utils.set_random_seed(2)
        block = VideoSwinBlock(2, (2, 3, 3), shifted=True, use_rematerialization=use_rematerialization, dtype=dtype)
        model = keras.Sequential([keras.Input((4, 6, 6, 8)), block])
        return outputs_and_gradients(model, np.random.default_rng(0).normal(size=(2, 4, 6, 6, 8)).astype("float32"))

    outputs, gradients = run(False)
    recomputed_outputs, recomputed = run(True)
    np.testing.assert_allclose(recomputed_outputs.astype("float32"), outputs.astype("float32"), atol=0.05)
    for (path, gradient), other in zip(gradients.items(), recomputed.values(), strict=True):
        np.testing.assert_allclose(other, gradient, atol=0.05 * np.abs(gradient).max(), err_msg=path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WindowAttention(3, (2, 2, 2)).build((None, 8, 8)), "multiple of `num_heads`"),
        (lambda: WindowAttention(2, (7, 7)), "three positive integers"),
        (lambda: WindowAttention(2, (0, 7, 7)), "three positive integers"),
        (lambda: VideoSwinBlock(2, drop_path_rate=1.0), "`drop_path_rate` must be at least 0 and below 1"),
        (lambda: PatchEmbedding(8).build((None, None, None, None, None)), "channels must be known"),
        (lambda: PixelNormalization().build((None, None, None, None, 1)), "the clip has 1 channels"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_clip_of_other_channels():
    embedding = PatchEmbedding(8)
    embedding.build((None, None, None, None, 3))
    with pytest.raises(ValueError, match="for 3 channels"):
        embedding(np.zeros((1, 2, 8, 8, 1), "float32"))


def test_more_tokens_than_a_window_has():
    with pytest.raises(ValueError, match="18 tokens"):
        WindowAttention(2, (1, 3, 3))(np.zeros((1, 18, 8), "float32"))


def test_saved_table_of_another_window(tmp_path):
    """Windows (2, 3, 5) and (5, 3, 2) have bias tables of one size; mistaking one for the other would go unseen."""

    def model(window):
        inputs = keras.Input((None, 8))
        return keras.Model(inputs, WindowAttention(2, window)(inputs))

    model((2, 3, 5)).save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match=r"windows \(2, 3, 5\)"):
        model((5, 3, 2)).load_weights(tmp_path / "a.weights.h5")

"""Attention maps and Grad-CAM, against attention, gradients and interpolation written out here."""

import itertools

import keras
import numpy as np
import pytest
import torch
from keras import ops

from videoswin_keras import (
    RecurrentVideoSwin,
    VideoSwinBackbone,
    VideoSwinClassifier,
    attention_maps,
    from_checkpoint,
    grad_cam,
)
from videoswin_keras.data.synthetic import MOTIONS, moving_shape
from videoswin_keras.explanation import overlay, write_png

WINDOW = (2, 4, 4)
CLIP = (7, 18, 40, 3)  # features of (4, 5, 10), then (4, 3, 5): padded, and lower than the window


def backbone(depths=(2, 2), num_heads=(1, 2), seed=0, **kwargs):
    """A backbone whose weights are large enough that attention is not even."""
    model = VideoSwinBackbone(
        (None, None, None, 3), embed_dim=8, depths=depths, num_heads=num_heads, window_size=WINDOW, **kwargs
    )
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape) * (0.3 if "kernel" in variable.path else 1.0))
    return model


def classifier(seed=0, depths=(2, 2), **kwargs):
    model = VideoSwinClassifier(backbone(depths), 5, **kwargs)
    rng = np.random.default_rng(seed)
    for variable in model.get_layer("head").variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


def clip(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape or CLIP).astype("float32")


def value(model, output, x):
    return ops.convert_to_numpy(keras.Model(model.input, output)(x[None], training=False))[0]


def attention_of_pairs(block, x):
    """Returns the weights (heads, places, places) of all pairs of places, in padded features: pair by pair, in numpy.

    Of a window clipped in height, pairs have the bias of as many first tokens of the whole window, as officially.
    """
    size, channels = x.shape[:3], x.shape[3]
    norm, attention = block.attention_norm, block.attention
    gamma, beta, kernel, bias, table = (
        ops.convert_to_numpy(variable)
        for variable in (
            *(norm.gamma, norm.beta, attention.qkv.kernel, attention.qkv.bias),
            attention.relative_position_bias_table,
        )
    )
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gamma + beta
    window = tuple(min(length, side) for length, side in zip(size, WINDOW, strict=True))
    shift = [side // 2 if block.shifted and length > side else 0 for length, side in zip(size, WINDOW, strict=True)]
    padded = tuple(-(-length // side) * side for length, side in zip(size, window, strict=True))
    x = np.pad(x, [*((0, to - length) for length, to in zip(size, padded, strict=True)), (0, 0)]).reshape(-1, channels)
    query, key, _ = (x @ kernel + bias).reshape(len(x), 3, block.num_heads, -1).transpose(1, 2, 0, 3)
    logits = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
    places = np.indices(padded).reshape(3, -1).T
    moved = (places - shift) % padded
    whole = np.array(np.unravel_index(np.ravel_multi_index((moved % window).T, window), WINDOW)).T
    apart = whole[:, None] - whole[None] + np.array(WINDOW) - 1
    logits += table[np.ravel_multi_index(np.moveaxis(apart, -1, 0), [2 * side - 1 for side in WINDOW])].transpose(
        2, 0, 1
    )
    region = np.concatenate([moved // window, places < shift], axis=1)  # what was moved round the edge is apart
    logits[:, (region[:, None] != region[None]).any(-1)] = -np.inf
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    real = np.flatnonzero((places < size).all(1))
    return (weights / weights.sum(-1, keepdims=True))[:, real][:, :, real]


@pytest.mark.parametrize(("stage", "block"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_weights_are_those_of_every_pair(stage, block):
    model = backbone()
    maps = attention_maps(model, clip(), stage, block)
    np.testing.assert_allclose(maps.weights.sum(-1), 1, atol=1e-5)
    layer = model.get_layer(f"stage{stage}")
    x = value(model, layer.input, clip())
    for earlier in layer.blocks[: block - 1]:
        x = ops.convert_to_numpy(earlier(x[None]))[0]
    expected = attention_of_pairs(layer.blocks[block - 1], x)
    weights = np.zeros_like(expected)
    for window, places in zip(maps.weights, maps.places, strict=True):
        real = places >= 0
        weights[:, *np.ix_(places[real], places[real])] = window[:, real][:, :, real]
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    np.testing.assert_allclose(maps.received, expected.mean(0).sum(0).reshape(x.shape[:3]), rtol=1e-4)
    assert sorted(maps.places[maps.places >= 0]) == list(range(expected.shape[-1]))  # each place once


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_weights_of_half_precision_sum_to_one(dtype):
    weights = attention_maps(backbone(dtype=dtype), clip()).weights
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)


def test_even_attention_is_one_everywhere():
    model = VideoSwinBackbone((None, None, None, 3), 8, (2,), (1,), WINDOW)
    for variable in model.variables:
        if "attention" in variable.path:
            variable.assign(np.zeros(variable.shape, variable.dtype))
    for block in (1, 2):
        np.testing.assert_allclose(attention_maps(model, clip(8, 32, 32, 3), block=block).over_clip, 1, atol=1e-5)


@pytest.mark.parametrize(
    ("block", "spots"),
    [
        (1, ({1: 2, 3: 2}, {3: 4, 7: 4}, {3: 4, 7: 4})),
        # Windows begin half a window later; the one round the edge is two parts that do not see each other.
        (2, ({0: 1, 2: 2, 3: 1}, {1: 2, 5: 4, 7: 2}, {1: 2, 5: 4, 7: 2})),
    ],
)
def test_what_all_attend_to_is_hot_where_it_lies(block, spots):
    """A bias that grows along each axis has all tokens attend to the last one that they see."""
    model = VideoSwinBackbone((None, None, None, 3), 8, (2,), (1,), WINDOW)
    ahead = -np.indices([2 * side - 1 for side in WINDOW]).sum(0).reshape(-1, 1)
    model.get_layer("stage1").blocks[block - 1].attention.relative_position_bias_table.assign(100.0 * ahead)
    expected = np.zeros((4, 8, 8))
    for places in itertools.product(*spots):
        expected[places] = np.prod([tokens[place] for tokens, place in zip(spots, places, strict=True)])
    maps = attention_maps(model, clip(8, 32, 32, 3), 1, block)
    np.testing.assert_allclose(maps.received, expected, atol=1e-4)
    last = expected[-1, -1, -1]
    np.testing.assert_allclose(maps.over_clip[-1, -2:, -2:], last, atol=1e-4)  # the corner beyond the last centre


def interpolated(x, strides):
    """As PyTorch does it, over whole strides, of which a clip is the beginning."""
    size = [length * stride for length, stride in zip(x.shape, strides, strict=True)]
    over = torch.nn.functional.interpolate(torch.tensor(x)[None, None], size, mode="trilinear")[0, 0].numpy()
    return over[: CLIP[0], : CLIP[1], : CLIP[2]]


def test_attention_over_a_clip_lies_at_its_places():
    maps = attention_maps(backbone(), clip(), stage=2)
    np.testing.assert_allclose(maps.over_clip, interpolated(maps.received, (2, 8, 8)), atol=1e-5)


def expected_grad_cam(features, slopes, strides):
    heat = interpolated(np.maximum((features * slopes).sum(-1), 0), strides)
    return heat / heat.max()


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_grad_cam_of_the_last_stage_is_in_closed_form(activation):
    """With mean pooling the gradient of a logit is the row of the last layer: Grad-CAM is CAM."""
    model = classifier(activation=activation)
    features = value(model, model.backbone.output, clip())
    kernel, bias = map(ops.convert_to_numpy, model.get_layer("head").variables)
    best = int(np.argmax(features.mean((0, 1, 2)) @ kernel + bias))
    for given, index in ((None, best), (1, 1), (2, 2)):
        heat = grad_cam(model, clip(), given)
        assert (heat.shape, heat.dtype) == (CLIP[:3], np.float32)
        np.testing.assert_allclose(heat, expected_grad_cam(features, kernel[:, index], (2, 8, 8)), atol=1e-4)


def test_grad_cam_of_an_earlier_stage_has_the_slopes_of_finite_differences():
    model = classifier(depths=(1, 1))
    features = value(model, model.backbone.get_layer("stage1").output, clip())

    def logit(features):
        x = features
        for name in ("merging1", "stage2", "norm"):
            x = model.backbone.get_layer(name)(x)
        return ops.convert_to_numpy(model.get_layer("head")(ops.mean(x, axis=(1, 2, 3))))[:, 3]

    steps = 0.02 * np.eye(8, dtype="float32")[:, None, None, None]
    slopes = (logit(features + steps) - logit(features - steps)) / 0.04
    np.testing.assert_allclose(
        grad_cam(model, clip(), 3, stage=1), expected_grad_cam(features, slopes, (2, 4, 4)), atol=0.01
    )


@pytest.mark.one_backend
def test_grad_cam_is_where_the_evidence_is():
    """Random features, and a last layer fitted to tell clips with a patch of a colour from those without."""
    rng = np.random.default_rng(0)

    def drawn(count):
        clips = rng.normal(size=(count, 4, 64, 64, 3)).astype("float32")
        marked = np.zeros(clips.shape[:-1], bool)
        for index in range(0, count, 2):
            top, left = rng.integers(0, 48, 2)
            marked[index, :, top : top + 16, left : left + 16] = True
        clips[marked] = [2, -2, 2]
        return clips, marked

    model = VideoSwinClassifier(VideoSwinBackbone((None, None, None, 3), 8, (1, 1), (1, 2), WINDOW), 2)
    for variable in model.trainable_variables:
        if "kernel" in variable.path:
            variable.assign(0.1 * rng.normal(size=variable.shape))  # the same on every backend
    clips, marked = drawn(64)
    features = ops.convert_to_numpy(ops.mean(model.backbone(clips), axis=(1, 2, 3)))
    wanted = np.where(marked.any((1, 2, 3))[:, None], [-1, 1], [1, -1])
    fitted = np.linalg.lstsq(np.c_[features, np.ones(64)], wanted, rcond=None)[0]
    model.get_layer("head").set_weights([fitted[:-1], fitted[-1]])
    clips, marked = drawn(8)
    for one, is_marked in zip(clips[::2], marked[::2], strict=True):
        for stage in (1, 2):
            heat = grad_cam(model, one, 1, stage)
            assert heat[is_marked].sum() / heat.sum() > 2 * is_marked.mean()


@pytest.mark.one_backend
def test_the_model_that_ships_looks_at_the_shape():
    model = from_checkpoint("pico_moving_shapes", include_rescaling=True)
    growing = MOTIONS.index("growing")
    for seed in (0, 1, 2):
        background = np.median(moving_shape(0, seed, frames=99), axis=0)  # a shape that crosses it is not there long
        shown = moving_shape(growing, seed)
        is_shape = (abs(shown - background) > 20).any(-1)
        assert 0.02 < is_shape.mean() < 0.3
        for heat in (grad_cam(model, shown, stage=3), attention_maps(model, shown, stage=3, block=1).over_clip):
            assert heat[is_shape].sum() / heat.sum() > 1.25 * is_shape.mean()


def test_nothing_speaks_for_the_class():
    model = classifier()
    model.get_layer("head").kernel.assign(np.zeros((16, 5)))
    assert not grad_cam(model, clip()).any()


def test_models_with_a_memory_and_with_rescaling():
    model = classifier()
    recurrent = RecurrentVideoSwin(model, stages=(2,), num_tokens=2)
    np.testing.assert_array_equal(grad_cam(recurrent, clip()), grad_cam(model, clip()))
    np.testing.assert_array_equal(attention_maps(recurrent, clip()).weights, attention_maps(model, clip()).weights)
    rescaling = VideoSwinClassifier(backbone(include_rescaling=True), 5)
    rescaling.set_weights(model.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, CLIP, dtype="uint8")
    normal = (pixels - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    np.testing.assert_allclose(grad_cam(rescaling, pixels), grad_cam(model, normal.astype("float32")), atol=1e-4)


@pytest.mark.parametrize("explain", [attention_maps, grad_cam])
@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({"stage": 0}, CLIP, "`stage` must be from 1 to 2, or from -1 for the last to -2. Received: 0"),
        ({"stage": 3}, CLIP, "Received: 3"),
        ({}, (1, *CLIP), r"one clip .*\(None, None, None, 3\). Received: \(1, 7, 18, 40, 3\)"),
        ({}, (7, 18, 40, 4), r"Received: \(7, 18, 40, 4\)"),
        ({}, (0, 18, 40, 3), r"Received: \(0, 18, 40, 3\)"),
    ],
)
def test_says_what_is_wrong(explain, arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        explain(classifier(), np.zeros(shape, "float32"), **arguments)


def test_says_what_is_wrong_with_a_block_a_class_or_a_model():
    with pytest.raises(ValueError, match=r"`block` must be from 1 to 2, .*Received: -3"):
        attention_maps(backbone(), clip(), block=-3)
    with pytest.raises(ValueError, match=r"`class_index` must be from 0 to 4. Received: -1"):
        grad_cam(classifier(), clip(), class_index=-1)
    with pytest.raises(TypeError, match="a VideoSwinBackbone has none"):
        grad_cam(backbone(), clip())
    with pytest.raises(TypeError, match="Received: Sequential"):
        attention_maps(keras.Sequential(), clip())


def test_overlay_and_picture(tmp_path):
    frames = moving_shape(0, seed=0, frames=10, size=16)
    heat = np.zeros((10, 16, 16))
    heat[9, 3, 5], heat[9, 3, 6] = 2.0, 1.0
    drawn = overlay(frames, heat)
    changed = np.argwhere((drawn != frames).any(-1)).tolist()
    assert changed == [[9, 3, 5], [9, 3, 6]]
    np.testing.assert_allclose(drawn[9, 3, 5], 0.2 * frames[9, 3, 5] + 0.8 * np.array([255, 255, 0]), atol=0.5)
    np.testing.assert_allclose(
        drawn[9, 3, 6], (1 - 0.8 * 0.5**0.5) * frames[9, 3, 6] + 0.8 * 0.5**0.5 * np.array([255, 127.5, 0]), atol=0.5
    )

    import matplotlib.image

    write_png(tmp_path / "map.png", frames, heat, count=4)
    picture = matplotlib.image.imread(tmp_path / "map.png")[..., :3] * 255
    shown = [0, 3, 6, 9]
    np.testing.assert_allclose(picture, np.vstack([np.hstack(frames[shown]), np.hstack(drawn[shown])]), atol=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]


@pytest.mark.parametrize(
    ("frames", "heat", "message"),
    [
        (np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4)), "clip of uint8 .* Received: float64"),
        (np.zeros((2, 4, 4, 3), "uint8"), np.zeros((1, 4, 4)), r"of the clip: \(2, 4, 4\). Received: \(1, 4, 4\)"),
        (np.zeros((2, 4, 4, 3), "uint8"), np.full((2, 4, 4), np.nan), "finite and not negative"),
        (np.zeros((2, 4, 4, 3), "uint8"), np.full((2, 4, 4), -1), "finite and not negative"),
    ],
)
def test_what_cannot_be_drawn(frames, heat, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_png(tmp_path / "map.png", frames, heat)
    assert not any(tmp_path.iterdir())


@pytest.mark.one_backend
def test_which_forward_hooks_fire_on_pytorch():
    """Those of layers, stages and blocks; not of the Dense layers within, nor of attention without padding."""
    assert keras.backend.backend() == "torch"
    model = classifier()
    fired, held = set(), {}
    for layer in model._flatten_layers():
        layer.register_forward_hook(lambda layer, inputs, output: fired.add(layer.name))
    norm = model.backbone.get_layer("norm")
    norm.register_forward_hook(lambda layer, inputs, output: held.update(features=output))
    norm.register_full_backward_hook(lambda layer, into, out: held.update(slopes=out[0]))
    even = clip(8, 32, 64, 3)
    model(even[None])[0, 3].backward()
    within = {"block1", "block2", "attention_norm", "mlp_norm"}
    outside = {
        "patch_embedding",
        "stage1",
        "merging1",
        "stage2",
        "norm",
        "avg_pooling",
        "dropout",
        "head",
        "predictions",
    }
    assert fired == within | outside | {model.name, model.backbone.name}

    slopes = held["slopes"].mean((1, 2, 3), keepdim=True)
    heat = torch.relu((held["features"] * slopes).sum(-1))[None].detach()
    heat = torch.nn.functional.interpolate(heat, even.shape[:3], mode="trilinear")[0, 0].numpy()
    np.testing.assert_allclose(grad_cam(model, even, 3), heat / heat.max(), atol=1e-4)

    model(clip()[None])
    assert "attention" in fired
    assert not fired & {"qkv", "projection", "mlp_expansion", "mlp_projection", "reduction"}

"""The optimiser takes the steps of the formula, and of Keras's own."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops
from keras.optimizers.schedules import CosineDecay

from videoswin_keras.training.optimizers import AdamW

SHAPES = {"kernel": (5, 7), "bias": (7,)}


def gradients(steps):
    draw = np.random.default_rng(0).normal
    return [[draw(size=shape).astype("float32") for shape in SHAPES.values()] for _ in range(steps)]


def variables():
    draw = np.random.default_rng(1).normal
    return [keras.Variable(draw(size=shape), dtype="float32", name=name) for name, shape in SHAPES.items()]


def trained(optimizer, steps):
    weights = variables()
    for step in steps:
        optimizer.apply([ops.convert_to_tensor(gradient) for gradient in step], weights)
    return [ops.convert_to_numpy(weight) for weight in weights]


@pytest.mark.parametrize("amsgrad", [False, True])
def test_takes_the_steps_of_the_formula(amsgrad):
    """In float64, with a velocity that falls, so that AMSGrad differs, and an epsilon that matters."""
    rate, decay, epsilon, betas = 0.1, 0.5, 1e-2, (0.8, 0.9)
    steps = [[0.3**step * gradient for gradient in one] for step, one in enumerate(gradients(4))]
    optimizer = AdamW(rate, decay, *betas, epsilon=epsilon, amsgrad=amsgrad)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    found = trained(optimizer, steps)
    for place, name in enumerate(SHAPES):
        weight = variables()[place].numpy().astype("float64")
        momentum = velocity = greatest = 0.0
        for number, step in enumerate(steps, 1):
            weight = weight * (1 - rate * decay * (name == "kernel"))
            momentum = betas[0] * momentum + (1 - betas[0]) * step[place]
            velocity = betas[1] * velocity + (1 - betas[1]) * step[place].astype("float64") ** 2
            greatest = np.maximum(greatest, velocity) if amsgrad else velocity
            corrected = rate * np.sqrt(1 - betas[1] ** number) / (1 - betas[0] ** number)
            weight = weight - corrected * momentum / (np.sqrt(greatest) + epsilon)
        np.testing.assert_allclose(found[place], weight, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clipnorm": 0.5},
        {"gradient_accumulation_steps": 2},
        {"use_ema": True, "ema_overwrite_frequency": 3},
        {"learning_rate": CosineDecay(1e-2, 5)},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_is_keras_own(options):
    expected = trained(keras.optimizers.AdamW(**options), gradients(6))
    for one, other in zip(trained(AdamW(**options), gradients(6)), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("way", "options"),
    [
        ("scaled", {"use_ema": True}),
        ("graph", {"gradient_accumulation_steps": 2}),
        ("graph", {"learning_rate": CosineDecay(1e-3, 5)}),
        *([("compiled", {}), ("mirrored", {})] if keras.backend.backend() == "tensorflow" else []),
    ],
)
def test_is_keras_own_in_training(way, options):
    """Also with losses that are scaled; on TensorFlow by XLA and under a strategy. Norms are not decayed."""

    def weights(optimizer):
        with strategy(way):
            keras.utils.set_random_seed(0)
            norm = keras.layers.LayerNormalization(name="norm")
            norm.build((None, 4))
            model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(2)])
            optimizer = optimizer(**{"learning_rate": 1e-3, "weight_decay": 0.5, **options})
            optimizer.exclude_from_weight_decay(var_list=norm.trainable_variables)
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if way == "scaled" else optimizer
            model.compile(optimizer, "mse", jit_compile=way == "compiled")
        x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
        model.fit(x, x[:, :2], batch_size=2, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    for one, other in zip(weights(AdamW), weights(keras.optimizers.AdamW), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def strategy(way):
    if way != "mirrored":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0"]).scope()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fused_kernels_do_it(dtype, monkeypatch):
    """PyTorch's for all weights, TensorFlow's where all are float32."""
    calls = []
    monkeypatch.setattr(keras.optimizers.Adam, "update_step", lambda *arguments: calls.append(arguments))
    AdamW().apply([ops.ones((3,), dtype)], [keras.Variable(np.ones(3), dtype=dtype)])
    backend = keras.backend.backend()
    assert len(calls) == (backend == "jax" or (backend == "tensorflow" and dtype == "bfloat16"))


def test_a_subclass_takes_its_own_steps():
    class Signed(AdamW):
        def update_step(self, gradient, variable, learning_rate):
            self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * ops.sign(gradient))

    for value, step in zip(trained(Signed(0.1, weight_decay=0.0), gradients(1)), gradients(1)[0], strict=True):
        before = variables()[list(SHAPES).index("kernel" if value.ndim == 2 else "bias")].numpy()
        np.testing.assert_allclose(value, before - 0.1 * np.sign(step), rtol=0, atol=1e-6)


@pytest.mark.parametrize("which", ["weight", "gradient"])
def test_any_strides(which):
    weight, gradient = np.random.default_rng(0).normal(size=(2, 5, 7)).astype("float32")

    def updated(turned=None):
        tensors = {
            name: ops.transpose(ops.convert_to_tensor(value.T.copy()))
            if name == turned
            else ops.convert_to_tensor(value)
            for name, value in (("weight", weight), ("gradient", gradient))
        }
        variable = keras.Variable(tensors["weight"])
        AdamW().apply([tensors["gradient"]], [variable])
        return ops.convert_to_numpy(variable)

    np.testing.assert_array_equal(updated(which), updated())


def test_a_reloaded_model_goes_on_as_if_nothing_had_happened(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(AdamW(0.1, weight_decay=0.05), "mse")
    x, y = np.ones((3, 4)), np.zeros((3, 2))
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    assert type(restored.optimizer) is AdamW
    for one in (model, restored):
        one.train_on_batch(x, y)
    for weight, other in zip(model.get_weights(), restored.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)

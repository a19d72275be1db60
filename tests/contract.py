"""What every public layer and model must satisfy."""

import json

import keras
import numpy as np
from gradients import outputs_and_gradients, set_seeds
from keras import ops

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16", "bfloat16")


def check_layer(make, input_shape: tuple[int, ...], tmp_path) -> None:
    """Holds a layer to the contract.

    Args:
        make: Returns a new layer; takes `dtype`.
        input_shape: Of one input, the batch included.
    """
    inputs = np.random.default_rng(0).normal(size=input_shape).astype("float32")
    check_config(make(dtype=None))
    for policy in POLICIES:
        layer = make(dtype=policy)
        symbolic = keras.Input((*(None for _ in input_shape[1:-1]), input_shape[-1]))
        model = keras.Model(symbolic, layer(symbolic))
        check_policy(layer, policy)
        outputs = model(inputs)
        assert keras.backend.standardize_dtype(outputs.dtype) == keras.dtype_policies.get(policy).compute_dtype
        assert tuple(outputs.shape) == tuple(layer.compute_output_shape(input_shape))
        assert np.isfinite(compute(model, inputs)).all()
        check_saving(model, inputs, tmp_path)
    layer = make(dtype="float32")
    symbolic = keras.Input((*(None for _ in input_shape[1:-1]), input_shape[-1]))
    check_gradients(keras.Model(symbolic, layer(symbolic)), inputs)


def compute(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """Inference without `predict`, whose compilation takes longer than all a contract checks."""
    return ops.convert_to_numpy(ops.cast(model(inputs, training=False), "float32"))


def check_config(layer: keras.layers.Layer) -> None:
    """`get_config` is JSON, and what it builds has the same configuration again."""
    config = layer.get_config()
    restored = type(layer).from_config(json.loads(json.dumps(config)))
    assert json.dumps(restored.get_config()) == json.dumps(config)


def check_policy(layer: keras.layers.Layer, policy: str) -> None:
    """Every layer within has the policy of the whole."""
    for inner in layer._flatten_layers():
        if not isinstance(inner, keras.layers.InputLayer) and inner.name != "predictions":
            assert inner.dtype_policy.name == policy, inner.path


def check_saving(model: keras.Model, inputs: np.ndarray, tmp_path) -> None:
    """`.keras` and `.weights.h5` give back the same outputs, and every dtype policy."""
    outputs = compute(model, inputs)
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(compute(restored, inputs), outputs)
    policies = [layer.dtype_policy.name for layer in model._flatten_layers()]
    assert [layer.dtype_policy.name for layer in restored._flatten_layers()] == policies
    model.save_weights(tmp_path / "model.weights.h5")
    for variable in restored.trainable_variables:
        variable.assign(np.zeros(variable.shape, "float32"))
    restored.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(compute(restored, inputs), outputs)


def check_gradients(model: keras.Model, inputs: np.ndarray) -> None:
    """Every weight gets a gradient that is finite and not zero; stochastic depth must not drop a whole batch."""
    set_seeds(model)
    _, gradients = outputs_and_gradients(model, inputs)
    assert len(gradients) == len(model.trainable_variables)
    for path, gradient in gradients.items():
        assert gradient is not None, f"{path} gets no gradient"
        assert np.isfinite(gradient).all(), path
        assert np.any(gradient != 0), f"the gradient of {path} is zero"

"""The numbers of the official PyTorch code, stage by stage, on whichever backend runs the tests."""

import keras
import numpy as np
import pytest
import reference

from videoswin_keras import kernels
from videoswin_keras.checkpoints.formats import recognise
from videoswin_keras.models.conversion import build

TOLERANCE = 1e-5  # of values with unit spread; float32 rounding of the official code itself is about 1e-6

_models: dict[str, keras.Model] = {}


def model_of(case: reference.Case) -> keras.Model:
    """Builds the model of a case once for all its clips: it takes any size."""
    if case.manifest not in _models:
        _models.clear()
        _models[case.manifest] = build(recognise(reference.official_state(case.manifest)))
    return _models[case.manifest]


def assert_case(case: reference.Case) -> None:
    model = model_of(case)
    backbone = model.backbone
    stages = {f"stage{i}": backbone.get_layer(f"merging{i}").output for i in (1, 2, 3)}
    logits = backbone.output
    for layer in model.layers[2:]:  # after the input and the backbone: what the classifier does
        logits = layer(logits)
    probe = keras.Model(
        backbone.input,
        {
            "logits": logits,
            "patch_embedding": backbone.get_layer("patch_embedding").output,
            **stages,
            "stage4": backbone.pyramid_outputs["stage4"],
            "features": backbone.output,
        },
    )
    clip, expected = case.clip(), case.expected()
    outputs = {name: keras.ops.convert_to_numpy(value) for name, value in probe.predict(clip, verbose=0).items()}

    def mean(values: np.ndarray) -> np.ndarray:
        return values.mean(axis=(1, 2, 3), dtype="float64")

    close = {"rtol": 1e-5, "atol": TOLERANCE}
    np.testing.assert_allclose(mean(outputs["patch_embedding"]), expected["patch_embedding_mean"], **close)
    for stage in ("stage1", "stage2", "stage3", "stage4"):
        np.testing.assert_allclose(mean(outputs[stage]), expected[f"{stage}_mean"], **close, err_msg=stage)
        deviation = outputs[stage].std(axis=(1, 2, 3), dtype="float64")
        np.testing.assert_allclose(deviation, expected[f"{stage}_std"], **close, err_msg=stage)
    assert outputs["features"].shape == tuple(expected["features_shape"])
    features = outputs["features"].reshape(-1)[expected["features_at"]]
    np.testing.assert_allclose(features, expected["features"], **close)
    np.testing.assert_allclose(mean(outputs["features"]), expected["pooled"], **close)
    np.testing.assert_allclose(outputs["logits"], expected["logits"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", reference.cases(["nano", "swin_tiny"]), ids=lambda case: case.name)
def test_official_outputs(case):
    assert_case(case)


@pytest.mark.parametrize("case", reference.cases(["nano"]), ids=lambda case: case.name)
def test_official_outputs_of_plain_kernels(case):
    with kernels.plain_only():
        assert_case(case)


@pytest.mark.large
@pytest.mark.parametrize(
    "case",
    reference.cases(["swin_small", "swin_base", "swin_large"]),
    ids=lambda case: case.name,
)
def test_official_outputs_of_large_models(case):
    assert_case(case)

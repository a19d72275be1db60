"""What decays: the optimiser's own decision, variable by variable."""

import keras
import pytest

from videoswin_keras import AdamW, VideoSwinT
from videoswin_keras.training.groups import without_decay

SMALL = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": (2, 3, 3)}


@pytest.mark.parametrize("optimizer", [AdamW, keras.optimizers.AdamW])
@pytest.mark.parametrize(
    ("recipe", "kinds"),
    [
        ("official", {"table"}),
        ("mmaction2", {"table", "norm"}),
        ("biases_too", {"table", "norm", "bias"}),
    ],
)
def test_what_does_not_decay(recipe, kinds, optimizer):
    """Of every kind of layer of a model with a memory, by what the variable is, told by its path."""
    model = VideoSwinT((None, None, None, 3), num_classes=3, memory={"num_tokens": 2, "stages": (2,)}, **SMALL)
    optimizer = optimizer(weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=without_decay(model, recipe))
    optimizer.build(model.trainable_variables)
    seen = set()
    for variable in model.trainable_variables:
        name = variable.path.rpartition("/")[2]
        kind = {"gamma": "norm", "beta": "norm", "bias": "bias", "relative_position_bias_table": "table"}.get(name)
        seen.add(kind)
        assert optimizer._use_weight_decay(variable) is (kind not in kinds), variable.path
    assert seen == {"norm", "bias", "table", None}


def test_an_unknown_recipe():
    with pytest.raises(ValueError, match="official, mmaction2, biases_too"):
        without_decay(keras.Sequential(), "mine")

"""torchvision's models, with random weights and clips of random sizes, as a second independent reference."""

import random

import keras
import numpy as np
import peers
import pytest
import reference
import torch

from videoswin_keras import from_checkpoint
from videoswin_keras.checkpoints.adaptation import inflate
from videoswin_keras.checkpoints.formats import recognise
from videoswin_keras.models.conversion import build

SEED = random.SystemRandom().randrange(2**32)


def numpy_state(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", ["swin3d_t", "swin3d_s", "swin3d_b"])
def test_random_weights_and_sizes(name):
    """The seed is new in each run and printed when the test fails."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    theirs = peers.randomise(getattr(peers, name)(num_classes=7), SEED)
    ours = build(recognise(numpy_state(theirs)))
    for _ in range(2):
        shape = (
            int(rng.integers(1, 3)),
            int(rng.integers(1, 20)),
            *(int(side) for side in rng.integers(32, 130, 2)),
            3,
        )
        print(f"{name} {shape}")
        clip = rng.normal(size=shape).astype("float32")
        with torch.no_grad():
            expected = theirs(torch.from_numpy(clip.transpose(0, 4, 1, 2, 3))).numpy()
        np.testing.assert_allclose(ours.predict(clip, verbose=0), expected, atol=1e-5 * max(1, expected.std()))


def as_microsoft(state):
    """The official 2D layout, of torchvision's 2D names."""
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] != "features":
            renamed[key] = value
        elif parts[1] == "0":
            renamed[".".join(["patch_embed", {"0": "proj", "2": "norm"}[parts[2]], parts[3]])] = value
        elif int(parts[1]) % 2:
            tail = ".".join(parts[3:]).replace("mlp.0", "mlp.fc1").replace("mlp.3", "mlp.fc2")
            renamed[f"layers.{int(parts[1]) // 2}.blocks.{parts[2]}.{tail}"] = value
        else:
            renamed[f"layers.{int(parts[1]) // 2 - 1}.downsample.{'.'.join(parts[2:])}"] = value
    masks = {f"layers.{i}.blocks.{j}.attn_mask": np.zeros((2, 49, 49), "float32") for i, j in ((0, 1), (2, 3))}
    return {**renamed, **masks}


def as_timm(state):
    renamed = {}
    for key, value in as_microsoft(state).items():
        if "relative_position_index" in key or "attn_mask" in key:
            continue
        parts = key.split(".")
        if "downsample" in key:
            parts[1] = str(int(parts[1]) + 1)
        renamed[".".join(parts).replace("head.", "head.fc.")] = value
    return renamed


IMAGE_LAYOUTS = {"torchvision": dict, "microsoft": as_microsoft, "timm": as_timm}


@pytest.mark.parametrize("layout", IMAGE_LAYOUTS)
def test_an_inflated_image_swin_sees_a_still_clip_as_the_image(layout):
    """On a clip of equal frames the inflated model's pooled features are the image model's.

    At 224 pixels, where no window is clipped in height and width: image models pad there, video models clip.
    """
    theirs = peers.randomise(peers.swin_t(), 0)
    checkpoint = recognise(IMAGE_LAYOUTS[layout](numpy_state(theirs)))
    assert checkpoint.format == f"image_swin_{layout}"
    assert checkpoint.architecture.window_size == (8, 7, 7)
    ours = keras.Sequential([build(checkpoint), keras.layers.GlobalAveragePooling3D()])
    image = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype("float32")
    with torch.no_grad():
        features = theirs.norm(theirs.features(torch.from_numpy(image.transpose(0, 3, 1, 2))))
    expected = features.mean(dim=(1, 2)).numpy()
    for frames in (2, 16):
        clip = np.repeat(image[:, None], frames, axis=1)
        np.testing.assert_allclose(ours.predict(clip, verbose=0), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("recorded", "rename"),
    [
        ("microsoft_swin_tiny_patch4_window7_224", as_microsoft),
        ("timm_1.0.31_swin_tiny_patch4_window7_224", as_timm),
        ("timm_remap_of_microsoft_swin_tiny", as_timm),
        ("torchvision_2d_swin_t", dict),
    ],
)
def test_image_layouts_are_those_of_the_real_files(recorded, rename):
    manifest = reference.other_manifest(recorded)
    manifest = manifest.get("model", manifest)
    shapes = {key: list(value.shape) for key, value in rename(numpy_state(peers.swin_t())).items()}
    optional = {key for key in {*shapes, *manifest} if key.endswith(("attn_mask", "position_index"))}
    assert {key: shape for key, shape in shapes.items() if key not in optional} == {
        key: value[0] for key, value in manifest.items() if key not in optional
    }
    zeros = {key: np.broadcast_to(np.float32(0), value[0]) for key, value in manifest.items()}
    architecture = recognise(zeros).architecture
    assert (architecture.embed_dim, architecture.depths) == (96, (2, 2, 6, 2))


@pytest.mark.parametrize("window", [(8, 7, 7), (4, 12, 9)])
def test_inflated_tables(window):
    """Bicubic resize of each image table, as PyTorch does it, repeated over the offsets in time."""
    table = np.random.default_rng(0).normal(size=(169, 4)).astype("float32")
    key = "backbone.layers.0.blocks.0.attn.relative_position_bias_table"
    inflated = inflate({key: table}, window)[key].reshape(2 * window[0] - 1, -1, 4)
    grid = torch.from_numpy(table.reshape(1, 13, 13, 4).transpose(0, 3, 1, 2))
    sides = (2 * window[1] - 1, 2 * window[2] - 1)
    expected = torch.nn.functional.interpolate(grid, size=sides, mode="bicubic", align_corners=False)[0]
    expected = expected.numpy().reshape(4, -1).T
    for offset in inflated:
        np.testing.assert_allclose(offset, expected, atol=1e-5)


def test_image_swin_of_twelve_by_twelve_windows(tmp_path):
    """A 384-pixel image Swin converts to (8, 7, 7), or to a window that is asked for."""
    state = as_timm(numpy_state(peers.swin_t()))
    large = {
        key: np.zeros((529, value.shape[1]), "float32") if key.endswith("bias_table") else value
        for key, value in state.items()
    }
    path = tmp_path / "image.pth"
    torch.save({key: torch.from_numpy(np.array(value)) for key, value in large.items()}, path)
    backbone = from_checkpoint(path)
    assert backbone.arguments["window_size"] == (8, 7, 7)
    assert recognise(large, (16, 12, 12)).state[
        "backbone.layers.0.blocks.0.attn.relative_position_bias_table"
    ].shape == (31 * 23 * 23, 3)

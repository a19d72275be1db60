"""The moving shapes: what a clip shows, that single frames do not tell it, and that the shipped model sees it."""

import json
from importlib import resources

import keras
import numpy as np
import pytest

from videoswin_keras.data.synthetic import MOTIONS, moving_shape, moving_shapes
from videoswin_keras.models.backbone import VideoSwinBackbone
from videoswin_keras.models.classifier import VideoSwinClassifier
from videoswin_keras.nn.layers import IMAGENET_MEAN, IMAGENET_STD

# Used nowhere else: converters/train_pico.py trains with seeds below 900,001 and measures with that and the next.
TEST_SEED = 900_003


def package_file(*path: str):
    return resources.files("videoswin_keras").joinpath(*path)


# --- the clips


def test_labels_file_lists_the_motions():
    assert tuple(package_file("data", "labels", "moving_shapes.txt").read_text().splitlines()) == MOTIONS
    assert len(set(MOTIONS)) == 8


def test_shape_type_and_range():
    clip = moving_shape(0, seed=1)
    assert clip.shape == (16, 64, 64, 3)
    assert clip.dtype == np.uint8
    assert clip.max() - int(clip.min()) > 60  # a shape that can be seen
    assert moving_shape(6, seed=1, frames=48, size=(120, 160)).shape == (48, 120, 160, 3)
    assert moving_shape(3, seed=1, frames=1, size=(17, 16)).shape == (1, 17, 16, 3)


@pytest.mark.parametrize("motion", range(8))
def test_the_seed_decides_everything(motion):
    clip = moving_shape(motion, seed=5)
    np.testing.assert_array_equal(clip, moving_shape(motion, seed=5))
    assert (clip != moving_shape(motion, seed=6)).mean() > 0.5


@pytest.mark.parametrize("motion", [0, 2, 4, 6])
def test_every_second_motion_is_the_one_before_reversed(motion):
    for seed in range(3):
        np.testing.assert_array_equal(moving_shape(motion, seed)[::-1], moving_shape(motion + 1, seed))
        assert (moving_shape(motion, seed) != moving_shape(motion + 1, seed)).any()


def test_dataset_is_balanced_deterministic_and_different_per_seed():
    clips, labels = moving_shapes(44, seed=2, frames=3, size=16)
    assert clips.shape == (44, 3, 16, 16, 3)
    assert clips.dtype == np.uint8
    assert np.bincount(labels, minlength=8).tolist() == [6, 6, 6, 6, 5, 5, 5, 5]
    again, labels_again = moving_shapes(44, seed=2, frames=3, size=16)
    np.testing.assert_array_equal(clips, again)
    np.testing.assert_array_equal(labels, labels_again)
    others, other_labels = moving_shapes(44, seed=3, frames=3, size=16)
    assert (labels != other_labels).any()
    assert all((clip != other).any() for clip in clips for other in others)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"motion": 8}, "from 0 to 7.*Received: 8"),
        ({"motion": -1}, "from 0 to 7.*Received: -1"),
        ({"frames": 0}, "at least 1. Received: 0"),
        ({"size": 8}, "at least 16. Received: 8"),
        ({"size": (64, 64, 3)}, r"\(height, width\)"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        moving_shape(**{"motion": 0, "seed": 0, **arguments})


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match=r"at least 1\. Received: 0"):
        moving_shapes(0, seed=0)


# --- what a clip shows, measured on its pixels


def outline(clip):
    """Returns where the shape is, (frames, height, width): where colours are far from the usual ones."""
    distance = np.linalg.norm(clip - np.median(clip, axis=(0, 1, 2)), axis=-1)
    return distance > np.quantile(distance, 0.99) / 2


def steps(clip):
    """Returns the medians over time of what changes: (rightwards, downwards) pixels, clockwise radians, growth."""
    masks = outline(clip)
    frames, height, width = masks.shape
    columns, rows = np.exp(2j * np.pi * np.arange(width) / width), np.exp(2j * np.pi * np.arange(height) / height)
    x = np.angle((masks * columns).sum((1, 2))) / (2 * np.pi) * width
    y = np.angle((masks * rows[:, None]).sum((1, 2))) / (2 * np.pi) * height
    moments = np.zeros((3, frames), complex)
    for frame in range(frames):
        right = (np.arange(width) - x[frame] + width / 2) % width - width / 2
        down = (np.arange(height) - y[frame] + height / 2) % height - height / 2
        points = (right + 1j * down[:, None])[masks[frame]]
        size = np.sqrt(np.mean(np.abs(points) ** 2))
        moments[:, frame] = [np.mean((points / size) ** order) for order in (2, 3, 4)]
    # A shape of n-fold symmetry shows its orientation in the n-th moment only.
    order = np.abs(moments).mean(1).argmax()
    turns = np.angle(moments[order, 1:] / moments[order, :-1]) / (order + 2)
    across = (np.diff(x) + width / 2) % width - width / 2
    down = (np.diff(y) + height / 2) % height - height / 2
    return np.median(across), np.median(down), np.median(turns), np.median(np.diff(np.log(masks.sum((1, 2)))))


@pytest.mark.parametrize("motion", range(8))
def test_motions_are_what_their_names_say(motion):
    expected = {
        "moving left": (0, -1),
        "moving right": (0, 1),
        "moving up": (1, -1),
        "moving down": (1, 1),
        "turning clockwise": (2, 1),
        "turning anticlockwise": (2, -1),
        "growing": (3, 1),
        "shrinking": (3, -1),
    }[MOTIONS[motion]]
    right = 0
    for seed in range(20):
        # In units of the slowest motions that there are: 0.02 sides, 5 degrees, and 3.5 % of the way from the
        # smallest to the largest, which is 2.25 times as long.
        moved = np.array(steps(moving_shape(motion, seed, frames=12, size=96)))
        moved /= [0.02 * 96, 0.02 * 96, np.radians(5), 2 * 0.035 * np.log(2.25)]
        measured = np.abs(moved).argmax()
        right += (measured, np.sign(moved[measured])) == expected
    assert right >= 18


# --- single frames


def single_frames(count, seed):
    """Returns one random frame of each of `count` clips, float32 in 0–1, and the labels."""
    clips, labels = moving_shapes(count, seed, size=32)
    chosen = np.random.default_rng(seed).integers(clips.shape[1], size=count)
    return clips[np.arange(count), chosen].astype("float32") / 255, labels


def test_single_frames_are_alike_in_all_classes():
    frames, labels = single_frames(1600, TEST_SEED)
    grey = frames.mean(-1)
    edges = np.abs(np.diff(grey, axis=1)).mean((1, 2)), np.abs(np.diff(grey, axis=2)).mean((1, 2))
    area = np.array([outline(np.uint8(frame[None] * 255)).mean() for frame in frames])
    for statistic in (grey.mean((1, 2)), grey.std((1, 2)), *edges, area):
        groups = [statistic[labels == label] for label in range(8)]
        # F of an analysis of variance; with 7 and 1592 degrees of freedom it exceeds 3.5 once in a thousand times.
        between = sum(len(group) * (group.mean() - statistic.mean()) ** 2 for group in groups) / 7
        within = sum(((group - group.mean()) ** 2).sum() for group in groups) / (len(statistic) - 8)
        assert between / within < 3.5


def test_a_classifier_of_single_frames_stays_at_chance():
    frames, labels = single_frames(1600, TEST_SEED)
    # Gradients without place, by orientation and strength, and the coarse picture: ridge regression on both.
    grey = frames.mean(-1)
    spectrum = np.abs(np.fft.rfft2(grey))[:, :8, :8].reshape(len(frames), -1)
    coarse = frames.reshape(-1, 8, 4, 8, 4, 3).mean((2, 4, 5)).reshape(len(frames), -1)
    features = np.concatenate([spectrum, coarse], axis=1)
    features = (features - features.mean(0)) / features.std(0)
    train, test = slice(0, 1000), slice(1000, None)
    x, y = features[train], np.eye(8)[labels[train]] - 1 / 8
    weights = np.linalg.solve(x.T @ x + 100 * np.eye(x.shape[1]), x.T @ y)
    accuracy = np.mean((features[test] @ weights).argmax(1) == labels[test])
    # Chance is 12.5 %, with a standard deviation of 1.35 % on 600 frames: four of them above.
    assert accuracy < 0.18


# --- the shipped model


def pico(include_rescaling):
    backbone = VideoSwinBackbone(
        (None, None, None, 3),
        embed_dim=16,
        depths=(2, 2, 2, 1),
        num_heads=(1, 2, 4, 8),
        window_size=(4, 4, 4),
        include_rescaling=include_rescaling,
    )
    model = VideoSwinClassifier(backbone, num_classes=8)
    with resources.as_file(package_file("checkpoints", "weights", "pico_moving_shapes.weights.h5")) as path:
        model.load_weights(path)
    return model


@pytest.fixture(scope="module")
def clips_and_labels():
    return moving_shapes(208, TEST_SEED)


def normalized(clips):
    return (clips - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)


def test_shipped_weights_name_the_motion_and_cannot_do_so_from_one_frame(clips_and_labels):
    clips, labels = clips_and_labels
    model = pico(include_rescaling=False)
    predictions = model.predict(normalized(clips), batch_size=16, verbose=0).argmax(-1)
    assert np.mean(predictions == labels) >= 0.95

    # Chance is 12.5 %, with a standard deviation of 3.2 % on half of the clips.
    clips, labels = clips[::2], labels[::2]
    chosen = np.random.default_rng(TEST_SEED).integers(16, size=len(clips))
    frozen = np.repeat(clips[np.arange(len(clips)), chosen][:, None], 16, axis=1)
    predictions = model.predict(normalized(frozen), batch_size=16, verbose=0).argmax(-1)
    assert np.mean(predictions == labels) < 0.25


def test_shipped_weights_serve_pixels_as_well(clips_and_labels):
    clips = clips_and_labels[0][:8]
    expected = keras.ops.convert_to_numpy(pico(include_rescaling=False)(normalized(clips)))
    received = keras.ops.convert_to_numpy(pico(include_rescaling=True)(clips))
    np.testing.assert_allclose(received, expected, atol=1e-3)


def test_shipped_weights_are_small_and_their_report_is_about_them():
    folder = package_file("checkpoints", "weights")
    assert len(folder.joinpath("pico_moving_shapes.weights.h5").read_bytes()) <= 2_000_000
    report = json.loads(folder.joinpath("pico_moving_shapes.json").read_text())
    assert report["parameters"] == pico(include_rescaling=False).count_params()
    assert min(report["held_out_accuracy"], report["mp4_round_trip_accuracy"]) >= 0.95
    assert max(report["single_frame_accuracy"], report["trained_on_single_frames_accuracy"]) < 0.25

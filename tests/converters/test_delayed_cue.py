"""The task that shows the memory: its cue is seen once, and nothing after it gives it away."""

import numpy as np
import pytest
import train_delayed_cue as task


def test_only_the_cue_tells_the_label():
    clips, labels, cue = task.sequences(400, 8, np.random.default_rng(0))
    assert clips.shape == (400, 8, task.FRAMES, task.SIZE, task.SIZE, 3)
    assert clips.dtype == np.uint8
    red = (clips[..., 0].astype(int) - clips[..., 1] > 100).any(axis=(2, 3, 4))  # (sequences, clips)
    np.testing.assert_array_equal(red, np.arange(8) == cue[:, None])
    # The stripes of a clip, from its own pixels: how alike neighbours are, across and along each direction.
    dark = clips.max(-1) < 20
    alike = np.stack(
        [
            (dark & np.roll(dark, shift, axis=(3, 4))).sum(axis=(2, 3, 4))
            for shift in ((0, 1), (1, 0), (1, -1), (1, 1))  # along horizontal, vertical, rising, falling stripes
        ]
    ).argmax(0)
    np.testing.assert_array_equal(alike[np.arange(400), cue], labels)
    others = alike[np.arange(400), cue + 3]
    together = np.zeros((4, 4))
    np.add.at(together, (labels, others), 1)
    assert np.abs(together - 25).max() < 25  # independent: 25 ± 5 in each cell
    assert np.bincount(labels).min() > 70


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # of what writes, while the sequences are single clips
def test_training_and_measuring_run():
    model, _ = task.train(memory=True, steps=5, seed=0)
    assert set(task.accuracy_by_delay(model, (1, 4), 8, seed=1)) == {1, 4}

"""Sampling formulas, against numbers worked out by hand and against the publishers' own loops, written out again."""

import math
from fractions import Fraction

import numpy as np
import pytest

from videoswin_keras.video import sampling
from videoswin_keras.video.index import VideoIndex


def official_kinetics(num_frames, clip_frames, interval, num_clips):
    """`SampleFrames._get_test_clips` and what follows it, one frame at a time."""
    span = clip_frames * interval
    clips = []
    for clip in range(num_clips):
        start = 0
        if num_frames > span - 1:
            average = (num_frames - span + 1) / float(num_clips)
            start = int(clip * average + average / 2.0)
        clips.append([(start + step * interval) % num_frames for step in range(clip_frames)])
    return clips


def official_uniform(num_frames, clip_frames):
    """`SampleFrames.get_seq_frames` in test mode; Python rounds halves to even, as numpy does."""
    size = float(num_frames - 1) / clip_frames
    return [(round(size * part) + round(size * (part + 1))) // 2 for part in range(clip_frames)]


def test_kinetics_by_hand():
    # 300 frames, 4 clips: (300 − 64 + 1) / 4 = 59.25, starts ⌊29.625⌋, ⌊88.875⌋, ⌊148.125⌋, ⌊207.375⌋.
    clips = sampling.kinetics_clips(300, num_clips=4)
    assert clips.shape == (4, 32)
    assert clips[:, 0].tolist() == [29, 88, 148, 207]
    assert clips[:, -1].tolist() == [91, 150, 210, 269]
    # One clip: ⌊237 / 2⌋ = 118.
    assert sampling.kinetics_clips(300)[0].tolist() == list(range(118, 182, 2))


def test_kinetics_just_long_enough():
    # 64 frames are one clip, from 0; the last frame is never reached. With 65, (65 − 64 + 1) / 2 = 1.
    assert sampling.kinetics_clips(64, num_clips=4)[:, 0].tolist() == [0, 0, 0, 0]
    assert sampling.kinetics_clips(65)[0, :2].tolist() == [1, 3]


def test_kinetics_wraps_a_short_video():
    clips = sampling.kinetics_clips(10, clip_frames=8, interval=2, num_clips=2)
    assert clips.tolist() == [[0, 2, 4, 6, 8, 0, 2, 4]] * 2
    assert sampling.kinetics_clips(3, clip_frames=5, interval=2).tolist() == [[0, 2, 1, 0, 2]]


def test_uniform_by_hand():
    # 33 frames in 32 parts: parts of exactly 1, (i + i + 1) // 2 = i.
    assert sampling.uniform_clip(33)[0].tolist() == list(range(32))
    # 7 frames in 4 parts of 1.5: ends 0, 1.5 → 2, 3, 4.5 → 4 (to even), 6.
    assert sampling.uniform_clip(7, clip_frames=4).tolist() == [[1, 2, 3, 5]]
    # 3 frames in 4 parts of 0.5: ends 0, 0, 1, 2 (1.5 to even), 2.
    assert sampling.uniform_clip(3, clip_frames=4).tolist() == [[0, 0, 1, 2]]


def mmaction2_starts(num_frames, num_clips):
    """`_get_test_clips` of mmaction2 1.x, with 32 frames every 2."""
    max_offset = max(num_frames - ((32 - 1) * 2 + 1), 0)
    if num_clips == 1:
        return [max_offset // 2]
    offset_between = max_offset / float(num_clips - 1)
    return np.round(np.arange(num_clips) * offset_between).astype(int).tolist()


def test_mmaction2_at_every_length():
    assert sampling.mmaction2_clips(300, num_clips=4)[:, 0].tolist() == [0, 79, 158, 237]  # of the real code
    assert sampling.mmaction2_clips(64, num_clips=4)[:, 0].tolist() == [0, 0, 1, 1]
    for num_frames in range(1, 401):
        for num_clips in (1, 4):
            clips = sampling.mmaction2_clips(num_frames, num_clips=num_clips)
            starts = np.array(mmaction2_starts(num_frames, num_clips))
            assert clips.tolist() == ((starts[:, None] + np.arange(32) * 2) % num_frames).tolist()


def torchvision_resampled(num_frames, fps):
    """The frames of `VideoClips._resample_video_idx` at 15 per second."""
    step = fps / 15.0
    if step.is_integer():
        return list(range(num_frames))[:: int(step)]
    return [math.floor(index * step) for index in range(math.floor(num_frames * 15 / fps))]


@pytest.mark.parametrize("fps", [30, 45, 60, 120, 15, 25, 24])
def test_torchvision_resamples_every_length(fps):
    for num_frames in range(4, 401):
        rate = Fraction(fps)
        index = VideoIndex(
            np.arange(num_frames), 1 / rate, np.zeros(0, "int64"), rate, True, num_frames / fps, 8, 8, 0, True
        )
        slots = np.arange(index.num_slots(15))
        expected = torchvision_resampled(num_frames, fps)
        assert index.frames_at(slots, 15).tolist() == (expected or [0])


def test_torchvision_by_hand():
    # 150 slots, 12 clips: starts ⌊118 · i / 11⌋.
    clips = sampling.torchvision_clips(150, num_clips=12)
    assert clips[:, 0].tolist() == [0, 10, 21, 32, 42, 53, 64, 75, 85, 96, 107, 118]
    assert clips[-1].tolist() == list(range(118, 150))
    assert sampling.torchvision_clips(150)[0, 0] == 59
    assert sampling.torchvision_clips(3, clip_frames=5, num_clips=2).tolist() == [[0, 1, 2, 0, 1]] * 2


@pytest.mark.parametrize("clip_frames", [1, 5, 16, 32])
@pytest.mark.parametrize("num_clips", [1, 3, 4, 12])
def test_against_the_loops(clip_frames, num_clips):
    for num_frames in [*range(1, 140), 299, 300, 301, 1797]:
        for interval in (1, 2, 3):
            kinetics = sampling.kinetics_clips(num_frames, clip_frames, interval, num_clips)
            assert kinetics.tolist() == official_kinetics(num_frames, clip_frames, interval, num_clips)
        uniform = sampling.uniform_clip(num_frames, clip_frames)
        assert uniform.tolist() == [official_uniform(num_frames, clip_frames)]
        if num_clips > 1 and num_frames >= clip_frames:
            last = num_frames - clip_frames
            starts = [math.floor(last * clip / (num_clips - 1) + 1e-9) for clip in range(num_clips)]
            assert sampling.torchvision_clips(num_frames, clip_frames, num_clips)[:, 0].tolist() == starts


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_tiny_videos(num_frames):
    for clips, shape in (
        (sampling.kinetics_clips(num_frames, num_clips=4), (4, 32)),
        (sampling.mmaction2_clips(num_frames, num_clips=4), (4, 32)),
        (sampling.uniform_clip(num_frames), (1, 32)),
        (sampling.torchvision_clips(num_frames, num_clips=12), (12, 32)),
    ):
        assert clips.shape == shape
        assert np.issubdtype(clips.dtype, np.integer)
        assert set(clips.ravel().tolist()) <= set(range(num_frames))


def test_ten_hours():
    frames = 10 * 3600 * 60
    assert sampling.kinetics_clips(frames, num_clips=4).max() < frames
    assert sampling.uniform_clip(frames).max() < frames


@pytest.mark.parametrize("sample", [sampling.kinetics_clips, sampling.uniform_clip, sampling.torchvision_clips])
def test_no_frames(sample):
    with pytest.raises(ValueError, match=r"`num_frames` must be at least 1\. Received: 0\."):
        sample(0)
    with pytest.raises(ValueError, match="`clip_frames` must be at least 1"):
        sample(10, clip_frames=0)

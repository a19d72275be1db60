"""The stream against clips cut by hand, with and without a memory."""

import gc
import itertools

import numpy as np
import pytest
from keras import ops

from videoswin_keras import VideoSwinT, from_checkpoint
from videoswin_keras.data.synthetic import moving_shape
from videoswin_keras.streaming.smoothing import median, smooth
from videoswin_keras.streaming.stream import Feed, VideoStream
from videoswin_keras.streaming.timeline import Result

SMALL = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": (2, 3, 3), "include_rescaling": True}
SETTINGS = {"fps": 4, "clip_frames": 8, "stride": 3, "smooth": 3, "short_side": 32, "crop": 32}


@pytest.fixture(scope="module")
def plain():
    return VideoSwinT((None, None, None, 3), num_classes=3, **SMALL)


@pytest.fixture(scope="module")
def recurrent():
    model = VideoSwinT(
        (None, None, None, 3), num_classes=3, memory={"stages": (1, 2), "num_tokens": 3, "memory_length": 2}, **SMALL
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.3, weight.shape) for weight in model.get_weights()])
    return model


def recording(count, seed=0, fps=4.0, size=(32, 40)):
    pictures = np.random.default_rng(seed).integers(0, 256, (count, *size, 3), "uint8")
    return [(3.0 + index / fps, picture) for index, picture in enumerate(pictures)]


def softmax(x):
    x = np.exp(x - x.max())
    return x / x.sum()


def by_hand(model, frames):
    """Clips cut by their numbers, and one step after the other."""
    pictures = np.stack([picture[:, 4:36] for _, picture in frames])
    ends = [*range(8, len(frames) + 1, 3)] or [len(frames)]
    ends += [len(frames)] if ends[-1] < len(frames) else []
    state = model.initial_state(1) if hasattr(model, "step") else None
    results, start = [], 0
    for end in ends:
        clip = pictures[max(0, end - 8) : end]
        clip = np.concatenate([clip, np.repeat(clip[-1:], 8 - len(clip), axis=0)])[None].astype("float32")
        if state is None:
            logits = model(clip, training=False)
        else:
            logits, state = model.step(clip, state)
        p = softmax(ops.convert_to_numpy(logits)[0])
        results.append((start / 4, end / 4, p, median([*(row for _, _, row, _ in results[-2:]), p])))
        start = end
    return results


def assert_same(results, expected):
    assert len(results) == len(expected)
    for result, (start, end, probabilities, smoothed) in zip(results, expected, strict=True):
        assert (result.start, result.end) == (start, end)
        np.testing.assert_allclose(result.probabilities, probabilities, atol=1e-5)
        np.testing.assert_allclose(result.smoothed, smoothed, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 8, 9, 11, 30])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_against_clips_cut_by_hand(plain, recurrent, count, batch_size):
    frames = recording(count)
    for model in (plain, recurrent):
        results = list(VideoStream(model, **SETTINGS, batch_size=batch_size)(frames))
        assert_same(results, by_hand(model, frames))


def test_results_cover_the_recording(plain):
    results = list(VideoStream(plain, **SETTINGS)(recording(25)))
    assert results[0].start == 0
    assert results[-1].end == 25 / 4
    assert all(one.end == next_.start for one, next_ in itertools.pairwise(results))


def test_every_recording_begins_anew_bit_for_bit(recurrent):
    stream = VideoStream(recurrent, **SETTINGS)
    first = list(stream(recording(20, seed=1)))
    list(stream(recording(33, seed=2)))
    assert list(stream(recording(20, seed=1))) == first


def test_a_gap_is_reported_and_the_stream_goes_on(recurrent):
    """An outage of 5 seconds: 3 seconds are not shown by any frame; clips that hold one of them have no score."""
    before, after = recording(20, seed=1), recording(40, seed=2)
    last = before[-1][0]
    frames = before + [(last + 5.0 + index / 4, picture) for index, (_, picture) in enumerate(after)]
    results = list(VideoStream(recurrent, **SETTINGS)(frames))
    assert all(one.end == next_.start for one, next_ in itertools.pairwise(results))
    scored = [result.probabilities is not None for result in results]
    # Moments 28 to 38 (7.0 to 9.5 s) are missing: 2 s after the last frame at 4.75 s, until 9.75 s. They are one
    # result, to the end of the last clip of them; after it each clip that holds one of them is one.
    assert [(result.start, result.end) for result in results if not result.probabilities][:2] == [
        (6.5, 9.5),
        (9.5, 10.25),
    ]
    for result, is_scored in zip(results, scored, strict=True):
        moments = range(round(result.end * 4) - 8, round(result.end * 4))
        assert is_scored == (not any(27 < moment < 39 for moment in moments)), (result.start, result.end)
        assert (
            (result.label is None) == (result.smoothed_label is None) == (result.uncertainty is None) == (not is_scored)
        )
    assert scored[0]
    assert scored[-1]
    assert not all(scored)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_stream_goes_on_from_what_was_saved(plain, recurrent, batch_size, tmp_path):
    """Stopped after each batch, saved to a file and taken up by another stream: the same, bit for bit."""
    frames = recording(20, seed=1)
    frames += [(frames[-1][0] + 5.0 + index / 7, picture) for index, (_, picture) in enumerate(recording(50, seed=2))]
    frames = [(time, lambda picture=picture: picture) for time, picture in frames]  # pixels on demand
    for model in (plain, recurrent):
        stream, other = (VideoStream(model, **SETTINGS, batch_size=batch_size) for _ in range(2))
        state = stream.start()
        whole = list(stream.batches(frames, state))
        assert sum(map(len, whole)) > 8
        last = stream.finish(state)
        assert stream.finish(state) == last  # the state is as it was
        for stop in range(len(whole) + 1):
            state = stream.start()
            results = list(itertools.islice(stream.batches(frames, state), stop))
            with (tmp_path / "state.npz").open("wb") as file:
                np.savez(file, **state.to_arrays())
            with np.load(tmp_path / "state.npz", allow_pickle=False) as arrays:
                state = other.restore(dict(arrays))
            time = -np.inf if state.sampler.position is None else state.sampler.position
            results += list(other.batches([frame for frame in frames if frame[0] > time], state))
            assert [batch for batch in results if batch] == [batch for batch in whole if batch]
            assert other.finish(state) == last


def test_clips_are_left_out_when_the_model_is_late(recurrent):
    """The next result covers their time; the pictures are kept, so that its clip is whole."""
    frames, stream = recording(40), VideoStream(recurrent, **SETTINGS)
    late = iter([False, True, False, True, True] + [False] * 20)
    feed = Feed(frames, stream.start(), lambda: next(late))
    results = [result for _, batch in stream.together([feed]) for result in batch or []]
    assert [result.end * 4 for result in results[:4]] == [8, 14, 23, 26]
    assert all(one.end == next_.start for one, next_ in itertools.pairwise(results))
    pictures = np.stack([picture[:, 4:36] for _, picture in frames]).astype("float32")
    state = recurrent.initial_state(1)
    for result in results[:4]:
        end = round(result.end * 4)
        logits, state = recurrent.step(pictures[None, end - 8 : end], state)
        np.testing.assert_allclose(result.probabilities, softmax(ops.convert_to_numpy(logits)[0]), atol=1e-5)


def test_nothing_is_left_behind(recurrent):
    """Without Python's full collections, which may come after hours, as many objects are alive as before."""
    stream = VideoStream(recurrent, **SETTINGS, batch_size=2)
    list(stream(recording(60)))
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        list(stream(recording(200)))
        assert len(gc.get_objects()) - before < 2000  # 60 clips left a hundred thousand
    finally:
        gc.enable()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_model_that_gives_no_numbers(wrong):
    model = VideoSwinT((None, None, None, 3), num_classes=3, **SMALL)
    model.get_layer("head").set_weights([np.full((16, 3), wrong), np.zeros(3)])
    with pytest.raises(ValueError, match=r"gives nan for a clip that ends at 2\.0 s"):
        list(VideoStream(model, **SETTINGS)(recording(30)))


@pytest.mark.parametrize("name", ["position", "times", "shown", "is_known", "window", "memory0"])
def test_a_state_that_is_none(recurrent, name):
    stream = VideoStream(recurrent, **SETTINGS)
    state = stream.start()
    list(stream.batches(recording(20), state))
    arrays = state.to_arrays()
    with pytest.raises(ValueError, match="This is no state"):
        stream.restore({key: value for key, value in arrays.items() if key != name})
    if name != "shown":
        with pytest.raises(ValueError, match="This is no state"):
            stream.restore({**arrays, name: arrays[name][0] if name == "memory0" else arrays[name][:1]})
    for filled in (-1, 3):
        with pytest.raises(ValueError, match="slots are filled"):
            stream.restore({**arrays, "memory1": np.array([filled], "int32")})


def test_centred_smoothing(plain):
    frames = recording(40)
    raw = list(VideoStream(plain, **{**SETTINGS, "smooth": 1})(frames))
    raw = [Result(result.start, result.end, result.probabilities) for result in raw]
    assert list(VideoStream(plain, **SETTINGS, centred=True)(frames)) == list(smooth(raw, 3, centred=True))


def test_only_frames_that_are_looked_at_are_made(plain):
    made = []

    def frame(index):
        made.append(index)
        return np.zeros((32, 40, 3), "uint8")

    frames = [(index / 24, lambda index=index: frame(index)) for index in range(241)]
    list(VideoStream(plain, **SETTINGS)(frames))
    assert made == list(range(0, 241, 6))


def test_no_frames_give_no_results(plain):
    assert list(VideoStream(plain, **SETTINGS)([])) == []


def test_frames_may_change_their_size(plain):
    frames = recording(6) + [(5.0 + index, picture) for index, (_, picture) in enumerate(recording(6, size=(90, 50)))]
    assert all(result.probabilities for result in VideoStream(plain, **SETTINGS)(frames))


def test_the_window_is_all_that_is_kept(plain):
    """A recording is read as its results are asked for, one batch ahead."""
    read = 0

    def frames():
        nonlocal read
        for frame in recording(60):
            read += 1
            yield frame

    results = VideoStream(plain, **SETTINGS)(frames())
    next(results)
    assert read <= 13
    next(results)
    assert read <= 16


def test_uncertainty():
    assert Result(0, 1, (1.0, 0.0, 0.0), (1.0, 0.0, 0.0)).uncertainty == 0
    assert Result(0, 1, (0.25,) * 4, (0.25,) * 4).uncertainty == pytest.approx(1)


def test_the_shipped_model_follows_a_change_of_motion():
    model = from_checkpoint("pico_moving_shapes", include_rescaling=True)
    pictures = np.concatenate([moving_shape(motion, seed=5, frames=64, size=64) for motion in (0, 4)])
    stream = VideoStream(model, fps=25, clip_frames=16, stride=8, smooth=1, short_side=64, crop=64, batch_size=4)
    labels = [result.label for result in stream(zip(np.arange(128) / 25, pictures, strict=True))]
    assert labels[:7] == [0] * 7  # clips that end by frame 64
    assert labels[-7:] == [4] * 7


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clip_frames": 0}, "`clip_frames`"),
        ({"stride": 9}, "must not exceed"),
        ({"smooth": 100}, "from 1"),
        ({"crop": 64}, "at least `crop`"),
        ({"batch_size": 0}, "`batch_size`"),
    ],
)
def test_errors(plain, wrong, message):
    with pytest.raises(ValueError, match=message):
        VideoStream(plain, **{**SETTINGS, **wrong})
    with pytest.raises(ValueError, match="A model with classes"):
        VideoStream(plain.backbone, **SETTINGS)

"""One file, or several as one time line."""

import logging
import re
from datetime import UTC, datetime, timedelta

import av
import numpy as np
import pytest

from videoswin_keras.streaming import recording as recording_module
from videoswin_keras.streaming.about import CLOCK
from videoswin_keras.streaming.clocks import Start
from videoswin_keras.streaming.recording import Recording
from videoswin_keras.video.decode import VideoError
from videoswin_keras.video.encode import write_video


@pytest.fixture
def files(tmp_path):
    """Three files of 10, 20 and 30 frames at 10 per second, each frame of its own grey."""
    paths, grey = [], iter(range(20, 240, 3))
    for number, count in enumerate((10, 20, 30)):
        paths.append(tmp_path / f"part{number}.mp4")
        write_video(paths[-1], [np.full((32, 32, 3), next(grey), "uint8") for _ in range(count)], rate=10)
    return paths


def read(recording, after=None):
    return [(time, round(float(picture().mean()))) for time, picture in recording.frames(after)]


def test_files_follow_each_other(files):
    frames = read(Recording(files))
    np.testing.assert_allclose([time for time, _ in frames], np.arange(60) / 10, atol=1e-9)
    assert np.abs(np.array([grey for _, grey in frames]) - np.arange(20, 200, 3)).max() <= 2


@pytest.mark.parametrize("count", [1, 3])
def test_frames_after_a_time(files, count):
    whole = read(Recording(files[-count:]))
    for index in (0, 8, 9, 10, 11, 28, 29):
        assert read(Recording(files[-count:]), whole[index][0]) == whole[index + 1 :]


def test_leaves_out_what_cannot_be_read_and_says_that_the_rest_is_early(files, tmp_path, caplog):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    recording = Recording([files[0], broken, files[1]])
    with caplog.at_level(logging.ERROR):
        assert read(recording) == read(Recording(files[:2]))
    (problem,) = recording.problems
    assert (problem.file, problem.at) == ("broken.mp4", pytest.approx(1.0))
    assert "is left out" in problem.what
    assert "all that follows is early by as much" in problem.what
    assert Recording([files[0], broken, files[1]]).duration() == pytest.approx(3.0)
    for paths in ([broken], [broken, tmp_path / "absent.mp4"]):
        with caplog.at_level(logging.ERROR), pytest.raises(VideoError):
            read(Recording(paths))


START = datetime(2026, 11, 20, 21, 30, tzinfo=UTC)


def starts(*seconds):
    return [None if s is None else Start(START + timedelta(seconds=s), "its name") for s in seconds]


def spans(recording):
    return [(span.file, round(span.start, 3), round(span.until, 3)) for span in recording.spans]


def test_clocks_leave_gaps_where_files_are_missing_or_cannot_be_read(files, tmp_path, caplog):
    """Of four files, at 0, 10, 20 and 30 s, the second is unreadable and the third missing."""
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    recording = Recording([files[0], tmp_path / "broken.mp4", files[1]], starts(0, 10, 30))
    with caplog.at_level(logging.ERROR):
        times = [time for time, _ in read(recording)]
    np.testing.assert_allclose(times, [*np.arange(10) / 10, *(30 + np.arange(20) / 10)], atol=1e-9)
    assert spans(recording) == [("part0.mp4", 0, 1), ("part1.mp4", 30, 32)]
    assert [(problem.file, problem.at) for problem in recording.problems] == [("broken.mp4", 10)]
    assert "is early" not in recording.problems[0].what
    assert recording.started == START
    assert recording.duration() == pytest.approx(32)


def test_a_recording_begins_with_the_first_file_that_can_be_read(files, tmp_path, caplog):
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    recording = Recording([tmp_path / "broken.mp4", *files[:2]], starts(0, 10, 20))
    with caplog.at_level(logging.ERROR):
        times = [time for time, _ in read(recording)]
    assert (times[0], times[10]) == (0, 10)
    assert recording.started == START + timedelta(seconds=10)
    unknown = Recording([tmp_path / "broken.mp4", *files[:2]], starts(0, None, None))
    with caplog.at_level(logging.ERROR), pytest.raises(VideoError, match="give the start of the file after it"):
        read(unknown)


def test_of_an_overlap_the_first_file_is_taken(files, caplog):
    """The third file, of 3 s, begins 4 s before the end of one of 6 s: nothing of it is left but the last second."""
    write_video(files[0].with_name("long.mp4"), [np.full((32, 32, 3), 250, "uint8")] * 60, rate=10)
    recording = Recording([files[0].with_name("long.mp4"), files[2], files[1]], starts(0, 3.5, 20))
    with caplog.at_level(logging.ERROR):
        frames = read(recording)
    np.testing.assert_allclose([time for time, _ in frames[:65]], np.arange(65) / 10, atol=1e-9)
    assert {grey for _, grey in frames[:60]} == {frames[0][1]}
    assert frames[65][0] == 20
    (problem,) = recording.problems
    assert (problem.file, problem.at) == ("part2.mp4", 3.5)
    assert "overlaps the file before by 2.5 s" in problem.what


def test_what_clocks_do_not_tell_of_a_file_is_a_problem(files, caplog):
    """Until another file tells."""
    known = [Start(START, "its name"), Start(START + timedelta(seconds=60), "its name", "begins at some time")]
    recording = Recording(files[:2], known)
    with caplog.at_level(logging.ERROR):
        read(recording)
        read(recording)
    assert [(p.file, p.kind, p.what, p.at) for p in recording.problems] == [
        ("part1.mp4", CLOCK, "begins at some time", 60.0)
    ]
    again = Recording(files[:2], starts(0, 60))
    again.recall(recording.events)
    assert not again.problems


def test_files_without_a_clock_follow_those_that_have_one(files):
    recording = Recording(files, starts(None, 60, None))
    times = np.array([time for time, _ in read(recording)])
    np.testing.assert_allclose(times, np.arange(60) / 10, atol=1e-9)  # the first is before the clock, by its length
    assert recording.started == START + timedelta(seconds=59)


def test_rejects_files_that_are_not_in_the_order_of_their_clocks(files):
    with pytest.raises(ValueError, match=r"part1.mp4 begins at .* before part0.mp4"):
        Recording(files, starts(10, 0, 20))


@pytest.fixture
def cut(tmp_path):
    """Matroska: the header says a minute, and two thirds of the bytes are gone."""
    rng = np.random.default_rng(0)
    frames = (rng.integers(0, 256, (64, 64, 3), "uint8") for _ in range(600))
    write_video(tmp_path / "whole.mkv", frames, rate=10)
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 3])
    return tmp_path / "cut.mkv"


def test_a_file_that_breaks_off_leaves_a_gap(cut, files, caplog):
    whole, recording = Recording([cut.with_name("whole.mkv")]), Recording([cut, files[0]])
    assert len(read(whole)) == 600
    assert not whole.problems
    with caplog.at_level(logging.WARNING):
        frames = read(recording)
    assert 100 < len(frames) < 300
    assert frames[-10][0] == pytest.approx(60.0)  # where the second file begins
    assert spans(recording) == [("cut.mkv", 0, 60), ("part0.mp4", 60, 61)]
    (problem,) = recording.problems
    assert problem.at == pytest.approx(frames[-11][0] + 0.1)
    assert "it says 60.0 s" in problem.what
    read(recording)  # as for the annotated video: said once
    assert len([message for message in caplog.messages if "breaks off" in message]) == 1


def test_going_on_finds_what_an_unbroken_reading_finds(cut, files, tmp_path, caplog):
    """From every place, with what had been found out by then: the same frames, spans, problems and start."""
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    paths = [files[0], tmp_path / "broken.mp4", cut, files[2], files[1]]
    for known in (starts(0, 10, 20, 80, 81), [None] * 5):
        with caplog.at_level(logging.ERROR):
            whole = Recording(paths, known)
            frames, events = [], []
            for time, _ in whole.frames():
                frames.append(time)
                events.append(list(whole.events))
            for place in (0, 5, 9, 10, 11, len(frames) - 51, len(frames) - 50, len(frames) - 21, len(frames) - 2):
                again = Recording(paths, known)
                again.recall(events[place])
                assert [time for time, _ in again.frames(frames[place])] == frames[place + 1 :]
                assert again.events == whole.events
                assert again.started == whole.started


def test_files_put_together(tmp_path, caplog):
    """`cat a.ts b.ts`: the times begin anew in the middle; they go on, and reading on from a time gives the same."""
    for name, greys in (("a", range(20, 80, 3)), ("b", range(80, 140, 3))):
        write_video(tmp_path / f"{name}.ts", [np.full((32, 32, 3), grey, "uint8") for grey in greys], rate=5)
    (tmp_path / "both.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with caplog.at_level(logging.ERROR):
        frames = read(Recording([tmp_path / "both.ts"]))
        times = np.array([time for time, _ in frames])
        assert len(frames) == 40
        np.testing.assert_allclose(np.diff(times), 0.2, atol=0.01)
        for index in (5, 19, 20, 30):
            assert read(Recording([tmp_path / "both.ts"]), frames[index][0]) == frames[index + 1 :]


@pytest.fixture
def amid(tmp_path):
    """A transport stream of 20 s and keyframes every 5 s, without its first quarter: it begins 0.4 s before one."""
    path = tmp_path / "amid.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"g": "25", "bf": "0", "sc_threshold": "0"})
        stream.width = stream.height = 32
        for grey in range(20, 220, 2):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), grey, "uint8"), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    packets = [match.start() for match in re.finditer(b"\x00\x00\x01\xe0", content)]
    path.write_bytes(content[packets[10] // 188 * 188 :])  # of the eleventh frame on, of which 15 have no keyframe
    return path


def test_a_file_that_begins_amid_a_group_begins_before_its_first_frame(amid, files):
    """What its name says is when it begins: the first frame that can be decoded is 3 s later."""
    second = Recording([files[0], amid], starts(0, 60))
    times = [time for time, _ in read(second)]
    assert times[10] == pytest.approx(63, abs=0.01)
    first = Recording([amid, files[0]], starts(0, 60))
    times = [time for time, _ in read(first)]
    assert times[0] == 0
    assert times[-10] == pytest.approx(57, abs=0.01)
    assert first.started == START + timedelta(seconds=first.spans[0].start * -1)
    assert first.spans[0].start == pytest.approx(-3, abs=0.01)
    assert not first.problems


@pytest.mark.parametrize("suffix", ["mkv", "flv", "mp4"])
def test_a_cut_with_sound_is_said(tmp_path, suffix, caplog):
    """As recorders and screens write it: 60 s of pictures and sound, and a third of the bytes."""
    rng = np.random.default_rng(0)
    path = tmp_path / f"whole.{suffix}"
    options = {"movflags": "faststart"} if suffix == "mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        video, sound = container.add_stream("libx264", rate=10), container.add_stream("aac", rate=44100)
        video.width = video.height = 64
        for number in range(600):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (64, 64, 3), "uint8"), format="rgb24")
            frame.pts = number
            container.mux(video.encode(frame))
            samples = np.zeros((1, 4410), "float32")
            noise = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            noise.sample_rate, noise.pts = 44100, number * 4410
            container.mux(sound.encode(noise))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    content = path.read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(content[: len(content) // 3])
    with caplog.at_level(logging.ERROR):
        whole, cut = Recording([path]), Recording([tmp_path / f"cut.{suffix}"])
        assert len(read(whole)) == 600
        assert len(read(cut)) < 300
    assert not whole.problems
    assert "breaks off" in " ".join(problem.what for problem in cut.problems)


def test_going_on_in_files_that_overlap_by_a_little(files, caplog):
    """Names give whole seconds: from every place the same events as without a stop."""
    known = starts(0, 0.8, 2.4)
    with caplog.at_level(logging.ERROR):
        whole = Recording(files, known)
        frames, events = [], []
        for time, _ in whole.frames():
            frames.append(time)
            events.append(list(whole.events))
        assert not whole.problems
        for place in range(len(frames)):
            again = Recording(files, known)
            again.recall(events[place])
            assert [time for time, _ in again.frames(frames[place])] == frames[place + 1 :]
            assert again.events == whole.events


def going_on_finds_the_same(paths, known):
    """From every place, with what had been found out by then: the same frames and the same events. Returns the last."""
    whole = Recording(paths, known)
    frames, events = [], []
    for time, _ in whole.frames():
        frames.append(time)
        events.append(list(whole.events))
    for place, time in enumerate(frames):
        again = Recording(paths, known)
        again.recall(events[place])
        assert [time for time, _ in again.frames(time)] == frames[place + 1 :]
        assert again.events == whole.events
    return whole


def test_going_on_past_a_file_that_lies_in_another(files, caplog):
    """Of 3, 1 and 2 s, at 0, 1 and 4 s: whatever is known of the second when it stops, its end is known at last."""
    paths, known = [files[2], files[0], files[1]], starts(0, 0.8, 4)
    with caplog.at_level(logging.ERROR):
        whole = Recording(paths, known)
        read(whole)
        for count in range(len(whole.events)):
            again = Recording(paths, known)
            again.recall(whole.events[:count])
            read(again, 2.9)
            assert {(span.file, span.end) for span in again.spans} == {(span.file, span.end) for span in whole.spans}
    assert [(span.file, round(span.end, 3)) for span in whole.spans] == [
        ("part2.mp4", 3.0),
        ("part0.mp4", 1.8),
        ("part1.mp4", 6.0),
    ]


def test_going_on_does_not_find_damage_twice(tmp_path, caplog):
    for name, greys in (("a", range(20, 60, 3)), ("b", range(60, 100, 3))):
        write_video(tmp_path / f"{name}.ts", [np.full((32, 32, 3), grey, "uint8") for grey in greys], rate=5)
    (tmp_path / "both.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with caplog.at_level(logging.ERROR):
        (problem,) = going_on_finds_the_same([tmp_path / "both.ts"], None).problems
    assert problem.at == pytest.approx(2.8, abs=0.1)  # after fourteen frames


def test_a_disk_that_fails_is_not_the_end_of_a_file(files, monkeypatch, caplog):
    """Of a share that goes away, say; a file that states no length would be taken for a short one."""

    class Failing:
        def __init__(self, container):
            self.container = container

        def __getattr__(self, name):
            return getattr(self.container, name)

        def demux(self, stream):
            for number, packet in enumerate(self.container.demux(stream)):
                if number == 5:
                    raise av.error.OSError(5, "Input/output error")
                yield packet

    write_video(files[0].with_name("a.ts"), [np.full((32, 32, 3), 99, "uint8")] * 20, rate=10)
    opened = av.open
    monkeypatch.setattr(av, "open", lambda *arguments, **settings: Failing(opened(*arguments, **settings)))
    recording = Recording([files[0].with_name("a.ts")])
    with caplog.at_level(logging.ERROR):
        assert len(read(recording)) < 20
    (problem,) = recording.problems
    assert "cannot be read on (Input/output error)" in problem.what


def test_a_file_that_fails_once_it_has_been_reached(files, monkeypatch, caplog):
    """A share goes away for a while: what follows goes on where it lies, with a clock and without, resumed or not."""
    opened = recording_module.iter_lazy_frames

    def failing(path, after=None, input_rate=None, on_damage=None):
        for frame in opened(path, after, input_rate, on_damage):
            if path.name == "part1.mp4" and frame.seconds > 0.45:
                raise OSError("gone")
            yield frame

    monkeypatch.setattr(recording_module, "iter_lazy_frames", failing)
    for known, third in ((starts(0, 1, 3), 3.0), (None, 1.5)):
        with caplog.at_level(logging.ERROR):
            whole = going_on_finds_the_same(files, known)
            times = [time for time, _ in read(Recording(files, known))]
        assert len(times) == 10 + 5 + 30
        assert times[15] == pytest.approx(third)
        assert whole.spans[1].end == pytest.approx(1.5)
        assert [problem.kind for problem in whole.problems] == ["left out"]


def test_files_that_begin_with_sound_begin_with_it(tmp_path, files):
    """Players count from there, and so do the times of results in a file."""
    path = tmp_path / "late.mp4"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("libx264", rate=10), container.add_stream("aac", rate=44100)
        video.width = video.height = 32
        for number in range(100):
            noise = av.AudioFrame.from_ndarray(np.zeros((1, 4410), "float32"), format="fltp", layout="mono")
            noise.sample_rate, noise.pts = 44100, number * 4410
            container.mux(sound.encode(noise))
            if number >= 50:
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, "uint8"), format="rgb24")
                frame.pts = number
                container.mux(video.encode(frame))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    recording = Recording([path, files[0]], starts(0, 60))
    times = [time for time, _ in read(recording)]
    assert times[0] == 0
    assert times[50] == pytest.approx(55, abs=0.1)
    assert recording.spans[0].start == pytest.approx(-5, abs=0.1)
    assert recording.spans[0].source == "its name; its first 5.0 s show no picture"


def test_rejects_clocks_that_were_not_set(files):
    with pytest.raises(ValueError, match="If a clock was wrong"):
        Recording(files, starts(0, 1, 26 * 365 * 86400))


def test_damage_that_is_decoded_over_is_said(tmp_path, caplog):
    """Frames that do not decode, and times that go back, are in the report, and not only in the log."""
    rng = np.random.default_rng(0)
    for name in ("a.ts", "b.ts"):
        write_video(tmp_path / name, [rng.integers(0, 255, (64, 64, 3), "uint8") for _ in range(60)], rate=5)
    joined = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(joined)
    content = bytearray((tmp_path / "a.ts").read_bytes())
    for place in rng.integers(len(content) // 2, len(content), 30):
        content[place] ^= 255
    (tmp_path / "damaged.ts").write_bytes(content)
    with caplog.at_level(logging.ERROR):
        for name, what in (("joined.ts", "has times that go back"), ("damaged.ts", "damaged or cannot be decoded")):
            recording = Recording([tmp_path / name])
            read(recording)
            assert what in " ".join(problem.what for problem in recording.problems), name
        whole = Recording([tmp_path / "a.ts"])
        read(whole)
        assert not whole.problems


@pytest.mark.parametrize("paths", ["night.mp4", []])
def test_errors(paths):
    with pytest.raises(ValueError, match="a list of at least one file"):
        Recording(paths)


def test_duration(files):
    assert Recording(files).duration() == pytest.approx(6.0)
    assert Recording(files[:1]).duration() == pytest.approx(1.0)

"""Folders that others can write to: what they have put there is neither followed nor written to, nor believed."""

import os
import socket
import tempfile

import cv2
import numpy as np
import pytest

from videoswin_keras import atomic
from videoswin_keras.streaming import journal as journals
from videoswin_keras.streaming.about import About, FileSpan
from videoswin_keras.streaming.journal import Journal
from videoswin_keras.streaming.recording import Recording
from videoswin_keras.streaming.run import Run
from videoswin_keras.streaming.stream import VideoStream
from videoswin_keras.streaming.timeline import LONGEST, Result

SETTINGS = {"fps": 4.0, "labels": ["a", "b"], "files": [{"file": "x", "start": None, "bytes": 1, "sha256": "y"}]}
HIDDEN = [".journal.jsonl", ".lock", ".state.npz", "settings.json"]


def plant(path, kind, victim):
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "dangling link":
        path.symlink_to(victim.with_name("made"))
    elif kind == "hard link":
        path.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(path)  # whose other end nobody opens: who reads it without care waits for ever
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))  # an address has at most a hundred bytes
    else:
        path.write_bytes(b"mine")


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "socket", "file"])
@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_there_before_a_recording_begins_is_refused(tmp_path, name, kind):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "night").mkdir()
    plant(tmp_path / "night" / name, kind, victim)
    with pytest.raises(FileExistsError, match=r"holds (other files|results already)"):
        Journal.open(tmp_path / "night", SETTINGS, resume=False)
    assert victim.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["night", "victim"]
    assert [path.name for path in (tmp_path / "night").iterdir()] == [name]


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "socket"])
@pytest.mark.parametrize("name", HIDDEN)
def test_what_took_the_place_of_a_file_is_refused(tmp_path, name, kind):
    """Before a run goes on, and while it does. Of a hard link only what would be written through it matters."""
    folder, victim = tmp_path / "night", tmp_path / "victim"
    journal = Journal.open(folder, SETTINGS, resume=False)
    journal.append([Result(0, 1, (0.5, 0.5))])
    journal.save({"position": np.array([1, 1])})
    victim.write_bytes((folder / name).read_bytes() if kind == "hard link" else b"precious")
    before = victim.read_bytes()
    plant(folder / name, kind, victim)
    if kind == "hard link" and name != ".lock":  # as in copies of hard links: read, and replaced by a new file
        journal = Journal.open(folder, SETTINGS, resume=True)
        assert len(list(journal.results())) == 1
    else:
        with pytest.raises(PermissionError, match=f"{name} (is a link|is no regular file|has a second name)"):
            Journal.open(folder, SETTINGS, resume=True)
    if name == ".journal.jsonl" and kind != "hard link":
        with pytest.raises(PermissionError, match="Nothing is read from it or written to it"):
            journal.append([Result(1, 2, (0.5, 0.5))])
    else:  # replaced, not written through
        journal.append([Result(1, 2, (0.5, 0.5))])
        journal.save({"position": np.array([1, 1])})
        journal.finish(lambda: None, {})
    assert victim.read_bytes() == before
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("is_labels", [False, True])
def test_a_folder_that_is_a_link_is_not_followed(tmp_path, is_labels):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "night").symlink_to("elsewhere" if is_labels else "nowhere")
    for resume in (False, True):
        with pytest.raises(PermissionError, match="night is a link"):
            Journal.open(tmp_path / "night", SETTINGS, resume)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_is_of_another_user(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError

    (tmp_path / "file").write_text("theirs")
    (tmp_path / "folder").mkdir()
    if os.geteuid() == 0:
        for path in tmp_path.iterdir():
            os.chown(path, 12345, -1)
    else:  # who cannot make such files: the system says of these what it says of them
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError, match="belongs to another user"):
        atomic.open_own(tmp_path / "file", "rb").close()
    with pytest.raises(PermissionError, match="belongs to another user"):
        atomic.make_own_folder(tmp_path / "folder")
    with atomic.open_own(tmp_path / "file", "rb", is_shared=True) as file:
        assert file.read() == b"theirs"


def test_all_that_one_makes_is_of_another_user(tmp_path, monkeypatch):
    """On a network drive that knows no users: then it is one's own all the same."""
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert atomic._not_own(os.stat(tmp_path), tmp_path) == ""


def test_the_lock_can_be_held_by_its_user_alone(tmp_path):
    earlier = os.umask(0)
    try:
        Journal.open(tmp_path / "night", SETTINGS, resume=False)
    finally:
        os.umask(earlier)
    assert (tmp_path / "night" / ".lock").stat().st_mode & 0o777 == 0o600


def test_a_temporary_file_has_a_place_that_nobody_knows(tmp_path):
    """And a name as long as the file's own."""
    path = tmp_path / (251 * "x" + ".txt")
    places = []
    for _ in range(2):
        with atomic.replacing(path) as temporary:
            temporary.write_text("whole")
            places.append(temporary)
            assert temporary.parent.stat().st_mode & 0o777 == 0o700
    assert places[0] != places[1]
    assert [p.read_text() for p in tmp_path.iterdir()] == ["whole"]
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with atomic.replacing(path) as temporary:
        temporary.write_text("whole")
    assert not path.is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def forged(folder, lines=(), settings=None, text=None):
    """Writes what a stranger can who knows how checksums are made, which are against chance alone."""
    journal = Journal.open(folder, SETTINGS, resume=False)
    journal.save({"position": np.array([0, 0])})
    for line in lines:
        journal._checksum = journals._chained(journal._checksum, line)
        with (folder / ".journal.jsonl").open("ab") as file:
            file.write(journal._checksum.encode() + b" " + line + b"\n")
    journal.save({"position": np.array([0, 0])})
    if settings is not None:
        journal.kept |= settings
        journal._write_settings()
    if text is not None:
        (folder / "settings.json").write_text(text)


@pytest.mark.parametrize(
    "line",
    [
        b"[0, 1e999, null]",
        b"[0, NaN, null]",
        b"[0, 1, [NaN, 1]]",
        b"[0, 1, [Infinity, 1]]",
        b"[0, 1, [0.5, 7]]",
        b"[0, 1, [0.5]]",
        b"[0, 1e12, null]",
        b"[5, 6, null]",
        b"[-5, 1, null]",
        b"[1, 1, null]",
        b"[0, 1]",
        b"17",
        b'{"record": "Result"}',
        b'{"record": "Reopened"}',
        b'{"record": "Reopened", "file": 7}',
        b'{"record": "FileSpan", "file": "x", "start": -Infinity, "end": 1, "until": 1, "source": "x"}',
        b'{"record": "FileSpan", "file": "x", "start": 0, "end": 1e300, "until": 1, "source": "x"}',
        b'{"record": "Problem", "file": "x", "kind": "x", "what": "x", "at": "now"}',
        200_000 * b"[",
    ],
)
def test_a_record_that_cannot_be_is_refused(tmp_path, line):
    forged(tmp_path / "night", [line])
    with pytest.raises(ValueError, match="is damaged: line 1 of its journal is none"):
        list(Journal.open(tmp_path / "night", SETTINGS, resume=True).records())


@pytest.mark.parametrize(
    "settings",
    [
        {"chain": 7},
        {"is_finished": 1},
        {"outcome": []},
        {"outcome": {"written": 7}},
        {"labels": 7},
        {"labels": [7]},
        {"files": 7},
        {"files": [7]},
        {"files": [{"file": "x"}]},
        {"files": [{"file": "x", "start": 7, "bytes": 1, "sha256": "y"}]},
        {"longest_hold": -1},
        {"longest_hold": "long"},
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings):
    forged(tmp_path / "night", settings=settings)
    with pytest.raises(ValueError, match=r"is damaged: settings\.json says what it never does"):
        Journal.open(tmp_path / "night", SETTINGS, resume=True)


@pytest.mark.parametrize(
    "text", [200_000 * "[", '{"chain": NaN}', '{"chain": 1e999}', "[]", "7", '{"a": ' + 5000 * "9"]
)
def test_settings_that_are_none_are_refused(tmp_path, text):
    forged(tmp_path / "night", text=text)
    with pytest.raises(ValueError, match=r"is damaged: settings\.json"):
        Journal.open(tmp_path / "night", SETTINGS, resume=True)


def test_a_state_that_cannot_be_is_refused(pico_stream):
    good = pico_stream.start().to_arrays() | {
        "position": np.array([8, 0]),
        "times": np.array([0.0, 0.75, 0.75, 0.0]),
        "shown": np.zeros((1, 64, 64, 3), "uint8"),
        "is_known": np.ones(8, bool),
        "window": np.zeros((8, 64, 64, 3), "uint8"),
    }
    assert pico_stream.restore(good).sampler.moment == 8
    for name, wrong in [
        ("position", np.array([-5, -5])),
        ("position", np.array([2**62, 2**62])),
        ("position", np.array([8, 9])),
        ("position", np.array([8.0, 0.0])),
        ("position", np.array([8, 0, 0])),
        ("position", np.array([int(LONGEST * 8) + 1, 0])),
        ("times", np.array([0.0, 1e12, 0.75, 0.0])),
        ("times", np.array([-1e300, 0.75, 0.75, 0.0])),
        ("times", np.array([0.0, np.nan, 0.75, 0.0])),
        ("times", np.array([0.0, 0.75, np.inf, 0.0])),
        ("times", np.array(["now"] * 4)),
        ("times", np.zeros(0)),
        ("shown", np.zeros((1, 9, 9, 3), "uint8")),
        ("shown", np.zeros((1, 64, 64, 3), "float32")),
        ("window", np.zeros((7, 64, 64, 3), "uint8")),
        ("window", np.zeros((8, 64, 64, 4), "uint8")),
        ("is_known", np.ones(1000, bool)),
        ("is_known", np.ones((), bool)),
    ]:
        with pytest.raises(ValueError, match="is no state of a stream"):
            pico_stream.restore(good | {name: wrong})


@pytest.fixture(scope="module")
def pico_stream():
    from videoswin_keras import from_checkpoint

    model = from_checkpoint("pico_moving_shapes", include_rescaling=True)
    return VideoStream(model, fps=8, clip_frames=16, stride=8, short_side=64, crop=64)


def test_a_run_says_what_does_not_fit(pico_stream, tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((64, 64, 3), "uint8"))

    def run(resume):
        about = About("x", ("a",) * 8, "x.png", 8.0)
        return Run(pico_stream, Recording([tmp_path / "x.png"]), tmp_path / "night", about, {}, resume)

    first = run(resume=False)
    first.begin()
    first.close()
    for state, events in (({"position": np.array([0, 0])}, []), (None, [FileSpan("z.png", 0, 1, 1, "x")])):
        if state is not None:
            first._journal.save(state)
        else:
            first._journal.append(events)
            first._save()
        with pytest.raises(ValueError, match=r"night is damaged: its parts do not fit together"):
            run(resume=True)
    for name in ("files", "longest_hold"):
        del first._journal.kept[name]
        first._journal._write_settings()
        with pytest.raises(ValueError, match=r"night is of no recording: its settings do not say"):
            run(resume=True)

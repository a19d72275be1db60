"""Names that are no text, that steer terminals, or that are of no file."""

import csv
import json
import os
import socket
import tempfile
import unicodedata
from pathlib import Path

import pytest

from videoswin_keras.classification import VideoPipeline
from videoswin_keras.cli.inputs import find_videos
from videoswin_keras.cli.main import main
from videoswin_keras.data.synthetic import moving_shape
from videoswin_keras.video.encode import write_video

PICO = ["--weights", "pico_moving_shapes"]
STEERING = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e\u2066\u200b\u200f"
HOSTILE = f"=a{STEERING}" + os.fsdecode(b"\xff")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "left.mp4"
    write_video(path, moving_shape(0, seed=10**6, frames=16, size=64), rate=8)
    return path.read_bytes()


@pytest.fixture
def hostile(video, tmp_path):
    """A folder of a good video and a broken one, and a list of classes, all called so."""
    (tmp_path / f"{HOSTILE}.txt").write_text("\n".join(f"{number}{STEERING}" for number in range(8)), encoding="utf-8")
    folder = tmp_path / f"folder{HOSTILE}"
    folder.mkdir()
    (folder / f"{HOSTILE}.mp4").write_bytes(video)
    (folder / f"broken{HOSTILE}.mp4").write_bytes(b"nothing")
    return tmp_path


def ended(arguments):
    """Returns the exit code of a command."""
    try:
        return main(arguments)
    except SystemExit as stop:  # of argparse
        return stop.code


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["models", HOSTILE], 2),
        (["convert", "pico_moving_shapes", "-o", f"{HOSTILE}.weights.h5"], 0),
        (["convert", f"folder{HOSTILE}/broken{HOSTILE}.mp4", "-o", "out.keras"], 2),
        (["export", f"{HOSTILE}.keras", "-o", "out.onnx"], 2),
        (["classify", f"folder{HOSTILE}", *PICO, "--classes", f"{HOSTILE}.txt", "--json", f"{HOSTILE}.json"], 1),
        (["stream", f"folder{HOSTILE}", "--join", *PICO, "--classes", f"{HOSTILE}.txt", "--out", HOSTILE], 1),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_no_name_steers_the_terminal_or_stops_a_verb(arguments, code, hostile, monkeypatch, capsys):
    monkeypatch.chdir(hostile)
    assert ended(arguments) == code
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    assert r"\x1b[2J" in printed
    assert not [c for c in printed if c not in "\n\t" and unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    if arguments[0] == "classify":
        content = json.loads(Path(f"{HOSTILE}.json").read_text(encoding="utf-8"))
        assert [Path(entry["path"]).name for entry in content["results"]] == [f"=a{STEERING}\\xff.mp4"]
        assert [Path(entry["path"]).name for entry in content["failed"]] == [f"broken=a{STEERING}\\xff.mp4"]
    if arguments[0] == "stream":
        (folder,) = Path(HOSTILE).iterdir()
        with (folder / "results.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(list(file)[1:]))
        assert {row["file"] for row in rows} == {r"'=a\x1b[2J\x1b]0;title\x07\x9b31m\u202e\u2066\u200b\u200f\xff.mp4"}
        (problem,) = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["outcome"]["problems"]
        assert "is left out" in problem["what"]
        assert main([*arguments, "--resume"]) == code


def test_results_are_there_while_others_are_computed(video, tmp_path, monkeypatch):
    """So a run that is killed loses none of them."""
    classify_views = VideoPipeline.classify_views
    output, so_far = tmp_path / "results.json", tmp_path / "results_so_far.jsonl"
    seen = []

    def watched(self, path, views, progress):
        assert not output.exists()
        seen.append([Path(json.loads(line)["path"]).name for line in so_far.read_text().splitlines()])
        return classify_views(self, path, views)

    monkeypatch.setattr(VideoPipeline, "classify_views", watched)
    for name in ("a.mp4", "b.mp4", "d.mp4"):
        (tmp_path / name).write_bytes(video)
    (tmp_path / "c.mp4").write_bytes(b"nothing")
    assert main(["classify", str(tmp_path), *PICO, "--json", str(output)]) == 1
    assert seen == [[], ["a.mp4"], ["a.mp4", "b.mp4", "c.mp4"]]
    assert not so_far.exists()
    video_before = (tmp_path / "a.mp4").read_bytes()
    assert main(["classify", str(tmp_path / "b.mp4"), *PICO, "--json", str(tmp_path / "a.mp4")]) == 2
    assert (tmp_path / "a.mp4").read_bytes() == video_before
    so_far.write_text("of a run that was killed")
    assert main(["classify", str(tmp_path), *PICO, "--json", str(output)]) == 2
    assert so_far.read_text() == "of a run that was killed"
    content = json.loads(output.read_text())
    assert [Path(result["path"]).name for result in content["results"]] == ["a.mp4", "b.mp4", "d.mp4"]
    assert len(content["failed"]) == 1
    assert content["complete"]


@pytest.fixture
def special(video, tmp_path):
    """A folder of one video, and of four things that are called so and are none."""
    folder = tmp_path / "card"
    (folder / "folder.mp4").mkdir(parents=True)
    (folder / "good.mp4").write_bytes(video)
    (folder / "link.mp4").symlink_to(folder / "nowhere.mp4")
    os.mkfifo(folder / "pipe.mp4")
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as server:  # its path has 107 bytes
        server.bind(f"{short}/socket")
        os.rename(f"{short}/socket", folder / "socket.mp4")
    return folder


@pytest.mark.one_backend
@pytest.mark.parametrize("verb", [["classify"], ["stream", "--join", "--out", "out"]])
def test_what_is_no_file_is_passed_over(verb, special, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([verb[0], "card", *verb[1:], *PICO]) == 1
    captured = capsys.readouterr()
    skipped = [line.split()[2] for line in captured.err.splitlines() if line.startswith("videoswin: skipped: ")]
    assert skipped == [f"card/{name}.mp4" for name in ("folder", "link", "pipe", "socket")]
    assert "card" in captured.out


@pytest.mark.parametrize("name", ["link", "pipe"])
@pytest.mark.parametrize(("verb", "code"), [(["classify"], 1), (["stream", "--out", "out"], 2)])
def test_what_is_no_file_is_said_where_it_is_given_by_itself(verb, code, name, special, monkeypatch, capsys):
    monkeypatch.chdir(special)
    assert main([verb[0], f"{name}.mp4", *verb[1:], *PICO]) == code
    assert f"No video file at {name}.mp4" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_passed_over(video):
    is_root = os.geteuid() == 0  # who may read everything
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "locked").mkdir()
        for path in (folder / "good.mp4", folder / "locked" / "other.mp4"):
            path.write_bytes(video)
        (folder / "locked").chmod(0)
        folder.chmod(0o755)
        try:
            if is_root:
                os.seteuid(65534)
            for sources, found in (([name], [folder / "good.mp4"]), ([str(folder / "locked")], [])):
                videos, passed_over = find_videos(sources)
                assert videos == found
                assert [(path, type(error)) for path, error in passed_over] == [(folder / "locked", PermissionError)]
        finally:
            if is_root:
                os.seteuid(0)
            (folder / "locked").chmod(0o700)

"""Streams that are closed, go away, or know few characters."""

import io
import json
import os
import subprocess
import sys
import sysconfig

import pytest

from videoswin_keras.cli import terminal
from videoswin_keras.cli.main import VERBS, main
from videoswin_keras.data.synthetic import moving_shape
from videoswin_keras.progress import Bar
from videoswin_keras.video.encode import write_video

SCRIPT = f"{sysconfig.get_path('scripts')}/videoswin"  # where pip puts the command
PICO = ["--weights", "pico_moving_shapes"]


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(folder / name, moving_shape(0, seed=10**6, frames=16, size=64), rate=8)
    return folder


def of_nobody():
    """A stream whose reader has gone, as with `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8", buffering=1)


def on_a_full_disk():
    return open("/dev/full", "w", encoding="utf-8", buffering=1)


@pytest.mark.parametrize("stream", [lambda: None, of_nobody, on_a_full_disk], ids=["closed", "gone", "full"])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_work_goes_on_without_a_reader(name, stream, videos, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, name, stream())
    assert main(["classify", str(videos), *PICO, "--json", str(tmp_path / "out.json")]) == 0
    assert len(json.loads((tmp_path / "out.json").read_text())["results"]) == 2
    if (own := getattr(sys, name)) is not None:
        own.close()


def test_classify_ends_where_nobody_reads_its_only_output(videos, monkeypatch):
    with of_nobody() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["classify", str(videos), *PICO]) == 1


def test_descriptors_that_were_closed_are_no_file_s():
    """A library that writes on standard error would write into the first file that is opened."""
    program = f"""
import os, sys
sys.argv[0] = {SCRIPT!r}  # which imports little
from videoswin_keras.cli.terminal import take_over
take_over()
print("lost")
print("lost", file=sys.stderr, flush=True)
os._exit(os.open(os.devnull, os.O_RDONLY))
"""
    command = 'exec "$0" -c "$1" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", command, sys.executable, program]).returncode > 2


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_bars_and_lines_share_the_screen(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with terminal.escaped():
        with Bar(total=2, desc="model\x1b[2J", ncols=60) as bar:
            Bar.write("night\x1b[2J", file=sys.stderr)
            bar.update(2)
        print("end\r\x1b[A", file=sys.stderr)
    shown = screen.getvalue()
    assert "\x1b[2J" not in shown
    assert "\rmodel\\x1b[2J:" in shown
    assert "\rnight\\x1b[2J\n" in shown  # the bar has been cleared
    assert shown.endswith("end\\r\\x1b[A\n")


def test_help_under_ascii(monkeypatch):
    for verb in VERBS:
        stream = io.TextIOWrapper(io.BytesIO(), "ascii")
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0
        stream.flush()
        assert f"usage: videoswin {verb}".encode() in stream.buffer.getvalue()


@pytest.mark.one_backend
def test_a_stream_without_standard_error_in_a_locale_of_ascii_alone(videos, tmp_path):
    """File names are bytes there that Python does not know."""
    (videos / "a.mp4").rename(videos / "schön.mp4")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = ["stream", str(videos / "schön.mp4"), *PICO, "--out", str(tmp_path / "é")]
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "videoswin_keras", *command]
    result = subprocess.run(shell, env=environment, capture_output=True)
    assert result.returncode == 0
    assert rb"sch\xf6n: 2 s" in result.stdout
    assert (tmp_path / "é" / "schön" / "report.html").is_file()

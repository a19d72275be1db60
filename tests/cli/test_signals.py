"""Signals end every verb in one way."""

import json
import signal
import subprocess
import sys
import sysconfig
import threading

import pytest

from videoswin_keras.classification import VideoPipeline
from videoswin_keras.cli.main import main
from videoswin_keras.data.synthetic import moving_shape
from videoswin_keras.models import conversion
from videoswin_keras.video.encode import write_video

SCRIPT = f"{sysconfig.get_path('scripts')}/videoswin"  # where pip puts the command
NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture(autouse=True)
def defaults():
    """What a process in the foreground does at signals."""
    earlier = {number: signal.signal(number, signal.SIG_DFL) for number in NUMBERS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_keeps_what_was_classified(number, tmp_path, monkeypatch, capsys):
    classify_views = VideoPipeline.classify_views

    def interrupted(self, path, views, progress):
        if path.name == "b.mp4":
            signal.raise_signal(number)
        return classify_views(self, path, views)

    monkeypatch.setattr(VideoPipeline, "classify_views", interrupted)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, moving_shape(0, seed=10**6, frames=16, size=64))
    output = tmp_path / "results.json"
    handlers = [signal.getsignal(number) for number in NUMBERS]
    command = ["classify", str(tmp_path), "--weights", "pico_moving_shapes", "--json", str(output)]
    assert main(command) == 128 + number
    assert capsys.readouterr().err.endswith("videoswin: stopped.\n")
    content = json.loads(output.read_text())
    assert len(content["results"]) == 1
    assert not content["complete"]
    assert [signal.getsignal(number) for number in NUMBERS] == handlers


def convert_after(act, tmp_path, monkeypatch):
    """Converts a checkpoint, but first calls a function; returns the exit code."""
    adapt = conversion.adapt
    monkeypatch.setattr(conversion, "adapt", lambda *arguments: (act(), adapt(*arguments))[1])
    return main(["convert", "pico_moving_shapes", "-o", str(tmp_path / "out.weights.h5")])


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_where_python_drops_the_exception_comes_again(number, tmp_path, monkeypatch):
    """In a finalizer, as in a callback of the garbage collector."""

    class Interrupting:
        def __del__(self):
            signal.raise_signal(number)

    def act():
        Interrupting()  # and gone at once
        threading.Event().wait(60)

    assert convert_after(act, tmp_path, monkeypatch) == 128 + number
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("following", [None, ValueError("another error")])
def test_a_signal_that_something_catches_is_said_at_the_end(following, tmp_path, monkeypatch, capsys):
    def act():
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            if following:
                raise following from None

    assert convert_after(act, tmp_path, monkeypatch) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.endswith("videoswin: stopped.\n")


def test_signals_that_the_parent_has_ignored_stay_so(tmp_path, monkeypatch):
    """As `nohup` does."""
    signal.signal(NUMBERS[-1], signal.SIG_IGN)
    assert convert_after(lambda: signal.raise_signal(NUMBERS[-1]), tmp_path, monkeypatch) == 0


@pytest.mark.parametrize(("second", "code"), [("SIGINT", -signal.SIGINT), ("SIGTERM", 3)])
def test_only_a_second_ctrl_c_ends_at_once(second, code):
    """Shells and `timeout` send the other signals twice."""
    program = f"""
import signal, sys
sys.argv[0] = {SCRIPT!r}  # which imports little
from videoswin_keras.cli import signals
signal.signal(signal.SIGINT, signal.default_int_handler)
with signals.heard():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        signal.raise_signal(signal.{second})
        sys.exit(3)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == code

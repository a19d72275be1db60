"""What is said where a library that only some users need is missing or broken, and where no backend is."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from videoswin_keras import optional
from videoswin_keras.checkpoints import load
from videoswin_keras.cli.main import main
from videoswin_keras.video.transforms import resize_short_side

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.one_backend


def without_site_packages(*arguments, cwd=None):
    """Runs a Python that finds this library and nothing that is installed, not even Keras."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KERAS")}
    environment = {**kept, "PYTHONPATH": str(ROOT), "KERAS_HOME": "nowhere"}
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["stream", "--help"], ["demo", "--help"], ["models"]])
@pytest.mark.parametrize("module", [["-m", "videoswin_keras"], ["-Wonce", "-Bmvideoswin_keras"]])
def test_works_with_nothing_installed(arguments, module):
    result = without_site_packages(*module, *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout
    assert not result.stderr


def test_names_the_backends_where_none_is_installed(tmp_path):
    (tmp_path / "tensorflow").mkdir()  # a folder that is called so is none
    result = without_site_packages("-m", "videoswin_keras", "classify", "clip.mp4", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == (
        "videoswin: error: Keras needs PyTorch, JAX or TensorFlow, and none is installed. "
        "Install one: pip install jax (or torch, or tensorflow).\n"
    )
    result = without_site_packages("-c", "import videoswin_keras")
    assert "ImportError: Keras needs PyTorch, JAX or TensorFlow" in result.stderr


@pytest.fixture
def hide(monkeypatch):
    """Has modules look as if they were not installed."""

    def hide(*names):
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name in names else find(name, *rest)
        )

    return hide


@pytest.mark.parametrize("verb", ["classify", "stream", "demo"])
def test_a_verb_says_what_it_needs_before_it_begins(verb, hide, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = {
        "classify": ["x.mp4"],
        "stream": ["x.mp4", "--weights", "pico_moving_shapes", "--out", "out"],
        "demo": [],
    }[verb]
    hide("av")
    assert main([verb, *arguments]) == 2
    said = f"videoswin: error: videoswin {verb} needs PyAV, which is not installed. Install it: pip install av\n"
    assert capsys.readouterr().err == said
    assert not any(tmp_path.iterdir())


def test_names_all_that_is_missing_at_once(hide):
    hide("edfio", "webvtt")
    said = r"^Writing needs edfio and webvtt-py, which are not installed. Install them: pip install edfio webvtt-py$"
    with pytest.raises(ImportError, match=said):
        optional.check("Writing", ["matplotlib", "edfio", "webvtt"])


def test_checkpoint_that_cannot_be_read_is_not_downloaded(hide, monkeypatch):
    monkeypatch.setattr(load, "download", lambda *arguments: pytest.fail("It was downloaded."))
    hide("safetensors")
    with pytest.raises(ImportError, match=r"swin\.safetensors, needs safetensors, which is not installed"):
        load.locate("https://example.org/swin.safetensors")


def test_tells_a_broken_library_from_a_missing_one(tmp_path, monkeypatch):
    (tmp_path / "cv2.py").write_text("raise AttributeError('_ARRAY_API not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    frame = np.zeros((4, 6, 3), "uint8")
    broken = r"needs OpenCV, which is installed but cannot be imported: _ARRAY_API not found. .* --upgrade opencv"
    with pytest.raises(ImportError, match=broken):
        resize_short_side(frame, 2)

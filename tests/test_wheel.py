"""A wheel holds everything needed at run time, and works outside the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USE = """
import sys
from pathlib import Path
import videoswin_keras
from videoswin_keras.checkpoints import labels, zoo
from videoswin_keras.cli.main import main
assert Path(videoswin_keras.__file__).is_relative_to(sys.argv[1]), videoswin_keras.__file__
assert len(labels.labels("kinetics400")) == 400
assert "tiny_kinetics400" in zoo.ENTRIES
sys.exit(main(["demo"]))
"""


@pytest.mark.one_backend
def test_wheel_works_outside_the_checkout(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "videoswin_keras", source / "videoswin_keras", ignore=shutil.ignore_patterns("__pycache__"))
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, source]
    subprocess.run(install, check=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", USE, site]
    result = subprocess.run(command, cwd=outside, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("turning clockwise") >= 1
    assert len(list((outside / "demo").glob("*.mp4"))) == 8

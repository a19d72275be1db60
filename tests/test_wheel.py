"""A wheel holds everything needed at run time, and works outside the checkout."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
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


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Returns the wheel and the source distribution; the wheel is built from the latter."""
    folder = tmp_path_factory.mktemp("built")
    options = ["--quiet", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder]
    subprocess.run([sys.executable, "-m", "uv", "build", *options, ROOT], check=True)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.mark.one_backend
def test_wheel_works_outside_the_checkout(built, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, built[0]]
    subprocess.run(install, check=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", USE, site]
    result = subprocess.run(command, cwd=outside, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("turning clockwise") >= 1
    assert len(list((outside / "demo").glob("*.mp4"))) == 8


@pytest.mark.one_backend
def test_distributions_hold_the_library_and_say_so(built):
    wheel, source = built
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [archive.read(name).decode() for name in names if name.endswith("/METADATA")]
    library = {f"videoswin_keras/{path}" for path in files(ROOT / "videoswin_keras")}
    assert {name for name in names if ".dist-info/" not in name} == library
    assert "videoswin_keras/py.typed" in library
    with tarfile.open(source) as archive:
        inner = {name.partition("/")[2] for name in archive.getnames()}
    extra = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "PKG-INFO", ".gitignore"}
    assert inner - extra == library  # the tests need the repository, and none of them is here
    description = metadata.partition("\n\n")[2]
    links = re.findall(r"\]\(([^)]*)\)", description)
    assert links
    assert all(link.startswith("https://") for link in links)
    assert description.count("\n## ") == (ROOT / "README.md").read_text().count("\n## ")


def files(folder):
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in paths}

"""The Makefile makes its environment with a Python that will do, and anew where another made it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.one_backend

# A Python of another version, whose environments hold a pip that does nothing.
PYTHON = """#!/bin/sh
case "$1" in
-c) exec {executable} -c "import sys; sys.version_info = ({version}, 0); exec(sys.argv[1])" "$2" ;;
-m) mkdir -p .venv/bin && printf '#!/bin/sh\\n' > .venv/bin/pip && cp "$0" .venv/bin/python && chmod +x .venv/bin/* ;;
esac
"""


@pytest.fixture
def setup(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def setup(version, *more):
        python = tmp_path / "python"
        python.write_text(PYTHON.format(executable=sys.executable, version=version))
        python.chmod(0o755)
        command = ["make", "setup", *(more or [f"PYTHON={python}"])]
        # Without what a `make test PYTHON=…` that runs this hands on.
        kept = {key: value for key, value in os.environ.items() if key != "PYTHON" and not key.startswith("MAKE")}
        return subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True)

    return setup


@pytest.mark.parametrize("version", ["3, 10", "3, 14"])
def test_refuses_a_python_that_has_no_pinned_versions(setup, tmp_path, version):
    result = setup(version)
    assert result.returncode
    said = (
        f"for Python 3.11 to 3.13; {tmp_path}/python is {version.replace(', ', '.')}. Name another, as: make setup PY"
    )
    assert said in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_environment_is_made_anew_for_another_python_alone(setup, tmp_path):
    environment = tmp_path / ".venv"
    assert setup("3, 12").returncode == 0
    (environment / "mark").touch()
    assert setup("3, 12").returncode == 0
    assert setup("3, 12", "PIP=false").returncode == 0  # without PYTHON, what is there is used as it is
    assert (environment / "mark").exists()
    assert setup("3, 13").returncode == 0
    assert not (environment / "mark").exists()
    assert (environment / "installed").read_text() == "3.13\n"


def test_half_made_environment_is_made_anew(setup, tmp_path):
    python = tmp_path / "python"
    assert setup("3, 12", f"PYTHON={python}", "PIP=false").returncode
    (tmp_path / ".venv" / "mark").touch()
    assert setup("3, 12").returncode == 0
    assert not (tmp_path / ".venv" / "mark").exists()


def test_environment_of_somebody_else_stays(setup, tmp_path):
    mark = tmp_path / ".venv" / "mark"
    mark.parent.mkdir()
    mark.touch()
    result = setup("3, 12")
    assert result.returncode
    assert ".venv is not from this Makefile. Remove it, or name another: make setup VENV=.venv-make" in result.stderr
    assert mark.exists()

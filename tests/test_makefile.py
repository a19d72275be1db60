"""The Makefile makes its environment with a Python that will do, and anew where another made it."""

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
-m) mkdir -p .venv/bin && printf '#!/bin/sh\\n' > .venv/bin/pip && chmod +x .venv/bin/pip ;;
esac
"""


@pytest.fixture
def setup(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def setup(version):
        python = tmp_path / "python"
        python.write_text(PYTHON.format(executable=sys.executable, version=version))
        python.chmod(0o755)
        command = ["make", "setup", f"PYTHON={python}"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return setup


def test_refuses_a_python_that_is_too_old(setup, tmp_path):
    result = setup("3, 10")
    assert result.returncode
    assert (
        f"needs Python 3.11 or newer; {tmp_path}/python is 3.10. Name another, as: make setup PYTHON=" in result.stderr
    )
    assert not (tmp_path / ".venv").exists()


def test_environment_of_another_python_is_made_anew(setup, tmp_path):
    mark = tmp_path / ".venv" / "mark"
    mark.parent.mkdir()
    mark.touch()
    assert setup("3, 12").returncode == 0
    assert not mark.exists()  # nobody knows which Python made that one
    mark.touch()
    assert setup("3, 12").returncode == 0
    assert mark.exists()
    assert setup("3, 13").returncode == 0
    assert not mark.exists()

"""Installs the built wheel in fresh environments and runs `smoke.py` in each: every Python from 3.11 on that is here,
every backend, with the lowest versions that pyproject.toml admits and with the newest.

    python tests/compat/run.py                                             # all, and writes the table
    python tests/compat/run.py --python 3.13 --backend jax --newest        # some, and writes nothing

Needs uv, and gigabytes: PyTorch and TensorFlow are those of PyPI, on Linux with CUDA. The exit code is 1 if anything
failed; the table says what.
"""

import argparse
import datetime
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("README.md")
SMOKE = Path(__file__).with_name("smoke.py")
# What is installed, and the backend that runs; "all" has PyTorch's build for CUDA beside TensorFlow.
EXTRAS = {
    "torch": ("torch,stream,safetensors", "torch"),
    "jax": ("jax,stream,safetensors", "jax"),
    "tensorflow": ("tensorflow,stream,export,safetensors", "tensorflow"),
    "all": ("all", "tensorflow"),
}
KINDS = {"lowest": "lowest-direct", "newest": "highest"}  # as uv calls them
OLDEST = (3, 11)
TIMEOUT = 1800  # seconds, of an installation or a smoke run
# The versions that the table names, besides Python's.
NAMED = ("keras", "numpy", "h5py", "jax", "torch", "tensorflow", "av", "opencv-python-headless", "matplotlib")


def pythons() -> dict[str, str]:
    """Returns a path for each minor version of CPython on this machine, by version: "3.13"."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))  # the others of pyenv are not on the path
    names = [f"python3.{minor}" for minor in range(OLDEST[1], OLDEST[1] + 10)]
    candidates = [*map(shutil.which, names), *map(str, pyenv.glob("versions/*/bin/python")), sys.executable]
    ask = "import sys; print(sys.implementation.name, sys.version_info.releaselevel, *sys.version_info[:3])"
    found: dict[tuple[int, ...], str] = {}
    for path in filter(None, candidates):
        try:
            name, level, *version = subprocess.run([path, "-c", ask], capture_output=True, text=True).stdout.split()
        except (OSError, ValueError):  # a dangling link, or no Python of that name
            continue
        if (name, level) == ("cpython", "final"):
            found[tuple(map(int, version))] = path
    return {f"{key[0]}.{key[1]}": found[key] for key in sorted(found) if key >= OLDEST}  # of each the newest


def run(command: list, folder: str | Path, variables: dict[str, str]) -> str:
    """Returns what a command printed.

    Raises:
        subprocess.SubprocessError: if it failed, or did not end in time.
    """
    result = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    return result.stdout


def uv(*arguments: str) -> str:
    """Runs the uv that is beside this Python, else the one on the path, without anybody's settings."""
    program = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or "uv"
    variables = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    return run([program, "--quiet", "--no-config", *arguments], tempfile.gettempdir(), variables)


def environment(python: str, backend: str, kind: str, wheel: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """Makes an environment, and returns its Python and the versions of what is in it."""
    interpreter = folder / "venv" / "bin" / "python"
    extras, runs = EXTRAS[backend]
    uv("venv", "--no-python-downloads", "--python", python, str(folder / "venv"))
    chosen = ["--only-binary", ":all:", "--python", str(interpreter)]
    requirements = [f"{wheel}[{extras}]"]
    if kind == "lowest":  # the wheel's own requirements are direct ones in pyproject.toml alone
        lowest = folder / "lowest.txt"
        named = [option for extra in extras.split(",") for option in ("--extra", extra)]
        output = ["--resolution", KINDS[kind], "--output-file", str(lowest)]
        uv("pip", "compile", *named, *chosen, *output, str(ROOT / "pyproject.toml"))
        requirements += ["-r", str(lowest)]
    else:  # the backend's newest version first: it decides about others
        uv("pip", "install", *chosen, runs)
    uv("pip", "install", *chosen, *requirements)
    uv("pip", "check", "--python", str(interpreter))
    listed = json.loads(uv("pip", "list", "--format", "json", "--python", str(interpreter)))
    return interpreter, {package["name"]: package["version"] for package in listed}


def smoke(interpreter: Path, backend: str, folder: Path) -> dict[str, str | None]:
    """Returns the error of each step by its name; None where it passed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KERAS", "VIRTUAL"))}
    variables = {**kept, "KERAS_BACKEND": EXTRAS[backend][1], "KERAS_HOME": str(folder / "keras")}
    variables["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that wait by spinning slow each other down on few cores
    work = folder / "work"
    work.mkdir()
    try:
        printed, error = run([interpreter, "-I", SMOKE], work, variables), None
    except subprocess.SubprocessError as failure:
        printed, error = text(failure.stdout), f"{failure}\n{text(failure.stderr)}"
    steps = [json.loads(line) for line in printed.splitlines() if line.startswith('{"step"')]
    return {step["step"]: step["error"] for step in steps} | ({"the end": error} if error else {})


def text(printed: str | bytes | None) -> str:
    return printed.decode(errors="replace") if isinstance(printed, bytes) else printed or ""


def try_out(python: str, backend: str, kind: str, wheel: Path, folder: Path) -> dict:
    """Returns the versions of an environment, which is removed, and the error of each step in it."""
    folder.mkdir()
    row: dict = {"versions": {}, "errors": {}}
    try:
        interpreter, row["versions"] = environment(python, backend, kind, wheel, folder)
        row["errors"] = {"install": None, **smoke(interpreter, backend, folder)}
    except subprocess.SubprocessError as failure:
        row["errors"] = {"install": f"{failure}\n{text(failure.stderr)}"}
    finally:
        shutil.rmtree(folder)
    return row


def failures(row: dict) -> dict[str, str]:
    return {step: error for step, error in row["errors"].items() if error not in (None, "–")}


def table(rows: list[dict]) -> str:
    steps = list(dict.fromkeys(step for row in rows for step in row["errors"]))
    lines = [
        "# Which versions work together",
        "",
        f"`make compat` on {datetime.date.today()}, {platform.system()} {platform.machine()}. Each row is a fresh",
        "environment. It holds the built wheel, and either the lowest versions that pyproject.toml admits or the",
        "newest. [smoke.py](smoke.py) has the steps. `all` is everything at once, on TensorFlow. –: the environment",
        "lacks a library that the step needs.",
        "",
        f"| Python | backend | versions | {' | '.join(step.replace('_', ' ') for step in steps)} |",
        f"|{'---|' * (3 + len(steps))}",
    ]
    for row in rows:
        marks = [{None: "✓", "–": "–"}.get(row["errors"].get(step, "not run"), "✗") for step in steps]
        lines.append(f"| {row['python']} | {row['backend']} | {row['kind']} | {' | '.join(marks)} |")
    lines += ["", "| Python | backend | versions | " + " | ".join(NAMED) + " |", f"|{'---|' * (3 + len(NAMED))}"]
    for row in rows:
        versions = " | ".join(row["versions"].get(name, "") for name in NAMED)
        lines.append(f"| {row['python']} | {row['backend']} | {row['kind']} | {versions} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", help="minor versions, as 3.13 (default: all that are here)")
    parser.add_argument("--backend", nargs="+", choices=EXTRAS, default=list(EXTRAS))
    parser.add_argument("--lowest", action="store_true", help="the lowest versions alone")
    parser.add_argument("--newest", action="store_true", help="the newest versions alone")
    options = parser.parse_args()
    here = pythons()
    chosen = options.python or list(here)
    if absent := [version for version in chosen if version not in here]:
        parser.error(f"Python {', '.join(absent)} is not on this machine; these are: {', '.join(here)}.")
    kinds = [kind for kind in KINDS if getattr(options, kind)] or list(KINDS)
    rows = []
    with tempfile.TemporaryDirectory(prefix="compat") as name:
        folder = Path(name)
        uv("build", "--wheel", "--out-dir", name, str(ROOT))
        wheel = next(folder.glob("*.whl"))
        for version, backend, kind in itertools.product(chosen, options.backend, kinds):
            begin = time.monotonic()
            row = try_out(here[version], backend, kind, wheel, folder / "one")
            rows.append({"python": version, "backend": backend, "kind": kind, **row})
            failed = failures(row)
            said = ", ".join(failed) + " failed" if failed else "all passed"
            print(f"Python {version}, {backend}, {kind}: {said} ({time.monotonic() - begin:.0f} s)", flush=True)
            for step, error in failed.items():
                print(f"--- {step}\n{error}", flush=True)
    is_whole = len(rows) == len(here) * len(EXTRAS) * len(KINDS)
    if is_whole and {"3.11", "3.12", "3.13"} <= set(here):
        TABLE.write_text(table(rows), encoding="utf-8")
        print(f"Written: {TABLE}")
    else:
        print(f"{TABLE} stays as it is: it is written by a run of all, with Python 3.11, 3.12 and 3.13.")
    return any(failures(row) for row in rows)


if __name__ == "__main__":
    sys.exit(main())

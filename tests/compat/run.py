"""Installs the built wheel in fresh environments and runs `smoke.py` in each: every Python from 3.11 on that is here,
every backend, with the lowest versions that pyproject.toml admits and with the newest.

    python tests/compat/run.py
    python tests/compat/run.py --python 3.13 --backend jax --newest

Each environment's row of the table (README.md, made of results.json) is written as soon as it is done. Needs uv, and
gigabytes: PyTorch and TensorFlow are those of PyPI, on Linux with CUDA. The exit code is 1 if anything failed.
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
ROWS = Path(__file__).with_name("results.json")
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


def try_out(
    python: str, backend: str, kind: str, wheel: Path, folder: Path
) -> tuple[dict[str, str], dict[str, str | None]]:
    """Returns the versions of an environment, which is removed, and the error of each step in it."""
    folder.mkdir()
    versions: dict[str, str] = {}
    try:
        interpreter, versions = environment(python, backend, kind, wheel, folder)
        return versions, {"install": None, **smoke(interpreter, backend, folder)}
    except subprocess.SubprocessError as failure:
        return versions, {"install": f"{failure}\n{text(failure.stderr)}"}
    finally:
        shutil.rmtree(folder)


def save(row: dict) -> None:
    """Puts a row in the place of an older one of the same environment, and writes the table anew."""
    keys = ("python", "backend", "kind")
    rows = json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.is_file() else []
    rows = [other for other in rows if any(other[key] != row[key] for key in keys)] + [row]
    rows.sort(key=_place)
    ROWS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    TABLE.write_text(table(rows), encoding="utf-8")


def _place(row: dict) -> list[int]:
    version = [int(part) for part in row["python"].split(".")]
    return [*version, list(EXTRAS).index(row["backend"]), list(KINDS).index(row["kind"])]


def table(rows: list[dict]) -> str:
    steps = list(dict.fromkeys(step for row in rows for step in row["passed"]))
    head = "| Python | backend | versions | "
    lines = [
        "# Which versions work together",
        "",
        "Made by `make compat`. Each row is a fresh environment. It holds the built wheel, and either the lowest",
        "versions that pyproject.toml admits or the newest there were on that day. [smoke.py](smoke.py) has the steps.",
        "`all` is everything at once, on TensorFlow. –: the environment lacks a library that the step needs.",
        "",
        f"{head}{' | '.join(step.replace('_', ' ') for step in steps)} | date | system |",
        f"|{'---|' * (5 + len(steps))}",
    ]
    starts = [f"| {row['python']} | {row['backend']} | {row['kind']} | " for row in rows]
    marks = {True: "✓", False: "✗", None: "–"}
    for start, row in zip(starts, rows, strict=True):
        passed = " | ".join(marks[row["passed"][step]] if step in row["passed"] else "not run" for step in steps)
        lines.append(f"{start}{passed} | {row['date']} | {row['system']} |")
    lines += ["", f"{head}{' | '.join(NAMED)} |", f"|{'---|' * (3 + len(NAMED))}"]
    for start, row in zip(starts, rows, strict=True):
        lines.append(f"{start}{' | '.join(row['versions'].get(name, '') for name in NAMED)} |")
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
    is_sound = True
    with tempfile.TemporaryDirectory(prefix="compat") as name:
        folder = Path(name)
        uv("build", "--wheel", "--out-dir", name, str(ROOT))
        wheel = next(folder.glob("*.whl"))
        for version, backend, kind in itertools.product(chosen, options.backend, kinds):
            begin = time.monotonic()
            versions, errors = try_out(here[version], backend, kind, wheel, folder / "one")
            passed = {step: None if error == "–" else error is None for step, error in errors.items()}
            failed = [step for step in passed if passed[step] is False]
            is_sound &= not failed
            said = ", ".join(failed) + " failed" if failed else "all passed"
            print(f"Python {version}, {backend}, {kind}: {said} ({time.monotonic() - begin:.0f} s)", flush=True)
            for step in failed:
                print(f"--- {step}\n{errors[step]}", flush=True)
            found = {"versions": {key: versions[key] for key in NAMED if key in versions}, "passed": passed}
            where = {"date": str(datetime.date.today()), "system": f"{platform.system()} {platform.machine()}"}
            save({"python": version, "backend": backend, "kind": kind, **where, **found})
    print(f"See {TABLE}.")
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())

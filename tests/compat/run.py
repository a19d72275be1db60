"""Installs the built wheel in fresh environments and runs `smoke.py` in each: every Python from 3.11 on that is here,
every backend, and of all that is declared in pyproject.toml the lowest versions and the newest.

    python tests/compat/run.py                                             # all, and writes the table
    python tests/compat/run.py --python 3.13 --backend jax --newest        # some, and writes nothing

Needs uv, and gigabytes: PyTorch and TensorFlow are taken as `pip install` takes them. The exit code is 1 if anything
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
EXTRAS = {
    "torch": "torch,stream,safetensors",
    "jax": "jax,stream,safetensors",
    "tensorflow": "tensorflow,stream,export",
}
OLDEST = (3, 11)
# The versions that the table names, besides Python's.
NAMED = ("keras", "numpy", "h5py", "jax", "torch", "tensorflow", "av", "opencv-python-headless", "matplotlib")


def pythons() -> dict[str, str]:
    """Returns a path for each minor version of Python that is on this machine, by version: "3.13"."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    names = [f"python3.{minor}" for minor in range(OLDEST[1], 20)]
    candidates = [*map(shutil.which, names), *map(str, pyenv.glob("versions/*/bin/python")), sys.executable]
    found: dict[tuple[int, ...], str] = {}
    for path in filter(None, candidates):
        result = subprocess.run(
            [path, "-c", "import sys; print(*sys.version_info[:3])"], capture_output=True, text=True
        )
        if result.returncode == 0:
            found[tuple(map(int, result.stdout.split()))] = path
    return {f"{key[0]}.{key[1]}": found[key] for key in sorted(found) if key >= OLDEST}  # of each the newest


def environment(python: str, backend: str, resolution: str, wheel: Path, folder: Path) -> tuple[str, dict[str, str]]:
    """Makes an environment, and returns the path of its Python and the versions of what is in it."""
    interpreter = str(folder / "venv" / "bin" / "python")
    uv("venv", "--quiet", "--no-python-downloads", "--python", python, str(folder / "venv"))
    requirements = [f"{wheel}[{EXTRAS[backend]}]"]
    if resolution == "lowest-direct":  # the wheel's own requirements are direct ones in pyproject.toml alone
        extras = [option for extra in EXTRAS[backend].split(",") for option in ("--extra", extra)]
        lowest = folder / "lowest.txt"
        uv("pip", "compile", "--quiet", *extras, "--resolution", resolution, "--only-binary", ":all:", "--python",
           interpreter, "--output-file", str(lowest), str(ROOT / "pyproject.toml"))  # fmt: skip
        requirements += ["-r", str(lowest)]
    uv("pip", "install", "--quiet", "--only-binary", ":all:", "--python", interpreter, *requirements)
    uv("pip", "check", "--quiet", "--python", interpreter)
    listed = json.loads(uv("pip", "list", "--quiet", "--format", "json", "--python", interpreter))
    return interpreter, {package["name"]: package["version"] for package in listed}


def uv(*arguments: str) -> str:
    """Runs uv, the one beside this Python where there is one, away from any project's own settings."""
    program = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or "uv"
    result = subprocess.run([program, *arguments], cwd=tempfile.gettempdir(), capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"uv {' '.join(arguments[:2])}: {result.stderr}")
    return result.stdout


def smoke(interpreter: str, backend: str, folder: Path) -> dict[str, str | None]:
    """Returns the error of each step by its name; None where it passed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "KERAS", "VIRTUAL_ENV"))}
    variables = {**kept, "KERAS_BACKEND": backend, "KERAS_HOME": str(folder / "keras"), "TF_CPP_MIN_LOG_LEVEL": "2"}
    work = folder / "work"
    work.mkdir()
    command = [interpreter, "-I", str(SMOKE)]
    result = subprocess.run(command, cwd=work, env=variables, capture_output=True, text=True)
    steps = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{"step"')]
    errors = {step["step"]: step["error"] for step in steps}
    if result.returncode:
        errors["to the end"] = f"exit code {result.returncode}: {result.stderr}"
    return errors


def try_out(python: str, backend: str, resolution: str, wheel: Path, folder: Path) -> dict:
    """Returns the versions of an environment, which is removed, and the error of each step in it."""
    folder.mkdir()
    try:
        interpreter, versions = environment(python, backend, resolution, wheel, folder)
        return {"versions": versions, "errors": {"install": None, **smoke(interpreter, backend, folder)}}
    except RuntimeError as error:
        return {"versions": {}, "errors": {"install": str(error)}}
    finally:
        shutil.rmtree(folder)


def failures(row: dict) -> dict[str, str]:
    return {step: error for step, error in row["errors"].items() if error not in (None, "–")}


def table(rows: list[dict]) -> str:
    steps = list(dict.fromkeys(step for row in rows for step in row["errors"]))
    lines = [
        "# Which versions work together",
        "",
        f"`make compat` on {datetime.date.today()}, {platform.system()} {platform.machine()}. Each row is a fresh",
        "environment with the built wheel and the lowest versions that pyproject.toml admits or the newest there",
        "are. [smoke.py](smoke.py) has the steps. –: the environment has no TensorFlow, which the step needs.",
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
    kinds = {"lowest": "lowest-direct", "newest": "highest"}
    if options.lowest != options.newest:
        kinds = {kind: kinds[kind] for kind in kinds if getattr(options, kind)}
    rows = []
    with tempfile.TemporaryDirectory(prefix="compat") as name:
        folder = Path(name)
        uv("build", "--quiet", "--wheel", "--out-dir", name, str(ROOT))
        for version, backend, kind in itertools.product(chosen, options.backend, kinds):
            begin = time.monotonic()
            rows.append(try_out(here[version], backend, kinds[kind], next(folder.glob("*.whl")), folder / "one"))
            rows[-1] |= {"python": version, "backend": backend, "kind": kind}
            failed = failures(rows[-1])
            said = ", ".join(failed) + " failed" if failed else "all passed"
            print(f"Python {version}, {backend}, {kind}: {said} ({time.monotonic() - begin:.0f} s)", flush=True)
            for step, error in failed.items():
                print(f"--- {step}\n{error}", flush=True)
    if not (options.python or options.lowest != options.newest or list(options.backend) != list(EXTRAS)):
        TABLE.write_text(table(rows), encoding="utf-8")
        print(f"Written: {TABLE}")
    return any(failures(row) for row in rows)


if __name__ == "__main__":
    sys.exit(main())

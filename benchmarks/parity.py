"""Prints how far each backend is from the official code, and the backends from each other, in one table.

    python benchmarks/parity.py                                   # the small cases, on every backend installed
    python benchmarks/parity.py --cases swin --output parity.md   # Tiny to Large
    python benchmarks/parity.py --backends torch jax --policy mixed_bfloat16

The reference is in `tests/data/reference`: logits of the official PyTorch code in float64, for seeded weights and
clips. Logits have unit spread. Each backend runs in a process of its own, on the GPU where it finds one.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import OURS, ROOT, environment, machine


def worker(folder: Path, prefixes: list[str], policy: str) -> None:
    """Computes the logits of every case on the backend of this process; writes them and what it ran on."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import keras
    import reference

    from videoswin_keras.checkpoints.formats import recognise
    from videoswin_keras.models.conversion import build

    logits, built, model = {}, None, None
    for case in reference.cases(prefixes):
        if built != case.manifest:
            built, model = case.manifest, build(recognise(reference.official_state(case.manifest)), dtype=policy)
        logits[case.name] = model.predict(case.clip(), verbose=0)
        print(f"{keras.backend.backend()}: {case.name}", file=sys.stderr)
    np.savez(folder / f"{keras.backend.backend()}.npz", **logits)
    (folder / f"{keras.backend.backend()}.json").write_text(json.dumps(describe(keras.backend.backend())))


def describe(backend: str) -> dict[str, str]:
    """Returns the version of a backend and the device that it computes on."""
    module = importlib.import_module(backend)
    if backend == "torch":
        device = module.cuda.get_device_name() if module.cuda.is_available() else "CPU"
    elif backend == "jax":
        device = module.devices()[0].device_kind
    else:
        device = "GPU" if module.config.list_physical_devices("GPU") else "CPU"
    return {"version": module.__version__, "device": device}


def run(backend: str, folder: Path, prefixes: list[str], policy: str) -> None:
    command = [sys.executable, __file__, "--worker", str(folder), "--policy", policy, "--cases", *prefixes]
    subprocess.run(command, env=environment(backend, policy), check=True)


def table(folder: Path, backends: list[str], prefixes: list[str], policy: str) -> str:
    """Returns the results as Markdown."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import reference

    on = machine()
    found = {backend: dict(np.load(folder / f"{backend}.npz")) for backend in backends}
    ran_on = {backend: json.loads((folder / f"{backend}.json").read_text()) for backend in backends}
    heads = [f"{backend} {ran_on[backend]['version']}, {ran_on[backend]['device']}" for backend in backends]
    lines = [
        f"{policy}, {on['date']}, Keras {on['keras']}, Python {on['python']}, {on['processor']}. "
        "Largest difference of a logit from the official code in float64; "
        "in brackets, of how many clips the five best classes are the same five.",
        "",
        "| case | " + " | ".join(heads) + " | between backends |",
        "|---|" + "---|" * (len(backends) + 1),
    ]
    for case in reference.cases(prefixes):
        expected = case.expected()["logits"]
        cells = []
        for backend in backends:
            logits = found[backend][case.name]
            same = [set(a) == set(b) for a, b in zip(best(logits), best(expected), strict=True)]
            cells.append(f"{np.abs(logits - expected).max():.1e} ({sum(same)}/{len(same)})")
        spread = np.ptp([found[backend][case.name] for backend in backends], axis=0).max()
        lines.append(f"| {case.name} | " + " | ".join(cells) + f" | {spread:.1e} |")
    return "\n".join(lines) + "\n"


def best(logits: np.ndarray) -> np.ndarray:
    return np.argsort(logits, axis=-1)[:, -5:]


def main() -> None:
    installed = [backend for backend in OURS if importlib.util.find_spec(backend)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["nano", "swin_tiny"], help="beginnings of case names")
    parser.add_argument("--backends", nargs="+", choices=OURS, default=installed)
    parser.add_argument("--policy", default="float32", help="dtype policy of the model (default: float32)")
    parser.add_argument("--output", type=Path, help="also append the table to this file")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.cases, options.policy)
        return
    with tempfile.TemporaryDirectory() as folder:
        for backend in options.backends:
            run(backend, Path(folder), options.cases, options.policy)
        text = table(Path(folder), options.backends, options.cases, options.policy)
    print(text)
    if options.output:
        with options.output.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()

"""How near each stage of a model comes to what the machine can do.

    python benchmarks/floor.py            # Tiny, 32 × 224 × 224, batch 1, float32, every backend installed

The floor of a stage is its multiply-adds over the rate at which this machine multiplies large matrices, measured in the
same run: the time it would take if nothing but the products cost anything. Each backend runs in a process of its own.
"""

import argparse
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from speed import OURS, ROOT, machine

SIZE = 2048  # of the matrices


def seconds(call: Callable[[], Any], rounds: int) -> float:
    """Returns the median of what a call takes, after one that does not count."""
    call()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measure(rounds: int) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT))
    import keras
    from keras import ops

    from videoswin_keras import VideoSwinT
    from videoswin_keras.models.cost import multiply_adds

    square = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype("float32")
    block = np.ones(2**26, "float32")
    target = np.empty_like(block)
    left = keras.Input((SIZE,), batch_size=SIZE)
    product = keras.Model(left, ops.matmul(left, ops.convert_to_tensor(square)))
    found: dict[str, Any] = {
        "multiply-adds per second": SIZE**3 / seconds(lambda: product.predict_on_batch(square), 3 * rounds),
        "copied bytes per second": block.nbytes / seconds(lambda: np.copyto(target, block), rounds),
    }
    model = VideoSwinT(num_classes=400)
    costs = multiply_adds(model)
    parts = {}
    for name in costs:
        layer = (model if name == "predictions" else model.backbone).get_layer(name)
        inputs = np.random.default_rng(1).normal(size=(1, *layer.input.shape[1:])).astype("float32")
        alone = keras.Model(layer.input, layer.output)
        parts[name] = seconds(functools.partial(alone.predict_on_batch, inputs), rounds)
    clip = np.zeros((1, *model.input_shape[1:]), "float32")
    parts["whole"] = seconds(lambda: model.predict_on_batch(clip), rounds)
    costs["whole"] = sum(costs.values())
    found["parts"] = {name: {"multiply-adds": costs[name], "seconds": parts[name]} for name in parts}
    return found


def in_each_backend(script: str, measure: Callable[[int], dict[str, Any]], rounds: int) -> tuple[dict, Path] | None:
    """Runs `measure(rounds)` in a process for each backend, and writes what it returned to a JSON file.

    Args:
        script: `__file__` of the caller, which is run again with `--worker`.
        measure: Returns what JSON takes.
        rounds: How many, unless the command line says otherwise.

    Returns:
        What was measured by backend, and the folder of the results; None in a process that measured.
    """
    installed = [backend for backend in OURS if importlib.util.find_spec(backend)]
    parser = argparse.ArgumentParser(
        description=sys.modules["__main__"].__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backends", nargs="+", choices=OURS, default=installed)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(f"found: {json.dumps(measure(options.rounds))}")
        return None
    found = {}
    for backend in options.backends:
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, script, "--worker", "--rounds", str(options.rounds)]
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        line = next(line for line in result.stdout.splitlines() if line.startswith("found: "))
        found[backend] = json.loads(line.removeprefix("found: "))
    options.output.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "found": found}
    (options.output / f"{Path(script).stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    return found, options.output


def table(found: dict[str, dict[str, Any]]) -> str:
    heads = [
        f"{backend} ({one['multiply-adds per second'] / 1e9:.0f} G/s, "
        f"copies {one['copied bytes per second'] / 1e9:.1f} GB/s)"
        for backend, one in found.items()
    ]
    lines = [f"| | G multiply-adds | {' | '.join(heads)} |", f"|---|---|{'---|' * len(heads)}"]
    first = next(iter(found.values()))
    for name, part in first["parts"].items():
        cells = []
        for one in found.values():
            taken = one["parts"][name]["seconds"]
            floor = part["multiply-adds"] / one["multiply-adds per second"]
            cells.append(f"{taken * 1e3:,.0f} ms, {floor / taken:.0%}")
        lines.append(f"| {name} | {part['multiply-adds'] / 1e9:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    if measured := in_each_backend(__file__, measure, rounds=5):
        found, folder = measured
        text = f"{table(found)}\n\n{json.dumps(machine())}\n"
        (folder / "floor.md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()

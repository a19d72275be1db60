"""What the benchmarks share: where and on what they run, and a process for each backend."""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
OURS = ("torch", "jax", "tensorflow")
SIZE = 2048  # of the matrices whose product tells how fast a machine is


def machine() -> dict[str, Any]:
    """Returns the versions and the machine that figures are worth nothing without."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for name in ("keras", "torch", "jax", "tensorflow", "tensorflow_cpu", "torchvision", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "processor": processor(),
        **({"GPU": name} if (name := gpu()) else {}),
        **versions,
    }


def gpu() -> str:
    """Returns the name of NVIDIA's GPUs; nothing where there is none."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return "; ".join(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())
    except (OSError, subprocess.CalledProcessError):
        return ""


def peak_gpu_bytes(backend: str) -> int:
    """Returns the most memory that tensors of this process took on a GPU; 0 without one."""
    if backend == "torch":
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    if backend == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return 0


def environment(backend: str, policy: str) -> dict[str, str]:
    """Returns the variables of a process in which float32 means float32 on a GPU as well, not TF32."""
    return {
        **os.environ,
        "KERAS_BACKEND": backend,
        "JAX_DEFAULT_MATMUL_PRECISION": "highest" if policy == "float32" else "default",
        "NVIDIA_TF32_OVERRIDE": "0",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "1",  # as `videoswin` has it on x86
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def processor() -> str:
    """Returns the processor's name, as Linux knows it, and the widest of its instructions: ratios depend on them."""
    try:
        known = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"model name\s*: (.*)", known)
    widest = next((word for word in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if word in known), "")
    return f"{name[1] if name else platform.machine()} {widest}".strip()


def positive(text: str) -> int:
    """Returns the number that an argument of the command line is."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, received {number}")
    return number


def write_table(path: Path, what: str, table: str) -> None:
    """Writes a table as Markdown, and prints it: what it shows, and on what that was measured."""
    where = ", ".join(f"{name} {value}" for name, value in machine().items())
    path.write_text(f"{what}\n\n{table}\n\nMeasured: {where}.\n")
    print(f"{what}\n\n{table}")


def seconds(call: Callable[[], Any], rounds: int) -> float:
    """Returns the median of what a call takes, after one that does not count."""
    call()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def product_rate(rounds: int) -> float:
    """Returns multiply-adds per second of a large product, as the models have it computed on this backend."""
    sys.path.insert(0, str(ROOT))
    import keras

    from videoswin_keras.nn.dense import linear

    class Product(keras.layers.Layer):
        """A product as the models have it computed: PyTorch's own is not its fastest everywhere."""

        def build(self, input_shape: tuple) -> None:
            self.dense = keras.layers.Dense(SIZE, use_bias=False)
            self.dense.build(input_shape)

        def call(self, x: Any) -> Any:
            return linear(self.dense, x)

    square = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype("float32")
    product = keras.Sequential([keras.Input((SIZE,)), Product()])
    return SIZE**3 / seconds(lambda: product.predict_on_batch(square), rounds)


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
    parser.add_argument("--rounds", type=positive, default=rounds)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(f"found: {json.dumps(measure(options.rounds))}")
        return None
    found = {}
    for backend in options.backends:
        command = [sys.executable, script, "--worker", "--rounds", str(options.rounds)]
        variables = environment(backend, "float32")
        result = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
        line = next(line for line in result.stdout.splitlines() if line.startswith("found: "))
        found[backend] = json.loads(line.removeprefix("found: "))
    options.output.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "found": found}
    (options.output / f"{Path(script).stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    return found, options.output

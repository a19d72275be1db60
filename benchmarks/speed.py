"""How fast and how large ours and torchvision's models are, side by side, in one table.

    python benchmarks/speed.py                                # some of each, `DEFAULT` below
    python benchmarks/speed.py --cells all                    # sizes, batches, dtypes, clips; inference and training
    python benchmarks/speed.py --cells "tiny, inference" --rounds 9
    python benchmarks/speed.py --cells gpu --compiled --unit wall --calls 10 --backends torch jax --name speed_gpu

Each implementation runs in a process of its own, in which the other backends cannot be imported: Keras imports JAX
wherever it is installed, and most have one backend. All of them are built and warmed up first; then they take turns,
one call each, so that whatever else the machine does falls on all alike. The ratio of a round is one call's processor
time (user and system; on a GPU the wall time) over that of torchvision's in the same round. Memory is the process's
peak, and on a GPU that of the backend's allocator; a MB is 2**20 bytes.
"""

import argparse
import functools
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    OURS,
    ROOT,
    SIZE,
    environment,
    gpu,
    machine,
    peak_gpu_bytes,
    positive,
    product_rate,
    seconds,
    write_table,
)
from tqdm import tqdm

PEER, COMPILED = "torchvision", "torchvision compiled"


@dataclass(frozen=True)
class Cell:
    """What is measured: one call of one model on one batch.

    Attributes:
        size: "tiny", "small" or "base".
        mode: "inference" or "training": one step of AdamW on the cross-entropy of 400 classes.
        frames: Of a clip.
        side: Height and width of a clip in pixels.
        batch: Clips.
        dtype: "float32" or "bfloat16" (mixed: weights stay in float32).
        remat: Whether activations are computed again in training; of torchvision's by `torch.utils.checkpoint` around
            each block.
    """

    size: str
    mode: str
    frames: int = 32
    side: int = 224
    batch: int = 1
    dtype: str = "float32"
    remat: bool = False

    def __str__(self) -> str:
        text = f"{self.size}, {self.mode}, {self.batch} × {self.frames} × {self.side}², {self.dtype}"
        return text + (", rematerialised" if self.remat else "")


def all_cells() -> list[Cell]:
    clips = ((32, 224), (16, 112))
    cells = [
        Cell(size, "inference", frames, side, batch, dtype)
        for size in ("tiny", "small", "base")
        for frames, side in clips
        for batch in (1, 4)
        for dtype in ("float32", "bfloat16")
    ]
    cells += [
        Cell(size, "training", frames, side, batch, dtype, remat)
        for size in ("tiny", "small", "base")
        for frames, side in ((8, 224), *clips)
        for batch in (1, 4)
        for dtype in ("float32", "bfloat16")
        for remat in (False, True)
    ]
    return cells


DEFAULT = (
    Cell("tiny", "inference"),
    Cell("tiny", "inference", 16, 112, 4),
    Cell("tiny", "training", 8, 224),
    Cell("tiny", "training", 8, 224, remat=True),
    Cell("tiny", "training"),
    Cell("tiny", "training", remat=True),
    Cell("tiny", "training", 16, 112, 4),
    Cell("tiny", "inference", dtype="bfloat16"),
    Cell("tiny", "training", 8, 224, dtype="bfloat16"),
    Cell("small", "inference"),
    Cell("small", "training", 16, 112),
    Cell("base", "inference"),
    Cell("base", "inference", 16, 112, 4, "bfloat16"),
    Cell("base", "training", 16, 112),
)

GPU = (
    *(Cell("tiny", "inference", batch=batch, dtype="bfloat16") for batch in (1, 8, 32)),
    Cell("tiny", "inference", batch=8),
    *(Cell("tiny", "training", batch=8, dtype="bfloat16", remat=remat) for remat in (False, True)),
)

SETS = {"default": DEFAULT, "gpu": GPU, "all": tuple(all_cells())}


# --- in the process of one implementation ---------------------------------------------------------------------------


def worker(implementation: str, cell: Cell, calls: int) -> None:
    """Builds and warms up, says "ready"; then for each line that comes makes `calls` calls and says what they took."""
    clips = np.random.default_rng(0).normal(size=(cell.batch, cell.frames, cell.side, cell.side, 3)).astype("float32")
    make = ours if implementation in OURS else torchvision
    call = make(cell, clips, implementation == COMPILED)
    for _ in range(2):
        call()
    say({"ready": True})
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(calls):
            call()
        say({"wall": (time.perf_counter() - wall) / calls, "processor": (time.process_time() - processor) / calls})
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        say({"peak_mb": peak, "gpu_mb": peak_gpu_bytes(backend_of(implementation)) / 2**20})


def products(implementation: str) -> None:
    """Says how many multiply-adds per second a large product makes, by the function that the models call for theirs."""
    if implementation in OURS:
        say({"rate": product_rate(15)})
        return
    import torch

    square = torch.randn(SIZE, SIZE)
    say({"rate": SIZE**3 / seconds(lambda: square @ square, 15)})


def backend_of(implementation: str) -> str:
    return implementation if implementation in OURS else "torch"


def say(what: dict[str, Any]) -> None:
    print(f"speed: {json.dumps(what)}", flush=True)


def ours(cell: Cell, clips: np.ndarray, _: bool) -> Callable[[], Any]:
    sys.path.insert(0, str(ROOT))
    sys.modules.update(dict.fromkeys(set(OURS) - {os.environ["KERAS_BACKEND"]}))
    import keras

    from videoswin_keras import AdamW, VideoSwinB, VideoSwinS, VideoSwinT, kernels

    kernels.give_back_after_compilations()  # as the command line does
    build = {"tiny": VideoSwinT, "small": VideoSwinS, "base": VideoSwinB}[cell.size]
    policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[cell.dtype]
    model = build(clips.shape[1:], num_classes=400, use_rematerialization=cell.remat, dtype=policy)
    inputs = keras.ops.convert_to_tensor(clips)  # on the GPU, where there is one, as torchvision's
    if cell.mode == "inference":
        return lambda: model.predict_on_batch(inputs)
    model.compile(AdamW(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    classes = keras.ops.zeros(len(clips), "int32")
    return lambda: model.train_on_batch(inputs, classes)


def torchvision(cell: Cell, clips: np.ndarray, is_compiled: bool) -> Callable[[], Any]:
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "converters")]
    import peers
    import torch
    import torch.utils.checkpoint

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = {"tiny": peers.swin3d_t, "small": peers.swin3d_s, "base": peers.swin3d_b}[cell.size]().to(device)
    forward = torch.compile(model) if is_compiled else model
    inputs = torch.from_numpy(np.ascontiguousarray(clips.transpose(0, 4, 1, 2, 3))).to(device)
    lowered = torch.autocast(device, torch.bfloat16, enabled=cell.dtype == "bfloat16")
    if cell.mode == "inference":
        model.eval()

        def infer() -> None:
            with torch.inference_mode(), lowered:
                forward(inputs).float().cpu().numpy()

        return infer
    model.train()
    if cell.remat:
        for block in (block for stage in model.features[::2] for block in stage):
            block.forward = functools.partial(torch.utils.checkpoint.checkpoint, block.forward, use_reentrant=False)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    classes = torch.zeros(len(clips), dtype=torch.int64, device=device)

    def train() -> None:
        with lowered:
            loss = torch.nn.functional.cross_entropy(forward(inputs).float(), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return train


# --- in the process that compares ------------------------------------------------------------------------------------


class Process:
    """An implementation in a process of its own, ready to be timed."""

    def __init__(self, implementation: str, dtype: str, *arguments: str):
        command = [sys.executable, __file__, *arguments]
        self.complaints = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.pipes = subprocess.Popen(
            command,
            env=environment(backend_of(implementation), dtype),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            text=True,
        )
        self.rounds: list[dict[str, float]] = []
        self.peaks: dict[str, float] = {}

    def hear(self) -> dict[str, Any]:
        for line in self.pipes.stdout or ():
            if line.startswith("speed: "):
                return json.loads(line.removeprefix("speed: "))
        code = self.pipes.wait()
        self.complaints.seek(0)
        last = "".join(self.complaints.readlines()[-3:])
        raise RuntimeError(f"ended with code {code}: {last.strip()}")

    def run(self) -> None:
        assert self.pipes.stdin
        self.pipes.stdin.write("go\n")
        self.pipes.stdin.flush()
        self.rounds.append(self.hear())
        self.peaks = self.hear()


def measure(cell: Cell, implementations: list[str], rounds: int, calls: int, bar: tqdm) -> dict[str, Any]:
    """Returns what each implementation took in each round, and its peak memory; the warm-up is one step of `bar`."""
    what = json.dumps(asdict(cell))
    processes = {name: Process(name, cell.dtype, "--worker", name, what, str(calls)) for name in implementations}
    try:
        for step in (Process.hear, *[Process.run] * rounds):  # they warm up together, to save time
            for name, process in list(processes.items()):
                try:
                    step(process)
                except (RuntimeError, OSError) as error:  # not enough memory, or nothing that compiles
                    tqdm.write(f"{cell}, {name}: {error}", file=sys.stderr)
                    processes.pop(name).pipes.kill()
            bar.update()
    finally:
        for process in processes.values():
            process.pipes.kill()
    found = {name: {"rounds": process.rounds, **process.peaks} for name, process in processes.items()}
    return {"cell": asdict(cell), "found": found}


def ratios(found: dict[str, Any], name: str, unit: str) -> list[float]:
    """Returns, sorted, what `name` took over what torchvision took in the same round."""
    pairs = zip(found[name]["rounds"], found[PEER]["rounds"], strict=True)
    return sorted(own[unit] / other[unit] for own, other in pairs)


def table(reports: list[dict[str, Any]], unit: str) -> str:
    """Returns the measurements as Markdown: of each implementation the ratio, its spread, seconds and memory."""
    names = list(dict.fromkeys(name for report in reports for name in report["found"]))
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for report in reports:
        found, cells = report["found"], []
        for name in names:
            if name not in found:
                cells.append("failed or not run")
                continue
            seconds = statistics.median(one["wall"] for one in found[name]["rounds"])
            memory = found[name]["gpu_mb"] or found[name]["peak_mb"]
            text = f"{seconds:.3g} s, {memory:,.0f} MB"
            if name != PEER:
                over = ratios(found, name, unit)
                if unit != "wall":
                    text = f"wall {statistics.median(ratios(found, name, 'wall')):.2f}, {text}"
                text = f"**{statistics.median(over):.2f}** ({over[0]:.2f}–{over[-1]:.2f}); {text}"
            cells.append(text)
        lines.append(f"| {Cell(**report['cell'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(reports: list[dict[str, Any]], unit: str, path: Path) -> None:
    """Draws the ratios to torchvision, time and memory, as points with their spread."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.2 + 0.45 * len(reports)), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2, sharey=True)
    names = list(dict.fromkeys(name for report in reports for name in report["found"] if name != PEER))
    for place, name in enumerate(names):
        measured = {row: report["found"] for row, report in enumerate(reports) if name in report["found"]}
        rows = [row + 0.15 * (place - (len(names) - 1) / 2) for row in measured]
        over = [ratios(found, name, unit) for found in measured.values()]
        middle = [statistics.median(one) for one in over]
        spread = [
            [m - one[0] for m, one in zip(middle, over, strict=True)],
            [one[-1] - m for m, one in zip(middle, over, strict=True)],
        ]
        time_axes.errorbar(middle, rows, xerr=spread, fmt="o", label=name)
        memory = "gpu_mb" if reports[0]["found"][PEER]["gpu_mb"] else "peak_mb"
        memory_axes.plot([found[name][memory] / found[PEER][memory] for found in measured.values()], rows, "o")
    for axes, title in ((time_axes, f"{unit} time"), (memory_axes, "peak memory")):
        axes.axvline(1, color="grey", linewidth=1)
        axes.set_xlim(left=0)
        axes.set_title(f"{title}, torchvision = 1", loc="left", fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    time_axes.set_yticks(range(len(reports)), [str(Cell(**report["cell"])) for report in reports])
    time_axes.invert_yaxis()
    time_axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=110)


def chosen(names: list[str]) -> list[Cell]:
    """Returns the cells of sets, and those with a name in theirs; × may be an x, and ² left out."""

    def plain(text: str) -> str:
        return text.replace("×", "x").replace("²", "")

    found: dict[Cell, None] = {}  # in order
    for name in names:
        found |= dict.fromkeys(SETS.get(name) or [cell for cell in all_cells() if plain(name) in plain(str(cell))])
    return list(found)


def main() -> None:
    installed = [backend for backend in OURS if importlib.util.find_spec(backend)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cells", nargs="+", default=["default"], help='"default", "gpu", "all", or parts of their names'
    )
    parser.add_argument("--backends", nargs="+", choices=OURS, default=installed)
    parser.add_argument("--compiled", action="store_true", help="torchvision too, in inference (minutes on a CPU)")
    parser.add_argument("--rounds", type=positive, default=5, help="calls of each in turn (default: %(default)s)")
    parser.add_argument("--calls", type=positive, default=1, help="in a round: more on a GPU (default: %(default)s)")
    parser.add_argument("--unit", choices=("processor", "wall"), default="processor", help="of the ratios")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder")
    parser.add_argument("--name", default="speed_cpu", help="of the files (default: %(default)s)")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--products", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker[0], Cell(**json.loads(options.worker[1])), int(options.worker[2]))
        return
    if options.products:
        products(options.products)
        return
    cells = chosen(options.cells)
    if not cells:
        sets = ", ".join(SETS)
        parser.error(f"--cells takes {sets}, or a part of a name like '{all_cells()[0]}'. Received: {options.cells}.")
    rates = {}
    for name in () if gpu() else (PEER, *options.backends):
        process = Process(name, "float32", "--products", name)
        try:
            rates[name] = round(process.hear()["rate"] / 1e9)
        except RuntimeError as error:
            sys.exit(f"{name} {error}")
        process.pipes.wait()
    reports, failures = [], 0
    options.output.mkdir(parents=True, exist_ok=True)
    bar = tqdm(desc="rounds", total=len(cells) * (1 + options.rounds), disable=None)
    for cell in cells:
        peers = [PEER, *([COMPILED] if options.compiled and cell.mode == "inference" else [])]
        report = measure(cell, [*peers, *options.backends], options.rounds, options.calls, bar)
        if PEER not in report["found"]:  # nothing to compare with
            failures += 1
            continue
        reports.append(report)
        tqdm.write(table(reports[-1:], options.unit))
        sys.stdout.flush()
        whole = {"machine": machine(), "products": rates, "unit": options.unit, "reports": reports}
        (options.output / f"{options.name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    bar.close()
    if reports:
        what = (
            f"A call's {options.unit} time over that of torchvision, {options.rounds} times in turn: median "
            "(least–most). Then its wall time, over torchvision's and in seconds, and the peak memory of the process, "
            "or of the GPU."
        )
        if rates:
            each = ", ".join(f"{name} {rate}" for name, rate in rates.items())
            what += f" G multiply-adds per second of a product of {SIZE}³ in float32, on which ratios depend: {each}."
        write_table(options.output / f"{options.name}.md", what, table(reports, options.unit))
        draw(reports, options.unit, options.output / f"{options.name}.png")
    if failures:
        sys.exit(f"torchvision failed in {failures} of {len(cells)} cells, which are not in the table: see above.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Stopped. The JSON file holds the cells that were measured, if any; table and plot were not written.")

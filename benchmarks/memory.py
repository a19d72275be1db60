"""How much GPU memory Tiny and Small with a memory take, for inference and for training, and whether that stays.

    python benchmarks/memory.py                  # on PyTorch and JAX, each case in a process of its own
    python benchmarks/memory.py --output gpu.md  # appends the table

Clips are 32 × 224 × 224, batch 1, mixed bfloat16; training with rematerialisation, of sequences of 1 and of 4 clips.
The stream is 450 steps: 30 minutes at 2 frames per second, a clip every 8 frames. Measured is what the backend's
tensors took at most; the context and the libraries of CUDA (some hundred megabytes) and what the allocator keeps
besides come on top.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from common import ROOT, environment, machine, peak_gpu_bytes
from tqdm import tqdm

BACKENDS = ("torch", "jax")
SIZES = ("tiny", "small")
MODES = ("inference", "training, 1 clip", "training, 4 clips")
# What the system that this memory was designed for reports, in GB.
PUBLISHED = {
    ("tiny", "inference"): "2.5–3.5",
    ("small", "inference"): "3.5–5.0",
    ("tiny", "training, 1 clip"): "4–6",
    ("small", "training, 1 clip"): "7–9",
}
STEPS = 450


def worker(size: str, mode: str, steps: int) -> None:
    sys.path.insert(0, str(ROOT))
    import keras

    from videoswin_keras import AdamW, VideoSwinS, VideoSwinT
    from videoswin_keras.models.recurrent import flatten

    backend, rng = keras.backend.backend(), np.random.default_rng(0)
    build = {"tiny": VideoSwinT, "small": VideoSwinS}[size]
    training = mode.startswith("training")
    model = build((32, 224, 224, 3), num_classes=3, memory=True, use_rematerialization=training, dtype="mixed_bfloat16")
    after_warm_up = None
    if training:
        model.compile(AdamW(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        clips = int(mode.split()[1])
        sequence = rng.normal(size=(1, clips, 32, 224, 224, 3)).astype("float32")
        for _ in range(3):
            model.train_on_batch(sequence, np.zeros((1, clips)))
    else:
        step, clip = model.step_model(), rng.normal(size=(1, 32, 224, 224, 3)).astype("float32")
        state = [np.array(keras.ops.convert_to_numpy(part)) for part in flatten(model.initial_state(1))]
        for index in range(steps):
            _, *state = step.predict_on_batch([clip, *state])
            if index == min(30, steps - 1):  # past the length of the queue
                after_warm_up = peak_gpu_bytes(backend) / 1e9
    print(json.dumps({"peak": peak_gpu_bytes(backend) / 1e9, "after warm-up": after_warm_up}))


def run(backend: str, size: str, mode: str, steps: int) -> dict[str, float | None]:
    command = [sys.executable, __file__, "--worker", size, mode, "--steps", str(steps)]
    variables = environment(backend, "mixed_bfloat16")
    result = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def table(backends: list[str], sizes: list[str], steps: int) -> str:
    def shown(value: float | None) -> str:
        return f"{value:.2f}" if value else "not yet measured"

    lines = [
        "## Peak GPU memory in GB",
        "",
        f"{', '.join(f'{name} {value}' for name, value in machine().items())}.",
        "",
        "32 × 224 × 224, batch 1, mixed bfloat16, training with rematerialisation.",
        "",
        f"| model | | {' | '.join(backends)} | published |",
        f"|---|---|{'---|' * len(backends)}---|",
    ]
    growth = []
    for size, mode in tqdm([(size, mode) for size in sizes for mode in MODES], "cases", disable=None):
        found = {backend: run(backend, size, mode, steps) for backend in backends}
        peaks = " | ".join(shown(found[backend]["peak"]) for backend in backends)
        lines.append(f"| {size} with a memory | {mode} | {peaks} | {PUBLISHED.get((size, mode), '')} |")
        for backend, one in found.items():
            if one["peak"] and one["after warm-up"]:
                growth.append(f"{size} on {backend} {one['peak'] / one['after warm-up'] - 1:.2%}")
    lines += ["", f"Growth over {steps} steps of a stream: {', '.join(growth) or 'not yet measured'}."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--steps", type=int, default=STEPS, help="of the stream (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="file to append the table to")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker, options.steps)
        return
    text = table(options.backends, options.sizes, options.steps)
    print(text)
    if options.output:
        with options.output.open("a", encoding="utf-8") as file:
            file.write(f"\n{text}\n")


if __name__ == "__main__":
    main()

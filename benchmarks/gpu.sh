#!/usr/bin/env bash
# What a CUDA machine shows, in one command and without network; it needs no TensorFlow.
#   bash benchmarks/gpu.sh [FILE]                       appends its tables to FILE, else to benchmarks/results/gpu.md
#   PYTHON=/path/to/python bash benchmarks/gpu.sh       with another Python than `python3`
# That Python needs PyTorch and JAX with CUDA, and keras, h5py, torchvision, tqdm, matplotlib. The table of speeds goes
# to benchmarks/results/speed_gpu.md, with its JSON and a plot. Meant to take less than ten minutes: not yet measured.
set -euo pipefail
cd "$(dirname -- "$0")/.."
output=${1:-benchmarks/results/gpu.md}
if [[ $output == -* ]]; then
    sed -n '2,6s/^# //p' benchmarks/gpu.sh
    exit 2
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" KERAS_BACKEND=torch  # where no process has another
python=${PYTHON:-python3}

"$python" - <<'END'
import importlib.util
import sys

needed = ("torch", "jax", "keras", "h5py", "torchvision", "tqdm", "matplotlib")
if missing := [name for name in needed if not importlib.util.find_spec(name)]:
    sys.exit(f"{sys.executable} has no {', '.join(missing)}. Name another by PYTHON=/path/to/python.")
import jax
import torch

if not torch.cuda.is_available():
    sys.exit(f"PyTorch {torch.__version__} of {sys.executable} sees no CUDA device.")
if jax.default_backend() != "gpu":
    sys.exit(f"JAX {jax.__version__} of {sys.executable} sees no GPU: has it been installed with CUDA?")
END
mkdir -p -- "$(dirname -- "$output")"

# Parity with the official numbers: float32 with TF32 off, then bfloat16 (the five best classes must stay).
"$python" benchmarks/parity.py --backends torch jax --output "$output"
"$python" benchmarks/parity.py --backends torch jax --policy mixed_bfloat16 --output "$output"

# Speed and memory beside torchvision, eager and compiled.
"$python" benchmarks/speed.py --cells gpu --compiled --unit wall --calls 10 --backends torch jax --name speed_gpu

# Peak memory of a model with a memory, for inference and training, and over a stream of six minutes.
"$python" benchmarks/memory.py --sizes tiny --steps 100 --output "$output"

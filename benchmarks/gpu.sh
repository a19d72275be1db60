#!/usr/bin/env bash
# What a CUDA machine shows, in one command and without network; it needs no TensorFlow.
#   bash benchmarks/gpu.sh [FILE]                              appends its tables to FILE, else to results/gpu.md
#   PYTHON=.venv/bin/python bash benchmarks/gpu.sh             with another Python than `python3`
# The table of speeds goes to benchmarks/results/speed_gpu.md, with its JSON and a plot.
# It is meant to take less than ten minutes: not yet measured.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-benchmarks/results/gpu.md}
mkdir -p "$(dirname "$output")"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" KERAS_BACKEND=torch  # where no process has another
python=${PYTHON:-python3}

"$python" -c 'import h5py, jax, keras, matplotlib, torch, torchvision, tqdm
assert torch.cuda.is_available(), "PyTorch sees no CUDA device"
assert jax.default_backend() == "gpu", "JAX sees no GPU"'

# Parity with the official numbers: float32 with TF32 off, then bfloat16 (the five best classes must stay).
"$python" benchmarks/parity.py --backends torch jax --output "$output"
"$python" benchmarks/parity.py --backends torch jax --policy mixed_bfloat16 --output "$output"

# Speed and memory beside torchvision, eager and compiled.
"$python" benchmarks/speed.py --cells gpu --compiled --unit wall --calls 10 --backends torch jax --name speed_gpu

# Peak memory of a model with a memory, for inference and training, and over a stream of six minutes.
"$python" benchmarks/memory.py --sizes tiny --steps 100 --output "$output"

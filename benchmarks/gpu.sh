#!/usr/bin/env bash
# What a CUDA machine shows, in one command: no network and no TensorFlow needed, only PyTorch, JAX and Keras.
#   bash benchmarks/gpu.sh [FILE]     appends its tables to FILE (default: benchmarks/results/gpu.md)
# The table of speeds goes to benchmarks/results/speed_gpu.md, with its JSON and a plot.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-benchmarks/results/gpu.md}
mkdir -p "$(dirname "$output")"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" XLA_PYTHON_CLIENT_PREALLOCATE=false
python=${PYTHON:-python3}

"$python" -c 'import torch; assert torch.cuda.is_available(), "PyTorch sees no CUDA device"'
"$python" -c 'import jax; assert jax.default_backend() == "gpu", "JAX sees no GPU"'

# Parity with the official numbers: float32 with TF32 off, then bfloat16 (the five best classes must stay).
"$python" benchmarks/parity.py --backends torch jax --cases nano swin --output "$output"
"$python" benchmarks/parity.py --backends torch jax --cases nano swin --policy mixed_bfloat16 --output "$output"

# Speed and memory beside torchvision, eager and compiled.
"$python" benchmarks/speed.py --cells gpu --compiled --unit wall --calls 10 --backends torch jax --name speed_gpu

# Peak memory of models with a memory, for inference and training, and over a stream of half an hour.
"$python" benchmarks/memory.py --output "$output"

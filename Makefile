# Everything runs in its own virtual environment, .venv, made on first use from the pinned versions.
PYTHON ?= python3
VENV := .venv
# One that is complete is used, unless another Python is asked for: `make test PYTHON=python3.13`.
HERE := $(shell cat $(VENV)/installed 2>/dev/null)
PRINT_VERSION := import sys; print("%d.%d" % sys.version_info[:2])
ASKED := $(if $(filter command% environment%,$(origin PYTHON)),$(shell $(PYTHON) -c '$(PRINT_VERSION)'))
ANEW := $(if $(HERE),$(filter-out $(HERE),$(ASKED)),anew)
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# PyTorch's own index has builds for CPUs, without gigabytes of CUDA libraries; PyPI's are taken where it is out of reach.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help setup anew lint test test-all fuzz compat constraints demo parity bench notebooks clean

help:
	@echo "make demo      classify synthetic videos and a night with the small model that ships"
	@echo "make test      lint, types, and the tests on every backend"
	@echo "make test-all  the same and the large reference cases"
	@echo "make fuzz      damage files at random, and read them: three minutes, or FUZZ='--minutes 60 --seed 7'"
	@echo "make compat    every Python that is here, every backend, the lowest and the newest versions: gigabytes, half an hour"
	@echo "make notebooks run the notebooks anew, and keep their outputs"
	@echo "make parity    the table of differences from the official code, on every backend"
	@echo "make bench     speed and memory beside torchvision, the floor, how cost grows, cold start"

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt $(if $(ANEW),anew)
	$(PIP) --retries 1 --extra-index-url $(TORCH_INDEX) torch
	$(PIP) hatchling hatch-fancy-pypi-readme editables  # what pyproject.toml asks for, pinned too
	$(PIP) --no-build-isolation -e ".[dev]"
	$(BIN)/python -c '$(PRINT_VERSION)' > $@

anew:
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit( \
		"The pinned versions are for Python 3.11 to 3.13; $(PYTHON) is %d.%d. " % sys.version_info[:2] + \
		"Name another, as: make $(firstword $(MAKECMDGOALS) setup) PYTHON=python3.12")'
	@test ! -e $(VENV) || test -e $(VENV)/made-by-make || { echo "$(VENV) is not from this Makefile." \
		"Remove it, or name another: make $(firstword $(MAKECMDGOALS) setup) VENV=.venv-make" >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	touch $(VENV)/made-by-make

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# All tests run on one backend; on the others those that compute. In two processes: compilers use one core.
PYTEST := $(BIN)/pytest -n 2
COMPUTING := tests/kernels tests/nn tests/models tests/training tests/streaming/test_stream.py
test: lint
	KERAS_BACKEND=jax $(PYTEST) $(COMPUTING) -m "not large and not one_backend"
	KERAS_BACKEND=tensorflow $(PYTEST) $(COMPUTING) -m "not large and not one_backend"
	KERAS_BACKEND=torch $(PYTEST)

# What is found is printed with its seed, and kept. One thread, or the process could not be forked.
FUZZ ?= --minutes 3
fuzz: setup
	OMP_NUM_THREADS=1 KERAS_BACKEND=torch PYTHONPATH=tests/checkpoints:converters $(BIN)/python tests/fuzz.py $(FUZZ)

# New releases are seen here before users see them; what passed is in tests/compat/README.md.
compat: setup
	$(BIN)/python tests/compat/run.py

# The newest versions that fit together, for Python 3.11 to 3.13. PyTorch stays at one that has a small build for CPUs
# wherever this is tested. The newest TensorFlow does not accept the newest h5py: the newest TensorFlow is taken.
PINS := torch==2.13.0 tensorflow>=2.21 tensorflow-cpu>=2.21
constraints: setup
	printf '%s\n' $(PINS:%='%') | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
		--extra dev --no-annotate --no-header --constraint /dev/stdin --output-file constraints.txt pyproject.toml

demo: setup
	KERAS_BACKEND=torch $(BIN)/videoswin demo

parity: setup
	$(BIN)/python benchmarks/parity.py

bench: setup
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/floor.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/cold_start.py

test-all: test
	for backend in jax tensorflow; do KERAS_BACKEND=$$backend $(BIN)/pytest -m "large and not one_backend" || exit 1; done
	KERAS_BACKEND=torch $(BIN)/pytest -m large

# Runs the notebooks anew and keeps their outputs; without oneDNN, which TensorFlow announces in them.
notebooks: setup
	cd notebooks && TF_ENABLE_ONEDNN_OPTS=0 ../$(BIN)/jupyter execute --inplace *.ipynb

clean:
	rm -rf $(VENV) demo

# Developer verbs. `make demo` and `make test` are all that a fresh machine needs.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
MODEL  := src/glc/default_model
LABEL  := demonstration: a small model after two hours of training on two CPU cores; no measure of GLC

.PHONY: setup demo test check bench default-model clean

setup: $(READY)

# torch first, at the version that is a CPU build: a bare "torch" pulls several GB of CUDA.
$(READY): pyproject.toml constraints-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints-dev.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints-dev.txt -e '.[dev]'
	touch $@

demo: $(READY)
	mkdir -p build
	$(BIN)/glc demo -o build/demo.png

# Writes the embedded bundle anew; needed after a change of weights, graphs or formats.
default-model: $(READY)
	$(BIN)/glc-export --ckpt $(MODEL)/weights.safetensors --label "$(LABEL)" --container zip -o $(MODEL)/demo.glcb

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

bench: $(READY)
	$(BIN)/glc-bench rate --ckpt $(MODEL)/weights.safetensors --bundle $(MODEL)/demo.glcb tests/data/images/*.png
	$(BIN)/glc-bench startup --bundle $(MODEL)/demo.glcb --image tests/data/images/coffee_200x300.png

clean:
	rm -rf build dist $(VENV)

# Developer verbs. `make demo` and `make test` are all that a fresh machine needs.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PHOTO  := examples/photos/coffee.png
DEMO   := examples/train_demo/demo.safetensors
LABEL  := demonstration after minutes of training: shows how files are made, not how good GLC is

.PHONY: setup demo test check bench clean

setup: $(READY)

# torch first, at the version that is a CPU build: a bare "torch" pulls several GB of CUDA.
$(READY): pyproject.toml constraints-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints-dev.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints-dev.txt -e '.[dev]'
	touch $@

build/default.glcb: $(READY) $(DEMO) $(wildcard export/*.py runtime/*.py)
	mkdir -p build
	$(BIN)/glc-export --ckpt $(DEMO) --label "$(LABEL)" -o $@
	touch $@

demo: build/default.glcb
	$(BIN)/glc demo $(PHOTO) --bundle build/default.glcb -o build/demo.png

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

bench: build/default.glcb
	$(BIN)/glc-bench rate --ckpt $(DEMO) --bundle build/default.glcb tests/data/images/*.png
	$(BIN)/glc-bench startup --bundle build/default.glcb --image tests/data/images/coffee_200x300.png

clean:
	rm -rf build dist $(VENV)

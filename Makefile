# Developer verbs. `make demo` and `make test` are all that a fresh machine needs.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
MODEL  := src/glc/default_model
# A process takes up to 7 GB; more than two help where there are more cores: make test WORKERS=8.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal
LABEL  := demonstration: a small model after two hours of training on two CPU cores; no measure of GLC

.PHONY: setup demo test check triton-test bench targets gpu default-model lean clean

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

# Writes the embedded bundle anew; needed after a change of weights, graphs or formats. Without tiles, which double it.
default-model: $(READY)
	$(BIN)/glc-export --ckpt $(MODEL)/weights.safetensors --label "$(LABEL)" --container zip --no-tiles -o $(MODEL)/demo.glcb

test: $(READY)
	$(PYTEST)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

# examples/triton needs an older NumPy than ours, and the system's Python, whose libpython Triton loads
# (Debian: python3-venv libpython3-dev). Half a minute, 0.5 GB.
TRITON_PYTHON ?= /usr/bin/python3
TRITON_VENV   := .venv-triton

$(TRITON_VENV)/.ready: pyproject.toml examples/triton/requirements.txt
	$(TRITON_PYTHON) -m venv $(TRITON_VENV)
	$(TRITON_VENV)/bin/pip install --quiet --disable-pip-version-check -r examples/triton/requirements.txt -e '.[cpu]'
	touch $@

# A real Triton Inference Server on the CPU, on free ports of the loopback. About a minute.
triton-test: $(READY) $(TRITON_VENV)/.ready
	GLC_TRITON_PYTHON=$(CURDIR)/$(TRITON_VENV)/bin/python $(BIN)/python -m pytest tests/examples/test_triton.py

# Tables of record: $(call record,NAME,COMMAND) writes docs/benchmarks/NAME.md and, from the last line, NAME.json.
RECORD := docs/benchmarks
record  = $(BIN)/glc-bench $(2) --markdown > build/$(1).txt && head -n -1 build/$(1).txt > $(RECORD)/$(1).md \
          && tail -n 1 build/$(1).txt > $(RECORD)/$(1).json

build/%.glcb: | $(READY)
	mkdir -p build
	$(BIN)/glc-export --synthetic $* -o $@

# PEER_PYTHON=/path/to/python names an interpreter that has the peers, which need an older NumPy than ours.
PEERS := $(if $(PEER_PYTHON),--peer compressai --peer neuralcompression --peer-python $(PEER_PYTHON))

# PHOTOS=/path/to/photographs names the folder that quality is measured on; that table is left as it is without.
QUALITY := --max-side 1024 --against jpeg --against webp --against avif --against jxl --plot $(RECORD)/quality-demo.png

# Nothing else may run meanwhile. About half an hour on two cores.
bench: $(READY) build/natural.glcb build/facial.glcb
	mkdir -p $(RECORD)
	$(call record,table-natural,table --config natural -b build/natural.glcb -n 3 $(PEERS))
	$(call record,table-facial,table --config facial -b build/facial.glcb -n 3 $(PEERS))
	$(call record,table-demo,table --config demo -n 3)
	$(call record,stages-natural,stages -b build/natural.glcb --plot $(RECORD)/stages-natural.png)
	$(call record,scale-demo,scale -b $(MODEL)/demo.glcb --max-seconds 300 --plot $(RECORD)/scale-demo.png)
	$(call record,roofline-natural-a100,roofline -b build/natural.glcb --device a100-40g --entropy-ms 6.8 11.7)
	$(call record,rate-demo,rate --ckpt $(MODEL)/weights.safetensors -b $(MODEL)/demo.glcb tests/data/images/*.png)
	$(call record,startup,startup -b $(MODEL)/demo.glcb --image tests/data/images/coffee_200x300.png)
	$(if $(PHOTOS),$(call record,quality-demo,quality -b $(MODEL)/demo.glcb --data $(PHOTOS) $(QUALITY)))

# Compiles the published configurations for every card that TensorRT for RTX knows of ours; needs no GPU, about 6 minutes.
targets: $(READY) build/natural.glcb build/facial.glcb
	for model in natural facial; do \
	  $(BIN)/glc-export --bundle build/$$model.glcb --target sm80 --target sm86 --target sm89 --target sm120 || exit 1; done

# On a machine with an NVIDIA GPU: compiles for it, proves parity, portability, memory and threads on it, writes the
# tables. LIBRARY=tensorrt takes TensorRT, which must be in $(VENV) then, in place of TensorRT for RTX.
LIBRARY ?= tensorrt_rtx

gpu: $(READY) build/natural.glcb build/facial.glcb
	mkdir -p $(RECORD)
	$(BIN)/glc-export --bundle build/natural.glcb --target here --library $(LIBRARY)
	$(BIN)/glc-export --bundle build/facial.glcb --target here --library $(LIBRARY) --typical 512x512
	cp $(MODEL)/demo.glcb build/demo.glcb
	$(BIN)/glc-export --bundle build/demo.glcb --target here --library $(LIBRARY)
	$(BIN)/python -m pytest -m gpu tests/gpu
	$(call record,gpu-exact-demo,exact --ckpt $(MODEL)/weights.safetensors -b build/demo.glcb tests/data/images/*.png)
	$(call record,gpu-exact-natural,exact --crops 20 -b build/natural.glcb tests/data/images/*.png)
	$(call record,gpu-table-natural,table --config natural -b build/natural.glcb -n 20)
	$(call record,gpu-table-facial,table --config facial -b build/facial.glcb -n 20)

# What an install for deployment weighs, in a fresh environment: make lean, or make lean ENGINE=openvino.
ENGINE    ?= cpu
LEAN_SITE  = $$(echo build/lean/lib/python*/site-packages)

lean:
	rm -rf build/lean && $(PYTHON) -m venv build/lean
	build/lean/bin/pip install --quiet --disable-pip-version-check --no-compile '.[$(ENGINE)]'
	build/lean/bin/pip uninstall --quiet --disable-pip-version-check --yes setuptools pip
	@test ! -e $(LEAN_SITE)/torch || { echo "torch was installed"; exit 1; }
	@files=$$(du -s --apparent-size -B1000000 $(LEAN_SITE) | cut -f1); build/lean/bin/python -m compileall -q $(LEAN_SITE) >/dev/null; \
	  echo "glc-deploy[$(ENGINE)]: $$files MB, $$(du -s --apparent-size -B1000000 $(LEAN_SITE) | cut -f1) MB with pip's byte code"
	build/lean/bin/python -c "import glc; codec = glc.Codec.open(); codec.decode(codec.encode(memoryview(bytes(12)).cast('B', (2, 2, 3))))"

clean:
	rm -rf build dist $(VENV) $(TRITON_VENV)

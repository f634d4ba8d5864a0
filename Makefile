# resight: `make demo` shows the main job, `make test` proves it. Both set themselves up.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
SERVE_VENV := .venv-serve
BIN := $(VENV)/bin
PIP_FLAGS := --quiet --disable-pip-version-check -c constraints.txt
# A file's tests share what they made, so they stay in one process; tiny networks need one thread.
# Files run in the order given: at the end no process waits for another one's long file.
PYTEST := -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
# Each file runs once, without torch where it can: one that cannot skips itself by the line that is
# looked for here.
SERVING_TESTS := tests/e2e tests/faults tests/cli tests/service tests/models tests/contract
SLOW_TESTS := tests/benchmarks tests/adapt/workflows
TORCH_TESTS := $(shell grep -rl 'importorskip."torch"' $(SERVING_TESTS)) $(SLOW_TESTS) \
	$(filter-out tests/support tests/adapt %.py $(SERVING_TESTS) $(SLOW_TESTS), \
	$(wildcard tests/[a-z]* tests/adapt/[a-z]*)) $(wildcard tests/adapt/test_*.py)
# Percent of the lines of adapt, cli, models and service that the tests of both environments run.
COVERAGE_FLOOR := 97

# Without bytecode on disk each process that a test starts compiles all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo check test test-fast test-serving faults mutants release bench proto format clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "resight needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	@echo "setting up $(VENV) (some minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install $(PIP_FLAGS) -e ".[cpu,adapt,dev]"
	@touch $@

# What a serving machine has: no torch. Kept apart so that an import of torch cannot hide.
$(SERVE_VENV)/.ready: pyproject.toml constraints.txt
	@echo "setting up $(SERVE_VENV) (serving only, without torch)"
	@$(PYTHON) -m venv $(SERVE_VENV)
	@$(SERVE_VENV)/bin/pip install $(PIP_FLAGS) -e ".[cpu,test]"
	@touch $@

demo: setup
	$(BIN)/resight demo --out demo-out

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/python -m tools.check_wire
	$(BIN)/python tools/generate_proto.py --check
	$(BIN)/python tools/check_words.py

test test-fast test-serving faults: export OMP_NUM_THREADS ?= 1

test: setup test-serving
	$(BIN)/python -m slipcover --out .coverage-torch.json $(PYTEST) $(TORCH_TESTS)
	$(BIN)/python -m slipcover --fail-under $(COVERAGE_FLOOR) --out .coverage-all.json \
		--merge .coverage-serving.json .coverage-torch.json

# For the inner loop: no training, no servers, no other processes, no networks of full size.
test-fast: setup
	$(BIN)/python $(PYTEST) -m "not slow and not long"

# What serves, where torch cannot be imported.
test-serving: $(SERVE_VENV)/.ready
	@! $(SERVE_VENV)/bin/python -c 'import torch' 2>/dev/null || { echo "$(SERVE_VENV) has torch: remove it and run make again"; exit 1; }
	$(SERVE_VENV)/bin/python -m slipcover --out .coverage-serving.json $(PYTEST) $(SERVING_TESTS)

# The service under attack, the long tests too: one at a time, as each measures its own process.
faults: setup
	$(BIN)/python -m pytest -m "" tests/faults

# Breaks the code in 72 places, drawn by a seed, and lists those that no test notices. Takes an hour.
mutants: setup
	$(BIN)/python -m tools.mutants

# Wheel and sdist in dist/, after the wheel has served in an environment of its own.
release: setup
	$(BIN)/python -m tools.release

bench: setup
	$(BIN)/python -m benchmarks

proto: setup
	$(BIN)/python tools/generate_proto.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(SERVE_VENV) demo-out dist .coverage-*.json

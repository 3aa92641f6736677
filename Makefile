# Everything happens in .venv, with the versions and hashes in requirements/*.txt. Nothing is needed beforehand but
# Python >= 3.11 and make: Node comes from PyPI too.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
NPM := cd web && ../$(PY) ../tools/npm.py

# A file or a folder that changes here means that the page has to be built again (a folder changes when a file goes).
PAGE_SOURCES := $(shell find web/src web/public web/*.html web/*.json web/*.ts web/*.js 2>/dev/null)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- running ----------------------------------------------------------------------------------------------------------

.PHONY: run
run: .venv/run.stamp web/dist/index.html ## Start the server at http://127.0.0.1:8080 (ARGS="--port 9000" passes flags)
	@exec $(PY) -m chatserver serve $(ARGS)

# --- checking ---------------------------------------------------------------------------------------------------------

# Each step of `make test` runs even when one before it failed, so that one run tells everything; pytest comes last, and
# its closing line is the last thing printed. Two at a time: half of the tests' time is waiting for browsers and servers.
CHECKS := imports lint types web-check web-test
TWO_AT_A_TIME := --no-print-directory --keep-going --jobs 2 $(if $(filter output-sync,$(.FEATURES)),--output-sync)

.PHONY: test
test: .venv/dev.stamp web/dist/index.html ## Run every check and every test (PYTEST_ARGS="-k stream" passes flags)
	@failed=; \
	echo "== $(CHECKS)"; \
	$(MAKE) $(TWO_AT_A_TIME) $(CHECKS) || failed=yes; \
	[ -z "$$failed" ] || echo "== some of these checks failed: $(CHECKS)"; \
	echo "== pytest"; \
	$(PY) -m pytest -n 2 --dist worksteal $(PYTEST_ARGS) && [ -z "$$failed" ]

.PHONY: check
check: lint types imports ## Check style, types and layers, without running tests

.PHONY: lint
lint: .venv/dev.stamp ## Check style and formatting
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

.PHONY: types
types: .venv/dev.stamp ## Check types
	@$(PY) -m mypy

.PHONY: imports
imports: .venv/dev.stamp ## Check that imports go down the layers only
	@$(PY) -c "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_logo=True))"

.PHONY: format
format: .venv/dev.stamp ## Format the Python code and sort its imports
	@$(PY) -m ruff check --fix-only --select I .
	@$(PY) -m ruff format .

.PHONY: bench
bench: .venv/dev.stamp web/dist/index.html ## Measure (ARGS names what; see benchmarks/README.md)
	@$(PY) -m benchmarks $(ARGS)

.PHONY: campaign
campaign: .venv/dev.stamp web/dist/index.html ## Run one long campaign (NAME=... says which, ARGS passes flags)
	@$(PY) -m tests.campaigns $(NAME) $(ARGS)

# --- the page ---------------------------------------------------------------------------------------------------------

.PHONY: web
web: web/dist/index.html ## Build the page

.PHONY: protocol
protocol: web/node_modules/.stamp ## Make the page's types anew from the API's description
	@$(PY) -m tools.openapi | ($(NPM) run --silent protocol)

.PHONY: pictures
pictures: .venv/dev.stamp web/dist/index.html ## Take the pictures of docs/walk.md anew
	@CHATSERVER_PICTURES=$(CURDIR)/docs/images $(PY) -m pytest -q tests/browser/test_walk.py

.PHONY: web-dev
web-dev: web/node_modules/.stamp ## Serve the page while working on it (needs `make run` beside it)
	@$(NPM) run dev

.PHONY: web-check
web-check: web/node_modules/.stamp ## Check the page's types
	@$(NPM) run --silent check

.PHONY: web-test
web-test: web/node_modules/.stamp ## Run the page's own tests
	@$(NPM) test --silent

# --- maintenance ------------------------------------------------------------------------------------------------------

# Existing pins are kept where they still fit; UPGRADE=1 takes the newest versions.
COMPILE := .venv/bin/uv --quiet --no-config pip compile --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

.PHONY: lock
lock: .venv/dev.stamp ## Write requirements/*.txt anew from pyproject.toml and requirements/*.in
	@$(COMPILE) pyproject.toml requirements/run.in -o requirements/run.txt
	@$(COMPILE) pyproject.toml requirements/run.in requirements/dev.in -c requirements/run.txt -o requirements/dev.txt

.PHONY: wheel
wheel: .venv/dev.stamp web/dist/index.html ## Build a wheel with the page inside, in dist/
	@$(PY) -m build --wheel --no-isolation

.PHONY: clean
clean: ## Remove what was built and installed here; data/ stays
	rm -rf .venv build dist web/dist web/node_modules .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what the targets above stand on ----------------------------------------------------------------------------------

# An environment whose Python went away is made anew, and everything in it installed anew.
$(shell test -x .venv/bin/python || rm -f .venv/*.stamp)

.venv/bin/python:
	@tools/venv.sh

# An environment made by an interrupted run, or by another tool, may lack pip: it is put in first.
# The package itself is installed editable and without its dependencies, which came with their hashes just before; the
# build backend is among them, so nothing is fetched unchecked.
.venv/run.stamp: requirements/run.txt pyproject.toml tools/hatch_build.py .venv/bin/python
	@echo "Installing requirements/run.txt"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev.stamp: requirements/dev.txt .venv/run.stamp
	@echo "Installing requirements/dev.txt"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

web/node_modules/.stamp: web/package.json web/package-lock.json | .venv/run.stamp
	@echo "Installing the page's packages"
	@$(NPM) ci --loglevel=error
	@touch $@

web/dist/index.html: web/node_modules/.stamp $(PAGE_SOURCES)
	@echo "Building the page"
	@$(NPM) run --silent build
	@touch $@

# `make` alone lists the targets.
PYTEST := .venv/bin/pytest
# xdist workers of the test targets; 0 runs everything in one process.
N ?= 2
PYTEST_ARGS ?=
# On CI the suite needs both generations of gvproxy; on a desk it skips what is not there.
STRICT := $(if $(filter-out 0 false,$(CI)),--strict)
VERSIONS = .venv/bin/python tests/versions.py -n $(N) -- $(PYTEST_ARGS)
# For `make stress PROCESSES=32 SECONDS=600`. "=" and unexport: SECONDS is a name shells use too.
PROCESSES = 8
SECONDS = 120
unexport SECONDS
MATRIX ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-versions test-matrix lint package docs pictures stress bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## install what is missing: QEMU, .venv, gvproxy
	@scripts/setup

demo: setup ## run the examples with real VMs
	$(PYTEST) examples -n 2 -v

# Two runs: examples/ has a pytest.ini of its own, as a user's project would.
test: ## run the test suite and the examples (N=workers, PYTEST_ARGS=...)
	@scripts/setup $(STRICT)
	@failed=0; set -x; \
	$(PYTEST) tests -n $(N) --dist worksteal -m "not slow" $(PYTEST_ARGS) || failed=1; \
	$(if $(STRICT),VMPORTS_MISSING=error) $(PYTEST) examples -n $(N) || failed=1; \
	exit $$failed

# pytest's exit code 5 is "no tests collected": no test is marked slow, which is no failure.
test-slow: ## run the tests that boot guests for minutes, and test-versions
	@scripts/setup --images
	@failed=0; \
	$(PYTEST) tests -n $(N) --dist worksteal -m slow --timeout 3600 $(PYTEST_ARGS) || { code=$$?; \
	  if [ $$code -eq 5 ]; then echo "no slow tests"; else failed=1; fi; }; \
	$(VERSIONS) || failed=1; \
	exit $$failed

test-versions: ## run VM tests with the QEMUs of other Debian releases
	@scripts/setup --images
	@$(VERSIONS)

# MATRIX="-k anyio", or other words of nox's, for some of it. The table is written whatever came out.
test-matrix: ## try each Python, pytest, xdist and plugin; write docs/compatibility.md
	@scripts/setup --images
	.venv/bin/python -m pip --quiet --no-input --disable-pip-version-check install --group matrix
	@failed=0; .venv/bin/nox -f tests/matrix/noxfile.py $(MATRIX) || failed=1; \
	.venv/bin/python scripts/compatibility_table.py || failed=1; \
	exit $$failed

lint: setup ## check style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

package: setup ## build what is published and try it: metadata, contents, types, an install by itself
	@scripts/check-package

docs: setup ## build the site, strictly, and look for dead links
	@scripts/build-docs

pictures: setup ## draw the pictures of the docs from real runs
	.venv/bin/python tests/draw_pictures.py

stress: setup ## try to get a port handed out twice (PROCESSES=8 SECONDS=120)
	.venv/bin/python tests/lease_stress.py --processes $(PROCESSES) --seconds $(SECONDS)

bench: setup ## measure what docs/performance.md quotes
	.venv/bin/python -m pip --quiet --no-input --disable-pip-version-check install --group bench
	@set -e; for script in benchmarks/*.py; do \
	  case $$script in benchmarks/_*|'benchmarks/*.py') continue ;; esac; \
	  echo "== $$script"; .venv/bin/python "$$script"; done

clean: ## remove .venv, .nox and .tools
	rm -rf .venv .nox .tools

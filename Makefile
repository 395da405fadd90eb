# Everything runs in .venv, which make creates with the newest Python it finds from 3.11 on.
# Stamp files record what it contains, so that nothing is installed twice and a changed
# pyproject.toml or constraints.txt installs again:
#   base  the service alone, without torch       train  and training
#   solar the images of `make demo-train`        full   and the tests

SHELL := /bin/bash
# Images of containers often set it. Then each of the hundreds of processes that the tests start would compile all
# modules of the service again, half a second of processor time each.
export PYTHONDONTWRITEBYTECODE :=
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# The service depends on its client, which is named in every call so that pip takes it from here and not from an index.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt --editable ./client
PINS := pyproject.toml client/pyproject.toml constraints.txt
MODELS ?= models
# Processes that run tests. Each computes on one thread; one more than the cores, because many tests wait for a process.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help demo demo-train demo-bundle images page-images serve test coverage test-fast lint format typecheck docs constraints requirements sbom audit system-deps clean clean-runs

help: ## list what make can do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo 'Plumbline needs Python 3.11, 3.12 or 3.13: install one, or name it: make PYTHON=/path/to/python3' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/stamp-base: $(PINS) | $(VENV)/bin/python
	@echo 'Installing the service into $(VENV), the first time only (about 700 MB on x86_64) ...'
	@$(PIP) --editable .
	@touch $@

$(VENV)/stamp-train: $(VENV)/stamp-base
	@echo 'Installing torch and what training needs, the first time only (several GB on Linux x86_64) ...'
	@$(PIP) --editable '.[train]'
	@touch $@

$(VENV)/stamp-solar: $(VENV)/stamp-train
	@echo 'Installing elpv-dataset: images under CC BY-NC-SA 4.0, for trying this out, not for commercial use.'
	@$(PIP) --editable '.[train,demo]'
	@touch $@

# With one call of pip, which takes a minute less than one after another.
$(VENV)/stamp-full: $(PINS) | $(VENV)/bin/python
	@echo 'Installing the service, training, the test tools and the documentation generator, the first time only (several GB) ...'
	@$(PIP) --editable '.[train,test,docs,openvino,postgres,s3,mqtt,opcua,otel,parquet,ray]'
	@touch $(VENV)/stamp-base $(VENV)/stamp-train $@

# --- see it work --------------------------------------------------------------------------------------------

demo: $(VENV)/stamp-base ## inspect the shipped sample images with the shipped model (KEEP=1 keeps the service running, PORT=8000)
	$(BIN)/python -m service.cli.demo --models $(MODELS) $(if $(KEEP),--keep) $(if $(PORT),--port $(PORT))

demo-train: $(VENV)/stamp-solar ## train, evaluate and serve a model on real images of solar cells
	$(BIN)/python -m training.demo.elpv $(if $(KEEP),--keep) $(if $(PORT),--port $(PORT))

serve: $(VENV)/stamp-base ## serve models/ on port 8000; PLUMBLINE_* variables change the settings
	$(BIN)/plumbline serve

# --- what is shipped and can be made again --------------------------------------------------------------------

# One bundle a product is enough: a new one replaces the shipped one. A hundred held-out parts certify a
# false-reject rate of 1 %.
demo-bundle: $(VENV)/stamp-train ## draw the demo parts again and train the shipped bundle and samples again
	rm -rf runs/washer runs/washer-parts runs/washer-models
	$(BIN)/python -m training.demo.part runs/washer-parts --train 250 --test 20 --seed 0
	$(BIN)/plumbline-train fit --data runs/washer-parts --product washer --models runs/washer-models --seed 0 \
	  --held-out 0.4 --evaluate
	rm -rf models/washer
	mkdir -p models
	cp -R runs/washer-models/washer models/washer
	rm -rf runs/washer-models
	$(BIN)/python -m training.demo.samples docs/samples --seed 1
	$(MAKE) images
	@du -sh models/washer

images: $(VENV)/stamp-train ## draw the image of the README with the shipped model
	$(BIN)/python -m benchmarks.readme_images --models models --samples docs/samples --out docs/images

page-images: $(VENV)/stamp-full ## take the screenshots of README and docs with the shipped model (needs Chromium)
	$(BIN)/python -m benchmarks.page_images --models models --samples docs/samples --out docs/images/pages

constraints: $(VENV)/stamp-full $(VENV)/stamp-solar ## pin what this environment holds (after upgrading something in it and testing)
	@{ sed -n '/^#/p' constraints.txt; \
	  { $(BIN)/python -m pip freeze --all --exclude-editable \
	    | grep -viE '^(pip|plumbline|plumbline-client)==' | grep -E '^[A-Za-z0-9._-]+==' \
	    | sed -E 's/^([^=]+)/\L\1/; :a; s/^([^=]*)[_.]+/\1-/; ta'; \
	    sed -nE 's/^onnxruntime-gpu==(.*)/onnxruntime==\1/p' constraints.txt; } | LC_ALL=C sort -u; } > constraints.new
	@mv constraints.new constraints.txt

# Tools of a release, in an environment of their own, because nothing else needs them.
RELEASE := $(VENV)/release
RELEASE_TOOLS := uv==0.13.9 cyclonedx-bom==7.5.0 pip-audit==2.10.1
# The images have Python 3.12. CUDA is for x86_64 only.
COMPILE = $(RELEASE)/bin/uv pip compile - --quiet --constraint constraints.txt --python-version 3.12 --generate-hashes \
	--no-annotate --no-header

$(RELEASE)/stamp: | $(VENV)/bin/python
	$(BIN)/python -m venv $(RELEASE)
	$(RELEASE)/bin/pip --disable-pip-version-check install --quiet $(RELEASE_TOOLS)
	@touch $@

requirements: $(RELEASE)/stamp ## write requirements/*.txt, what the images install, with versions and hashes (needs a package index)
	$(BIN)/python deploy/docker/dependencies.py cpu | $(COMPILE) --universal --output-file requirements/cpu.txt
	$(BIN)/python deploy/docker/dependencies.py cuda | $(COMPILE) --python-platform x86_64-unknown-linux-gnu --output-file requirements/cuda.txt
	$(BIN)/python deploy/docker/dependencies.py build | $(COMPILE) --universal --output-file requirements/build.txt

sbom: $(RELEASE)/stamp ## write dist/plumbline-*.cdx.json, the software bills of materials of the images (CycloneDX)
	@mkdir -p dist
	for variant in cpu cuda; do \
	  $(RELEASE)/bin/cyclonedx-py requirements requirements/$$variant.txt --pyproject pyproject.toml --output-reproducible \
	    --output-format JSON --output-file dist/plumbline-$$variant.cdx.json; done

audit: $(RELEASE)/stamp ## look up known vulnerabilities of what the images install (needs internet: asks pypi.org)
	for variant in cpu cuda build; do \
	  $(RELEASE)/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements/$$variant.txt || exit 1; done

# --- is it right? -------------------------------------------------------------------------------------------

# Types and documentation are checked while the tests run, because each of them uses one core.
test: lint ## everything that CI checks: style, types, import rules, documentation, all tests
	@$(MAKE) --no-print-directory --jobs=2 checks tests

.PHONY: checks tests
tests: $(VENV)/stamp-full
	$(PYTEST) --durations=25 $(TESTS)

checks: $(VENV)/stamp-full
	@$(MAKE) --no-print-directory --jobs=1 typecheck docs

# Apart from `test`, because measuring makes the tests a third slower.
coverage: $(VENV)/stamp-full ## all tests with their coverage; fails below 95.5 % of lines and branches
	$(PYTEST) --cov --cov-report=term:skip-covered $(if $(TESTS),,--cov-fail-under=95.5) $(TESTS)

test-fast: $(VENV)/stamp-full ## the tests that take seconds, for the inner loop: no processes, no training, no coverage
	$(PYTEST) -m 'not slow and not real_data' $(TESTS)

lint: $(VENV)/stamp-full ## style and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

typecheck: $(VENV)/stamp-full ## types, tests included
	$(BIN)/mypy

# Without --quiet, which hides warnings from --strict.
docs: $(VENV)/stamp-full ## build the documentation site in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

.PHONY: docs-serve
docs-serve: $(VENV)/stamp-full ## show the documentation site at http://127.0.0.1:8001 (links need a server, not a folder)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --dev-addr 127.0.0.1:8001

format: $(VENV)/stamp-full ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# promtool checks the alert rules, docker-compose the compose file, systemd-analyze the unit, and curl runs the commands
# of README and tutorial, Chromium opens the pages, HAProxy is in front of replicas. No daemon is started for the tests.
SYSTEM_PACKAGES := chromium prometheus docker-compose curl systemd postgresql mosquitto haproxy
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)

system-deps: ## install the system programs that some tests use, from Debian's packages
	$(SUDO) apt-get update -qq
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends $(SYSTEM_PACKAGES)

clean: ## remove the environment, caches and outputs of the demo; trained models in runs/ stay
	rm -rf $(VENV) demo-out site dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage htmlcov
	find client service training tests benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

clean-runs: ## remove runs/: trained models, reports and their checkpoints
	rm -rf runs

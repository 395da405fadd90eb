# Everything runs in .venv, which make creates with the newest Python it finds from 3.11 on.
# Three stamp files in it tell what it holds, so that nothing is installed twice and a changed
# pyproject.toml or constraints.txt installs again:
#   base  the service alone, without torch       train  and training       full  and tests and demo data

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
PINS := pyproject.toml constraints.txt
MODELS ?= models

.PHONY: help demo demo-train demo-bundle images serve test lint format typecheck constraints system-deps openapi clean

help: ## list what make can do
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1|/' | column -t -s '|'

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo 'Plumbline needs Python 3.11, 3.12 or 3.13: install one, or name it: make PYTHON=/path/to/python3' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/stamp-base: $(PINS) | $(VENV)/bin/python
	$(PIP) --editable .
	@touch $@

$(VENV)/stamp-train: $(VENV)/stamp-base
	$(PIP) --editable '.[train,demo]'
	@touch $@

$(VENV)/stamp-full: $(VENV)/stamp-train
	$(PIP) --editable '.[train,demo,test]'
	@touch $@

# GNU make. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
# The first interpreter of a supported version.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell \
	$(name) -c 'import sys; print("$(name)") if (3, 11) <= sys.version_info < (3, 13) else None' 2>/dev/null | grep -v None)))
# Named after the contents of lock and pyproject, so that a changed one, and only that, installs again.
STAMP := $(VENV)/.installed-$(firstword $(shell cat requirements.lock pyproject.toml | cksum))

export TORCH_INDEX

.PHONY: help install demo test gate format lock schema reference docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## create .venv from requirements.lock (TORCH_INDEX=<address of PyTorch's CPU index> if yours has CUDA builds only)

$(STAMP): | requirements.lock
	.ci/install '$(PYTHON)' '$(VENV)'
	rm -f $(VENV)/.installed-*
	touch $@

demo: $(STAMP) ## run the built-in experiment on a local stack; KEEP=1 leaves the stack up
	$(VENV)/bin/sedray demo --data .sedray/demo $(if $(KEEP),--keep)

test: $(STAMP) ## install and run the gate
	$(VENV)/bin/python .ci/gate.py

gate: ## the gate alone, or some of its steps: make gate STEPS="ruff mypy"
	$(VENV)/bin/python .ci/gate.py $(STEPS)

format: ## let ruff format and sort
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock: ## resolve requirements.lock anew
	.ci/lock '$(PYTHON)'

schema: ## write the JSON Schema of specifications
	mkdir -p docs
	$(VENV)/bin/sedray schema > docs/experiment.schema.json

reference: ## write the reference pages, made from the code, to docs/reference
	$(VENV)/bin/python .ci/reference.py docs/reference

docs: $(STAMP) ## build the site of docs/ into site/, strictly
	$(VENV)/bin/python .ci/gate.py docs

clean: ## remove .venv and caches; experiments in .sedray stay
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# make         the environment, then the tiny recipe through Snakemake; says where the report is
# make test    the tests        make lint    ruff, mypy, snakefmt        make docs    the reference and the site
# make deps    code deps of dvc.yaml from the import graph
# Works from any folder: make -C path/to/stillroom

SHELL := /bin/sh
ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
VENV := $(ROOT)/.venv
BIN := $(VENV)/bin
PYTHON ?= python3
READY := $(VENV)/.ready
TORCH := $(shell sed -n 's/^\(torch==[^+ ]*\).*/\1/p' $(ROOT)/constraints.txt)

.PHONY: run setup test lint format docs deps clean
run: setup
	@cd $(ROOT) && $(BIN)/stillroom run
	@echo "report: $(ROOT)/reports/index.html"

setup: $(READY)

# PyPI's torch for Linux is a CUDA build, right for a machine with an NVIDIA GPU. Without one, a CPU build
# saves gigabytes: a wheel that pip is already set up to find, else PyTorch's own CPU index (which uv knows).
$(READY): $(ROOT)/pyproject.toml $(ROOT)/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "stillroom needs Python 3.11 or newer: make PYTHON=python3.11")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@if [ "$$(uname)" = Linux ] && ! nvidia-smi -L 2>/dev/null | grep -q GPU && ! $(BIN)/python -c 'import torch' 2>/dev/null; then \
		echo "no NVIDIA GPU: installing a CPU build of $(TORCH)"; \
		$(BIN)/pip install --quiet --no-index --no-deps $(TORCH) 2>/dev/null \
		|| { $(BIN)/pip install --quiet uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu $(TORCH); } \
		|| echo "no CPU build within reach: PyPI's build it is"; \
	fi
	@echo "installing packages into .venv"
	@cd $(ROOT) && $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

test: setup
	@cd $(ROOT) && $(BIN)/python -m pytest -n auto --dist loadgroup

lint: setup
	@cd $(ROOT) && $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy \
		&& $(BIN)/snakefmt --check Snakefile workflow && $(BIN)/python workflow/code_deps.py --check

format: setup
	@cd $(ROOT) && $(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/snakefmt Snakefile workflow

docs: setup
	@cd $(ROOT) && $(BIN)/python docs/generate.py && NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict \
		&& echo "docs: $(ROOT)/site/index.html"

deps: setup
	@cd $(ROOT) && $(BIN)/python workflow/code_deps.py

clean:
	rm -rf $(VENV) $(ROOT)/.snakemake $(ROOT)/.stillroom $(ROOT)/site $(ROOT)/logs

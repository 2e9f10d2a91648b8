# Two commands do everything on a fresh Debian or Ubuntu: `make demo` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PY := $(VENV)/bin/python
TORCH := torch==2.13.0
# What was installed is named by what asked for it: another pyproject.toml, another stamp.
STAMP := $(VENV)/.setup-$(shell cat pyproject.toml Makefile | sha256sum | cut -c1-16)
# Where distributions put the bcc bindings; the package called bcc on PyPI is something else.
BCC := $(wildcard /usr/lib/python3/dist-packages/bcc /usr/lib/python3*/site-packages/bcc)
PYTEST_ARGS ?=
# The host's default Python first: wheels are made for it sooner than for the newest. "" where none is good enough.
define FIND_PYTHON
for candidate in $${PYTHON:-} python3 python3.13 python3.12 python3.11; do \
  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
    echo "$$candidate"; break; \
  fi; \
done
endef

.PHONY: help setup system demo test bench check format clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: system $(STAMP)  ## system packages, .venv and the package; nothing to do the second time

# Needs no root where nothing is missing. A host without bcc still gets a working package (procfs fallback).
system:
	@missing=()
	[[ -n "$(BCC)" ]] || missing+=(python3-bpfcc)
	command -v gcc >/dev/null || missing+=(gcc libc6-dev)
	if [[ ! -x $(PY) ]]; then
	  found=$$($(FIND_PYTHON))
	  [[ -n "$$found" ]] || missing+=(python3 python3-venv)
	fi
	(( $${#missing[@]} )) || exit 0
	as_root=()
	if (( EUID )); then
	  if command -v sudo >/dev/null; then as_root=(sudo); fi
	fi
	if ! command -v apt-get >/dev/null; then
	  echo "setup: no apt-get here; install by hand: $${missing[*]} (the bcc bindings are called python3-bcc on Fedora and RHEL)" >&2
	elif (( EUID )) && [[ $${#as_root[@]} == 0 ]]; then
	  echo "setup: neither root nor sudo; ask for: apt-get install $${missing[*]}" >&2
	else
	  echo "setup: installing $${missing[*]}" >&2
	  "$${as_root[@]}" apt-get update -qq || echo "setup: apt-get update failed; trying with the lists that are there" >&2
	  "$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" \
	    || echo "setup: apt-get could not install $${missing[*]}" >&2
	fi
	if [[ ! -e /usr/lib/python3/dist-packages/bcc ]] && ! compgen -G '/usr/lib/python3*/site-packages/bcc' >/dev/null; then
	  echo "setup: without bcc, sessions fall back to procfs and name fewer causes; see docs/how-to/run-without-root.md" >&2
	fi

# An interpreter that is gone (a system upgrade, a moved checkout) makes the stamp worthless.
.PHONY: $(if $(shell test -x $(PY) && echo there),,$(STAMP))
$(STAMP):
	@if ! $(PY) -m pip --version >/dev/null 2>&1; then
	  found=$$($(FIND_PYTHON))
	  [[ -n "$$found" ]] || { echo "setup: no Python >= 3.11 with venv; install python3 and python3-venv, or name one: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	  "$$found" -m venv --clear $(VENV)
	fi
	$(PY) -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' || $(PY) -m pip install -q '$(TORCH)'
	mapfile -t dev < <($(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")')
	$(PY) -m pip install -q -e '.[torch,onnxruntime,onnx,models]' "$${dev[@]}"
	rm -f $(VENV)/.setup-*
	touch $@

demo: setup  ## set-up, then about a minute of real events with a noisy neighbour, explained
	@$(VENV)/bin/jitterprof demo

test: setup  ## set-up, then the whole suite (kernel and truth tests need root; else they are skipped and say so)
	@$(PY) -m pytest $(PYTEST_ARGS)

bench: setup  ## figures of this machine: start-up, probe cost, drain throughput, generator floor
	@$(PY) -m pytest tests/bench -m bench -s $(PYTEST_ARGS)

check: setup  ## lint, format and types
	@$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: setup  ## rewrite the sources as `make check` wants them
	@$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:  ## remove .venv, build products and caches; recorded sessions stay
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

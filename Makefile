# make repro: environment, then the whole pipeline.  make test: environment, then every check.
# PYTHON names the interpreter (3.11 or newer), VENV the environment's folder.
PYTHON ?= python3
VENV ?= .venv

# The stages are run as `python -m stages.NAME`, so that Python must come first in the path.
export PATH := $(abspath $(VENV))/bin:$(PATH)
unexport PYTHONPATH PYTHONHOME
# Hundreds of processes import the same modules.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env repro test docs mutants bench clean

help:
	@echo "make repro   the environment, then the whole pipeline (FEDPIPE_DATA=DIR_OR_URL holds a folder for each data set)"
	@echo "make test    the environment, then every check"
	@echo "make docs    the environment, then the pages of docs/ as a site, in site/"
	@echo "make mutants change the algorithms' code in every way mutmut knows, and count what no test notices; an hour"
	@echo "make bench   an environment with the peers (.venv-bench), MNIST, then fedpipe beside them; half an hour"
	@echo "make env     the environment alone, in $(VENV)"
	@echo "make clean   remove the environment (data, models and DVC's cache stay)"

env: $(VENV)/.made

$(VENV)/.made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("fedpipe needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	python -m pip install --disable-pip-version-check -e ".[dev]" -c constraints.txt
	@touch $@

repro: env
	dvc repro

# Tests run side by side, and some train on several threads: these must not spin on each other's cores while they wait.
test: export OMP_WAIT_POLICY := PASSIVE
test: env
	ruff check
	ruff format --check
	lint-imports
	pyright
	python -m pytest -n 2 --dist worksteal -m "not ray"
	python -m pytest -m ray

docs: env
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

mutants: env
	python -m pip install --disable-pip-version-check -e ".[dev,mutants]" -c constraints.txt
	mutmut run --max-children 2
	mutmut results

# Of its own: the peers hold some packages at older versions.
bench: export PATH := $(abspath .venv-bench)/bin:$(PATH)
bench: .venv-bench/.made
	dvc repro download
	python -m pytest -m slow tests/test_partition_oracle.py tests/test_robust_oracle.py
	python -m benchmarks
	python -m benchmarks scale
	python -m benchmarks profile

.venv-bench/.made: pyproject.toml benchmarks/constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --disable-pip-version-check -e ".[bench]" -c benchmarks/constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) .venv-bench

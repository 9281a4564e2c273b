# Two commands set everything up by themselves: `make report` runs the study, `make test` the tests.
# PYTHON is any Python 3.11; all else is installed below this folder.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Started as modules: the scripts of a virtual environment name its folder, and would not survive a move.
VENV = .venv/bin/python -m

# Packages of elsewhere must not mix with those that are installed here.
unexport PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE = 1

.PHONY: report test check slurm

report: .venv/deployed.json
	$(VENV) snakemake report

test: .venv/deployed.json
	$(VENV) snakemake --quiet rules host -- environments
	PATH="$(CURDIR)/.venv/bin:$$PATH" tests/run

# What CI asks of the code's form.
check: .venv/deployed.json
	$(VENV) ruff check .
	$(VENV) ruff format --check .
	$(VENV) snakefmt --check Snakefile workflow/Snakefile rules
	$(VENV) snakemake --lint

# What profiles/slurm needs beside.
slurm: .venv/deployed.json
	$(VENV) pip install $$(grep -oE '[a-z-]+==.+' envs/slurm.yaml)

.venv/deployed.json: envs/workflow.yaml workflow/scripts/deploy_env.py
	$(PYTHON) workflow/scripts/deploy_env.py envs/workflow.yaml .venv

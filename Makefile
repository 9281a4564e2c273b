# Two commands set everything up by themselves: `make report` runs the study, `make test` the tests.
# PYTHON is any Python 3.11; all else is installed below this folder.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
SNAKEMAKE = .venv/bin/snakemake

.PHONY: report test check

report: .venv/deployed.json
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(SNAKEMAKE) report

test: .venv/deployed.json
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(SNAKEMAKE) --quiet rules host -- environments
	PATH="$(CURDIR)/.venv/bin:$$PATH" tests/run

# What CI asks of the code's form.
check: .venv/deployed.json
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile workflow/Snakefile rules
	$(SNAKEMAKE) --lint

.venv/deployed.json: envs/workflow.yaml workflow/scripts/deploy_env.py
	$(PYTHON) workflow/scripts/deploy_env.py envs/workflow.yaml .venv

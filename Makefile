# `make quickstart` trains and tests a small network on the embedded dataset. `make lint` checks layout, rules and types,
# `make test` runs the tests, `make test-slow` those that train whole networks or wait, and `make docs` builds a site in
# site/. All run in a virtual environment in .venv.
# `make test-services` runs the tests that need a scheduler, object storage or a tracker, and installs these on Debian.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
CONFIG := configs/quickstart/i3d_nl.yaml
OUTPUT := output/quickstart/i3d_nl

.PHONY: quickstart lint test test-slow test-services debian-packages docs

quickstart: $(VENV)/.installed
	$(RUN) tools/prepare_beacon.py
	$(RUN) tools/train_net.py --config-file $(CONFIG) OUTPUT_DIR $(OUTPUT)
	$(RUN) tools/test_net.py --config-file $(CONFIG) MODEL.WEIGHTS $(OUTPUT)/model_final.pth OUTPUT_DIR $(OUTPUT)
	@echo
	@echo "Log, metrics and checkpoints are in $(OUTPUT). What to try next:"
	@echo "  the same network without non-local blocks:"
	@echo "    $(RUN) tools/train_net.py --config-file configs/quickstart/i3d.yaml OUTPUT_DIR output/quickstart/i3d"
	@echo "  another pairwise function:"
	@echo "    $(RUN) tools/train_net.py --config-file $(CONFIG) MODEL.NONLOCAL.PAIRWISE dot_product OUTPUT_DIR output/quickstart/dot"
	@echo "  your own videos, one folder per class:"
	@echo "    see \"Train on your own videos\" in README.md"

# CONTRIBUTING.md says what they ask for; pyproject.toml holds the rules.
lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

# Two files of tests at a time, each on one thread: most of a test is not a product of large matrices.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile -m "not slow"

# These start processes and wait for them. One that fails on a busy machine is tried once more, alone.
test-slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile -m slow || \
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m slow --last-failed --last-failed-no-failures none

test-services: debian-packages $(VENV)/.installed-services
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/services

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

# The stamps keep a second call from installing again.
$(VENV)/.installed: setup.py pyproject.toml | $(RUN)
	$(RUN) -m pip install -e .
	@touch $@

$(VENV)/.installed-dev: setup.py pyproject.toml | $(RUN)
	$(RUN) -m pip install -e ".[dev]"
	@touch $@

$(VENV)/.installed-services: setup.py pyproject.toml | debian-packages $(RUN)
	$(RUN) -m pip install -e ".[dev,remote,hub,wandb,mlflow,services]"
	@touch $@

$(VENV)/.installed-docs: setup.py pyproject.toml | $(RUN)
	$(RUN) -m pip install -e ".[docs]"
	@touch $@

# Where they are all there, it needs no rights and no network. Debian's daemons are in /usr/sbin.
debian-packages:
	@PATH="$$PATH:/usr/sbin"; which slurmctld slurmd srun munged ps >/dev/null || { \
		root=$$([ "$$(id -u)" = 0 ] || echo sudo) && $$root apt-get update && \
		$$root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
			slurm-wlm munge procps python3-venv; }

$(RUN):
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" 2>/dev/null || \
		{ echo "error: nlvideo needs Python 3.10 or newer, and '$(PYTHON)' is not one; try: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || \
		{ echo "error: '$(PYTHON)' lacks the module venv (on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

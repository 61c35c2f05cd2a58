# make demo   train a controller, compare it with the rules, open runs/demo/dashboard.html (QUICK=1: the same in a minute)
# make test   run the tests (make test-slow: the slow ones, make test-all: all,
#             make test-matrix: on one and two threads, without and with AVX2, each time in a random order)
# make lint   formatting, lint, import contracts, types
# make newest, make oldest   the quick tests against the newest (oldest) versions that pyproject.toml allows, torch apart
# make docs   the documentation, strictly, into site/ (opens without a network)
# make clients   what other libraries do with the package as they are: TorchRL, RLlib, PEFT, ONNX, ... (`make -k clients`: all, also after a failure;
#             a second run goes on where the first one ended)
# make bench  speed of a step beside its floor and the naive way
# Each sets up what it needs in .venv; only Python 3.11+ and make must be there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_CONFIG := scripts/configs/$(if $(QUICK),demo_quick,demo).yaml
DEMO_FOLDER ?= runs/demo$(if $(QUICK),_quick,)

# what the tests of other versions need; Ray is left out, since it holds Gymnasium at one version
OTHERS := --constraint .venv-torch.txt --editable '.[rl,track,human,dynamic,offline,tune,serve]' 'pytest>=8.4' 'pytest-timeout>=2.3' 'pytest-xdist>=3.6' \
  'pytest-random-order>=1.2' 'hypothesis>=6.100' 'grimp>=3.5' 'sybil>=9' 'nbformat>=5.10' 'nbclient>=0.10' 'ipykernel>=6.29' 'scipy>=1.13' 'httpx>=0.27'

.PHONY: demo test test-slow test-all test-matrix newest oldest clients lint docs bench pictures clean setup
setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	rm -rf $(DEMO_FOLDER)
	$(BIN)/python scripts/demo.py --config $(DEMO_CONFIG) --folder $(DEMO_FOLDER)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -q -n auto --dist worksteal

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -q -n auto --dist worksteal

test-all: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

# Every setting is run, also after one that failed. A failure prints --random-order-seed=N: the same order again.
test-matrix: $(STAMP)
	failed=; for setting in OMP_NUM_THREADS=1 OMP_NUM_THREADS=2 ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2; do \
	  echo "== $$setting"; env OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 $$setting $(BIN)/python -m pytest -m 'not slow' -q -n auto --dist worksteal \
	    --random-order || failed="$$failed $$setting"; \
	done; test -z "$$failed" || { echo "failed under:$$failed" >&2; exit 1; }

newest oldest:
	$(PYTHON) -m venv .venv-$@
	grep '^torch==' constraints.txt > .venv-torch.txt
	.venv-$@/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-$@/bin/uv pip install --quiet --python .venv-$@/bin/python --resolution $(if $(filter newest,$@),highest,lowest-direct) $(OTHERS)
	.venv-$@/bin/python -m plasticity_env doctor
	OMP_NUM_THREADS=1 .venv-$@/bin/python -m pytest -m 'not slow' -q -n auto --dist worksteal --ignore tests/test_house.py

# One process a client, so that none disturbs another; a client whose file has passed is not run again until the package or the test changes.
CLIENTS := .venv-clients
clients: $(patsubst tests/clients/%.py,$(CLIENTS)/%.passed,$(wildcard tests/clients/test_*.py))

$(CLIENTS)/.installed: tests/clients/requirements.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement tests/clients/requirements.txt
	touch $@

$(CLIENTS)/%.passed: tests/clients/%.py tests/clients/conftest.py $(CLIENTS)/.installed $(shell find plasticity_env agents controllers -name '*.py')
	OMP_NUM_THREADS=1 $(CLIENTS)/bin/python -m pytest -q $<
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: $(STAMP)
	$(BIN)/python scripts/benchmark.py step

pictures: $(STAMP)
	$(BIN)/python scripts/make_pictures.py

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest $(CLIENTS) .venv-torch.txt build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

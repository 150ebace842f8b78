# make demo    a fresh clone, one command: see the README
# make help    the other targets
#
# Everything runs in .venv, made on first use from requirements.txt. PYTHON=... takes another Python, and TORCH=2.15.0
# another torch than the pinned one, in an environment of their own. VENV=none uses the Python at hand with the torch it
# has, and installs nothing.

PYTHON ?= python3
TORCH  ?=
ARGS   ?=
ifndef VENV
VERSION := $(if $(filter-out file,$(origin PYTHON)),$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
VENV    := .venv$(addprefix -python,$(VERSION))$(addprefix -torch,$(TORCH))
endif

.DEFAULT_GOAL := help
.PHONY: help demo demo-sharded test test-long coverage docs bench gpu-check lint format build wheels test-wheels sdist \
  compilers clean python-version

ifeq ($(VENV),none)
PY    := $(PYTHON)
BIN   :=
READY := python-version
else
PY    := $(VENV)/bin/python
BIN   := $(VENV)/bin/
# With the newest setuptools that the named torch allows: torch 2.11 refuses the pinned one.
REQUIREMENTS := $(if $(TORCH),sed 's/^torch==.*/torch==$(TORCH)/; s/^setuptools==.*/setuptools>=77/',cat) requirements.txt
# Named after the requirements it was made from, so that a change of them makes it anew.
READY := $(VENV)/.ready-$(shell cksum < requirements.txt | cut -d' ' -f1)
endif

define CHECK_PYTHON
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
  echo 'fastinit needs Python 3.10 or newer, which "$(PYTHON)" is not; name one: make PYTHON=python3.11 ...'; exit 1; }
@test -e "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || { \
  echo 'fastinit needs the headers of $(PYTHON) (on Debian and Ubuntu: apt install python3-dev)'; exit 1; }
endef

# The package is used from where it stands; the extension is built beside its Python files.
export PYTHONPATH := $(CURDIR)/python$(addprefix :,$(PYTHONPATH))

CPP := $(wildcard csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu tests/native/*.h tests/native/*.c tests/native/*.cpp)

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@echo '  ARGS="..." goes to the demo, pytest or the benchmark; VENV=none installs nothing; see also setup.py'

demo: build  ## initialise a model of 1.5 billion parameters, beside torch (ARGS="--preset gpt2", ...)
	$(PY) -m fastinit demo $(ARGS)

demo-sharded: build  ## one model on four ranks, beside torch, each compared with a single process
	$(PY) -m fastinit demo-sharded $(ARGS)

test: build  ## run the tests (ARGS="-k orthogonal", ...; TORCH=2.15.0: with that torch)
	$(PY) -m pytest tests $(ARGS)

test-long: build  ## run all tests, those included that take minutes or much memory, two at a time
	$(PY) -m pytest tests -m "long or not long" -n 2 --dist loadgroup $(ARGS)

coverage: $(READY)  ## the lines that `make test` does not reach, in Python and C++, by a build of its own
	$(PY) tests/support/measure_coverage.py $(ARGS)

docs: build  ## the documentation as a site, in build/docs; runs every example
	$(PY) -m sphinx -E -W --keep-going -q -b html -c docs -d build/doctrees . build/docs
	$(PY) -m pytest tests/build/test_docs.py -q
	@echo 'Written: build/docs/index.html'

bench: build  ## run the benchmarks
	$(PY) -m benchmarks $(ARGS)

gpu-check: $(READY)  ## on a machine with a CUDA device: build, tests and benchmarks, in one go
	$(PY) -m benchmarks.gpu_check $(ARGS)

lint: $(READY)  ## ruff, mypy, clang-format
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)mypy
	$(BIN)clang-format --dry-run -Werror $(CPP)

format: $(READY)  ## rewrite the sources as `make lint` wants them
	$(BIN)ruff check --fix .
	$(BIN)ruff format .
	$(BIN)clang-format -i $(CPP)

build: $(READY)  ## compile the extension (see setup.py for the switches)
	@$(PY) setup.py -q build_ext --inplace

# Only compiles, CPU part only: what another compiler, or one for another processor, has to say about the sources.
COMPILERS ?= $(foreach cxx,g++ g++-11 clang++ aarch64-linux-gnu-g++,$(if $(shell command -v $(cxx)),$(cxx)))
compilers: $(READY)  ## compile with each compiler there is, warnings as errors (COMPILERS="clang++ g++-11")
	@for cxx in $(COMPILERS); do \
	  echo "== $$cxx"; \
	  CXX="$$cxx" FASTINIT_WERROR=1 FASTINIT_CUDA=0 FASTINIT_LINK=0 $(PY) setup.py -q build_ext \
	    --build-temp build/$$cxx --build-lib build/$$cxx || exit 1; \
	done

wheels: $(READY)  ## a wheel for each Python, that serves every torch, into dist/ (ARGS="--pythons 3.11 --torches 2.13.0")
	$(PY) wheels.py $(ARGS)

# Each environment takes 5 GB while it is tested, in TMPDIR, and minutes to download; -k 3.13 tests those with that Python.
test-wheels: $(READY)  ## make wheels, and test each with several torches in new environments (ARGS="-k 3.13")
	$(PY) wheels.py
	FASTINIT_WHEELS=dist $(PY) -m pytest tests/build/test_wheels.py -m "long or not long" -s $(ARGS)

sdist: $(READY)  ## all that is needed to build and test, into dist/
	$(PY) setup.py -q sdist

clean:  ## remove what was built; .venv stays
	rm -rf build dist python/fastinit/*.so *.egg-info python/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

python-version:
	$(CHECK_PYTHON)

$(VENV)/.ready-%:
	$(CHECK_PYTHON)
	@echo 'fastinit: installing requirements.txt into $(VENV) (torch is large; this happens once)'
	@$(PYTHON) -m venv $(VENV)
	@$(REQUIREMENTS) > $(VENV)/requirements.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt
	@rm -f $(VENV)/.ready-* && touch $@

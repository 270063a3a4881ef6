# `make run` and `make test` set up .venv on first use; the second time they start at once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# type checkers cannot see that kernels/ is quantctl.kernels, so they get a folder where it lies there
TYPED := .cache/typed

.PHONY: words evidence run test releases launch faults bench lint format generate clean mutation kernels-gpu tritons

run: $(STAMP)
	$(BIN)/python -m quantctl.sweep.demo

test: $(STAMP) lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

# every release of Megatron, trained as well: QUANTCTL_MEGATRON_MAIN=CHECKOUT adds Megatron-LM's main
releases: $(STAMP)
	$(BIN)/python tests/support/releases.py -n 2 $(ARGS)

# eight scripts at once, Slurm, and the table of every script's flags against every release's parser;
# QUANTCTL_MEGATRON_CHECKOUTS=A:B adds the smoke scripts on those checkouts' own trainer, a CPU in the place of a GPU
launch: $(STAMP)
	$(BIN)/python -m pytest -m "" -rP tests/launch

# every step of every operation killed or failing, and a thousand random kills
faults: $(STAMP)
	QUANTCTL_FAULT_STRIDE=1 QUANTCTL_RANDOM_KILLS=1000 $(BIN)/python -m pytest -n 2 -rP tests/faults

# how lint reads shell scripts, against bash: ten thousand generated ones
words: $(STAMP)
	QUANTCTL_SHELL_SCRIPTS=10000 $(BIN)/python -m pytest tests/quantctl/lint/test_shell.py -k random

# the published comparison: run what is missing, compare with docs/evidence; ARGS=--publish replaces it
evidence: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m quantctl.sweep.evidence $(ARGS)

# how long the commands take
bench: $(STAMP)
	$(BIN)/python tests/benchmarks/command_line.py

# on a GPU: the compiled kernels against the reference, bit for bit, then how fast they are; ARGS=--quick in six minutes.
# GPU_PYTHON=python3 takes a Python (3.11 or later) that has torch and Triton, and quantctl on its path, in the place of
# .venv; this folder itself is kept off that path
GPU_PYTHON ?=
kernels-gpu: $(if $(GPU_PYTHON),,$(STAMP))
	status=0; $(if $(GPU_PYTHON),export PYTHONSAFEPATH=1;) \
	$(or $(GPU_PYTHON),$(BIN)/python) -m quantctl.bench.gate $(ARGS) || status=1; \
	$(if $(findstring --quick,$(ARGS)),,QUANTCTL_TEST_DEVICE=cuda $(or $(GPU_PYTHON),$(BIN)/python) -m pytest \
		$(addprefix tests/kernels/test_,triton.py packed.py fused_pv.py) tests/patches/test_te_on_gpu.py || status=1;) \
	exit $$status

# the kernels compiled with every Triton that a supported torch comes with; no GPU is needed
tritons: $(STAMP)
	$(BIN)/python tests/support/tritons.py

# ten thousand damaged Megatron files through the editor; a failure names its seed
mutation: $(STAMP)
	MUTANTS=10000 $(BIN)/python -m pytest -n 2 tests/mutation

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/quantctl generate --check
	rm -rf $(TYPED) && mkdir -p $(TYPED)/quantctl
	ln -s $(CURDIR)/quantctl/* $(CURDIR)/kernels $(CURDIR)/patches $(CURDIR)/script $(TYPED)/quantctl/
	cd $(TYPED) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p quantctl

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: $(STAMP)
	$(BIN)/quantctl generate

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV), once: some minutes, 2.4 GB with a CPU build of torch"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .cache build *.egg-info

# `make pretrain` and `make test` each set up what they need in .venv, once.
VENV := .venv
PYTHON := python3
BIN := $(VENV)/bin

.PHONY: pretrain test test-slow test-lowest quality style clean

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test,quality]'
	touch $@

pretrain: $(VENV)/installed
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process $$(nproc) recipes/pretrain_sdmi.py --output_dir runs/shapes-sdmi --resume_from_checkpoint latest

# Two processes, one thread each: a file of tests stays in one of them, and with it what its tests share.
test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" --numprocesses 2 --dist loadfile

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m "slow and not gpu"

# The lowest versions that setup.cfg allows, in a virtual environment of their own.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	sed -n '/^install_requires/,/^\[/s/^ *\([a-z0-9-]*\)>=\(.*\)/\1==\2/p' setup.cfg > $(VENV)-lowest/constraints.txt
	$(VENV)-lowest/bin/pip install --quiet --editable '.[test]' --constraint $(VENV)-lowest/constraints.txt
	$(VENV)-lowest/bin/python -m pytest -m "not slow and not gpu"

quality: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info

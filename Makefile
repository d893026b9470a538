# make reproduce | make test | make report | make bench | make lint | make lab      PROFILE=quick by default
PYTHON  ?= python3
PROFILE ?= quick
BIN     := .venv/bin

.PHONY: setup reproduce test report bench lint lab

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m neuralef.compiling
	touch $@

reproduce: setup
	$(BIN)/neuralef reproduce --profile $(PROFILE)

test: setup
	$(BIN)/python -m pytest -q

report: setup
	$(BIN)/neuralef report --profile $(PROFILE)

bench: setup
	$(BIN)/python -m benchmarks $(BENCH)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pylint --disable=all --enable=duplicate-code neuralef benchmarks

lab: setup
	$(BIN)/python -m ipykernel install --sys-prefix --name neuralef --display-name "Python (neuralef)"
	$(BIN)/jupyter lab notebooks

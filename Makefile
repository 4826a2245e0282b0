# make demo - install, rebuild the embedded default, print its results     make test - install, run the tests
# make study - the same with every row of the paper's tables
# make up - install, start Prefect's and MLflow's servers and the worker   make down - end exactly these
PYTHON ?= python3.11
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: demo study test up down install clean

$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement requirements.lock
	pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

install: $(VENV)/installed

demo: install
	@cmp -s params.yaml recipes/demo.yaml || { echo "params.yaml is not the embedded default: cp recipes/demo.yaml params.yaml, or run dvc repro"; exit 1; }
	@python -m pipeline.repro
	@python -m pipeline.stages.report

# Other settings than the embedded default's are used as they are
study: install
	@if cmp -s params.yaml recipes/demo.yaml; then cp recipes/study.yaml params.yaml; echo "params.yaml is recipes/study.yaml now"; fi
	@python -m pipeline.repro
	@python -m pipeline.stages.report

test: install
	python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

up: install
	@python -m pipeline.flows up

down: install
	@python -m pipeline.flows down

clean:
	rm -rf data/work .pytest_cache .hypothesis .mypy_cache .ruff_cache .coverage* fuzz mutants

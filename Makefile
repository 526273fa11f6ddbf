# make demo | make test | make test-faults | make test-zoo | make bench | make lint: each makes or refreshes .venv by itself.
PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check

.PHONY: demo test test-faults test-zoo bench lint clean

demo: .venv/demo.stamp
	.venv/bin/python -m pipeline.data.demo demo_data
	.venv/bin/python -m pipeline.run +experiment=demo

test: .venv/dev.stamp
	.venv/bin/python -m pytest

test-faults: .venv/dev.stamp
	FAULTS=full .venv/bin/python -m pytest tests/faults/test_faults.py tests/faults/test_flaky.py tests/unit/pipeline/test_pool.py tests/faults/test_dirty.py tests/faults/test_damage.py

test-zoo: .venv/dev.stamp
	ZOO=full .venv/bin/python -m pytest tests/parity/test_zoo.py tests/integration/test_trial.py

bench: .venv/dev.stamp
	.venv/bin/python -m bench

lint: .venv/dev.stamp
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy k8s/submit.py
	.venv/bin/lint-imports

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install --quiet -c constraints.txt -e ".[demo]"
	@touch $@

.venv/dev.stamp: .venv/demo.stamp
	$(PIP) install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

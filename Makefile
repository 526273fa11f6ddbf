# make demo | check | test | test-faults | test-zoo | bench | lint | docs | dist | image: each makes or refreshes .venv by itself.
PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check

.PHONY: demo check test test-faults test-zoo bench lint docs dist image clean

IMAGE ?= vdna-catalogue:0.1.0

demo: .venv/demo.stamp
	.venv/bin/python -m pipeline.data.demo demo_data
	.venv/bin/python -m pipeline.run +experiment=demo

# Workers of pytest: processes, each with about 3 GB. One Ray is shared by the tests of one worker.
WORKERS ?= auto
PARALLEL = -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# All that continuous integration runs.
test: lint
	.venv/bin/python -m pytest $(PARALLEL)

test-faults: .venv/dev.stamp
	FAULTS=full .venv/bin/python -m pytest tests/faults tests/unit/pipeline/test_scheduler.py

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

# The inner loop: no Ray, no network, no other process.
check: lint
	.venv/bin/python -m pytest tests/unit $(PARALLEL)

# build/site/index.html, from docs/, the docstrings and the commands' help.
docs: .venv/docs.stamp
	.venv/bin/python docs/build.py build
	cd build && PATH="$(CURDIR)/.venv/bin:$$PATH" $(CURDIR)/.venv/bin/zensical build --strict --clean

# dist/*.tar.gz and, built from it, dist/*.whl, which is then installed and tried in an environment of its own.
dist: .venv/dev.stamp
	rm -rf dist build/lib build/bdist.* build/dist-venv
	.venv/bin/python -m build --no-isolation
	DIST=dist .venv/bin/python -m pytest -q tests/integration/test_dist.py
	$(PYTHON) -m venv build/dist-venv
	build/dist-venv/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt dist/*.whl
	cd build && dist-venv/bin/python -c "import distributions, pipeline; pipeline.open_catalogue"
	cd build && dist-venv/bin/vdna-catalogue --help > /dev/null

# The container image of k8s/Dockerfile, by the first of these programs that is there and has a service to talk to.
image:
	@for tool in docker podman buildah; do \
		command -v $$tool > /dev/null && $$tool info > /dev/null 2>&1 || continue; \
		echo "$$tool build -f k8s/Dockerfile -t $(IMAGE) ."; \
		DOCKER_BUILDKIT=1 exec $$tool build -f k8s/Dockerfile -t $(IMAGE) .; \
	done; \
	echo "error: make image needs docker, podman or buildah, installed and with its service running" >&2; exit 2

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install --quiet -c constraints.txt -e ".[demo]"
	@touch $@

.venv/dev.stamp: .venv/demo.stamp
	$(PIP) install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

.venv/docs.stamp: .venv/dev.stamp
	$(PIP) install --quiet -c constraints.txt -e ".[docs]"
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

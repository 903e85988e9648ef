# The verbs of the project. GNU make 3.81 (macOS) and newer.
SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := restorer operator tests benchmarks
IMAGE := database-restore-operator:dev
# The tests start the programs by the hundred: they are compiled once, also where the environment says otherwise.
export PYTHONDONTWRITEBYTECODE :=
DOCKER := docker
KIND := kind

.PHONY: help setup demo test kube pytest slow versions e2e e2e-slow image kind-up kind-down bench bench-operator lint format types imports crds dashboard lock clean

help:            ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP)  ## .venv with everything that requirements.txt locks

$(STAMP): requirements.txt pyproject.toml
	python=`scripts/find-python $(PYTHON)` && $$python -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup      ## an embedded PostgreSQL, a generated backup, a real restore
	$(BIN)/restorer demo

test: lint types imports pytest  ## what must hold before a commit

kube: setup      ## kube-apiserver and etcd for the tests, built where there are none
	$(BIN)/python tests/operator/kube_binaries.py

pytest: kube     ## the tests that are not slow
	$(BIN)/python -m pytest $(ARGS)

slow: kube       ## the slow tests, properties with more examples, and what is skipped
	THOROUGH=1 $(BIN)/python -m pytest -m "(slow or property) and not e2e" -rs --timeout=1200 $(ARGS) || test $$? -eq 5  # 5: there are none

versions: setup  ## the restorer's tests on PostgreSQL 13, and on 14 to 17 those that a server decides
	scripts/on-versions $(BIN)/python $(ARGS)

e2e: setup       ## the whole thing, on the cluster that KUBECONFIG names; the image must be on its node
	E2E_IMAGE=$(IMAGE) $(BIN)/python -m pytest -m "e2e and not slow" tests/e2e -rs --timeout=900 $(ARGS)

e2e-slow: setup  ## the operator killed fifty times, on that cluster
	E2E_IMAGE=$(IMAGE) $(BIN)/python -m pytest -m "e2e and slow" tests/e2e -rs --timeout=1800 $(ARGS)

image:           ## the image, with Docker
	$(DOCKER) build --build-arg REVISION=`git rev-parse HEAD` --tag $(IMAGE) .

kind-up: image   ## a cluster in Docker with the image on its node; then: make e2e
	$(KIND) get clusters | grep -qx dbrestore || $(KIND) create cluster --config kind-config.yaml --wait 120s
	$(KIND) load docker-image $(IMAGE) --name dbrestore
	$(KIND) export kubeconfig --name dbrestore

kind-down:       ## that cluster away
	$(KIND) delete cluster --name dbrestore

bench: setup     ## the benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

bench-operator: kube  ## the operator against a real API server
	$(BIN)/python -m benchmarks.operator_load $(ARGS)

lint: setup      ## ruff: rules and format
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

format: setup    ## put right what ruff can
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

types: setup     ## mypy, strict
	$(BIN)/mypy --strict

imports: setup   ## who may import whom
	$(BIN)/lint-imports

crds: setup      ## the CustomResourceDefinitions, docs/reference.md and docs/metrics.md anew from the code
	$(BIN)/python -m restore_operator.crd > crds/databaserestores.dbrestore.io.yaml
	$(BIN)/python -m restore_operator.schedule_crd > crds/databaserestoreschedules.dbrestore.io.yaml
	$(BIN)/python -m restore_operator.reference > docs/reference.md
	$(BIN)/python -m restore_operator.metrics_page > docs/metrics.md
	cp crds/*.yaml charts/database-restore-operator/files/crds/

dashboard: setup ## the Grafana dashboard anew from scripts/dashboard
	$(BIN)/python scripts/dashboard > charts/database-restore-operator/files/dashboard.json

lock: setup      ## the locks anew from pyproject.toml
	scripts/lock $(BIN)/python

clean:           ## everything that make made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

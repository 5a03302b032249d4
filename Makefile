# SPDX-License-Identifier: Apache-2.0
# Every task of the project. A fresh Debian 12 with python3.11 and make needs nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)

BIN := .venv/bin
SETUP := .venv/.stamp
GEN_SETUP := .venv-gen/.stamp
MODELS := .cache/models

# What `make bench` runs; any directory with turns.json and one track per speaker is a call.
CALL ?= daemon/callsd_bench/sample_call
MODEL ?= base
THREADS ?= 1
CALLS ?= 1
PAGE ?= typical
SECONDS ?= 60
TABLE ?=
SHEET ?= page-zoo.png

# What is tested as a system; everything else is a part of `make test`.
SYSTEM := tests/boot tests/packaging tests/proxy
# Where tests are that run alone: only to read all the other files takes longer than most of them.
ALONE = $(shell grep --recursive --files-with-matches --include='test_*.py' mark.alone tests | sort)
# How many tests run at once, where they may: most of them wait most of the time.
BESIDE ?= 3

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The tests start a thousand processes: compiled once, not by each of them.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# One thing at a time: the output of a failing step is the last thing on the screen.
.NOTPARALLEL:

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

## Running

.PHONY: setup
setup: $(SETUP) ## create .venv with everything to run, test and develop callsd

$(SETUP): pyproject.toml
	@tools/venv.sh '$(PYTHON)' .venv
	@echo '==> installing callsd and its dependencies into .venv (about 200 MB to fetch)'
	@$(BIN)/python -m pip install --quiet --editable '.[daemon,whispercpp,moonshine,parakeet,bench,dev]'
	@touch $@

.PHONY: demo
demo: $(SETUP) ## transcribe the sample call with a daemon of its own, then clean up
	@$(BIN)/python tools/demo.py

.PHONY: demo-captions
demo-captions: $(SETUP) ## caption the sample call in real time, with a daemon of its own
	@$(BIN)/python tools/demo.py captions

.PHONY: demo-recording
demo-recording: $(SETUP) demo-packages ## record a page with a call of four for 20 s, and look at the file
	@$(BIN)/python tools/demo.py recording

.PHONY: demo-mattermost
demo-mattermost: $(SETUP) demo-packages ## record, caption and transcribe a call of a Mattermost, until all is in the thread
	@$(BIN)/python tools/demo_mattermost.py

.PHONY: deb
deb: $(SETUP) ## build the Debian package: build/callsd_*.deb
	@$(BIN)/python tools/deb.py

.PHONY: demo-packages
demo-packages: ## have apt install what recordings and a look at them need, if it is missing
	@tools/packages.sh demo

.PHONY: test-packages
test-packages: ## have apt install what the tests need, if it is missing
	@tools/packages.sh tests

.PHONY: bench
bench: $(SETUP) .cache/$(MODEL).model ## measure transcription beside its baseline (CALL=, MODEL=, THREADS=)
	$(BIN)/callsd bench transcription --call '$(CALL)' --model $(MODEL) --threads $(THREADS) \
	    --models-dir $(MODELS) --baseline upstream

.PHONY: bench-captions
bench-captions: $(SETUP) .cache/$(MODEL).model ## measure live captions beside their baseline (CALL=, MODEL=, CALLS=)
	$(BIN)/callsd bench captions --call '$(CALL)' --model $(MODEL) --calls $(CALLS) \
	    --models-dir $(MODELS) --baseline upstream

.PHONY: bench-mattermost
bench-mattermost: $(SETUP) demo-packages ## measure a call of Mattermost: captions, capture, transcript (MODEL=, CALLS=, SECONDS=)
	$(BIN)/python tools/bench_mattermost.py --model '$(MODEL)' --calls '$(CALLS)' --seconds '$(SECONDS)'

.PHONY: bench-recording
bench-recording: $(SETUP) demo-packages ## measure recordings beside their baseline (PAGE=, SECONDS=)
	$(BIN)/callsd bench recording --page '$(PAGE)' --seconds $(SECONDS) --baseline upstream

## Testing

.PHONY: test
test: test-alone test-beside ## run all tests but those of the system, on real speech and real engines

.PHONY: test-alone
test-alone: test-models test-packages # what judges real time or the whole machine
	$(BIN)/pytest -m 'alone and not slow' $(SYSTEM:%=--ignore=%) $(ALONE)

.PHONY: test-beside
test-beside: test-models test-packages # the rest, some at once
	$(BIN)/pytest -m 'not alone and not slow' $(SYSTEM:%=--ignore=%) -n $(BESIDE) --dist worksteal

.PHONY: test-system
test-system: test-models test-packages ## boot machines, install packages, go through a proxy
	$(BIN)/pytest $(SYSTEM)

.PHONY: page-zoo
page-zoo: $(SETUP) ## record pages that go wrong, and lay their last pictures side by side (SHEET=)
	@tools/packages.sh pages
	$(BIN)/python -m tests.recorder.contact_sheet '$(SHEET)'

.PHONY: faults
faults: export CALLSD_FAULTS_TABLE := $(TABLE)
faults: test-models test-packages ## what happens when things die, slow tests too, as a table (TABLE=docs/reliability.md writes it)
	$(BIN)/pytest -m scenario

.PHONY: zoo
zoo: $(SETUP) test-packages ## decode every format that docs/media.md lists, at every rate, layout and length
	$(BIN)/pytest tests/zoo -m 'slow or not slow' -n $(BESIDE) --dist worksteal

.PHONY: fuzz-media
fuzz-media: $(SETUP) test-packages ## decode damaged files of every container (SECONDS=); what goes wrong is kept in build/
	$(BIN)/python -m tests.zoo.fuzz --seconds '$(SECONDS)'

.PHONY: test-clients
test-clients: test-models test-packages ## test all clients: each by itself, and all by the conformance scenario
	@echo '==> clients/go'
	@cd clients/go && $(MAKE) --no-print-directory check test
	@echo '==> clients/node'
	@cd clients/node && npm ci --silent && PATH="$(CURDIR)/$(BIN):$$PATH" npm run --silent gen:check && \
	    npm run --silent lint && npm test --silent
	$(BIN)/pytest tests/conformance/play.py tests/conformance/quickstarts.py \
	    -n $(BESIDE) --dist worksteal

.PHONY: test-models
test-models: $(SETUP) .cache/tiny.en.model .cache/base.model .cache/moonshine-base.model ## fetch the weights the tests need

# Of what is there and what the catalogue still names a pull does nothing.
.cache/%.model: daemon/callsd_daemon/models/catalogue.py | $(SETUP)
	@echo '==> fetching the weights of $* into $(MODELS)'
	@mkdir -p $(MODELS)
	@$(BIN)/callsd models pull $* --models-dir $(MODELS)
	@touch $@

.PHONY: coverage
coverage: test-models ## run all tests and report branch coverage, subprocesses included
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

.PHONY: coverage-domain
coverage-domain: export COVERAGE_FILE := .cache/coverage-domain
coverage-domain: $(SETUP) ## hold the domain at 100 % branch coverage by its own tests
	@echo '==> coverage of callsd_daemon/domain by tests/domain'
	@mkdir -p .cache
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest --quiet tests/domain
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --fail-under 100 --include 'daemon/callsd_daemon/domain/*'

## Checking

.PHONY: check
check: lint types imports proto gen-check coverage-domain ## everything that must hold before a commit, but for the tests

.PHONY: lint
lint: $(SETUP) ## ruff: format and rules
	@echo '==> ruff'
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

.PHONY: types
types: $(SETUP) ## mypy, strict
	@echo '==> mypy'
	@$(BIN)/mypy

.PHONY: imports
imports: $(SETUP) ## import-linter: which package may import which
	@echo '==> import-linter'
	@$(BIN)/lint-imports --no-cache

.PHONY: proto
proto: $(SETUP) ## buf: format, rules, and no break with any released API
	@echo '==> buf'
	@$(BIN)/buf format --diff --exit-code proto
	@$(BIN)/buf lint proto
	@for released in $(wildcard proto/releases/*.binpb); do \
	    echo "buf breaking: proto against $$released"; \
	    $(BIN)/buf breaking proto --against "$$released" || exit 1; \
	done

.PHONY: gen-check
gen-check: $(GEN_SETUP) $(SETUP) ## what is generated from proto/ and from the code is current
	@echo '==> generated code, generated parts of docs/'
	@.venv-gen/bin/python tools/gen.py --check
	@$(BIN)/python tools/gen_docs.py --check

## Renewing

.PHONY: fmt
fmt: $(SETUP) ## format Python and proto files, apply safe fixes
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/buf format --write proto

.PHONY: gen
gen: $(GEN_SETUP) $(SETUP) ## renew what is generated: code from proto/, parts of docs/ from code
	@.venv-gen/bin/python tools/gen.py
	@$(BIN)/python tools/gen_docs.py

.PHONY: gen-clients
gen-clients: $(SETUP) ## renew what is generated for the clients in other languages
	@cd clients/go && $(MAKE) --no-print-directory gen
	@cd clients/node && npm ci --silent && PATH="$(CURDIR)/$(BIN):$$PATH" npm run --silent gen

# What builds callsd is locked with the rest: installing fetches nothing else.
.PHONY: lock
lock: $(SETUP) ## after a change of dependencies: renew requirements.txt, by which callsd is installed
	@sed -n 's/^requires = \["\(.*\)"\]$$/\1/p' pyproject.toml | \
	    $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --only-binary :all: --emit-build-options --no-annotate --custom-compile-command 'make lock' \
	    --extra daemon --extra whispercpp --extra moonshine --extra parakeet --output-file requirements.txt pyproject.toml -

.PHONY: freeze-api
freeze-api: $(SETUP) ## at a release: keep the API's image for `buf breaking`, and its messages
	@mkdir -p proto/releases
	@release=$$(sed -n 's/^version = "\([0-9]*\.[0-9]*\).*/v\1/p' pyproject.toml); \
	    $(BIN)/buf build proto --output "proto/releases/$$release.binpb" && \
	    $(BIN)/python tools/golden.py "proto/releases/$$release.golden.jsonl" && \
	    echo "wrote proto/releases/$$release.binpb"

$(GEN_SETUP): tools/gen-requirements.txt
	@tools/venv.sh '$(PYTHON)' .venv-gen
	@echo '==> installing the code generators into .venv-gen'
	@.venv-gen/bin/python -m pip install --quiet --requirement tools/gen-requirements.txt
	@touch $@

.PHONY: clean
clean: ## remove environments, caches and fetched weights
	rm -rf clients/node/node_modules clients/node/dist clients/java/target
	rm -rf .venv .venv-gen .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find clients daemon tests tools -name __pycache__ -prune -exec rm -rf {} +

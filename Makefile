# Every target says what it does after ##; "make" alone lists them.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# Flags for "make test", for example: make test T='-run TestPublish ./internal/publish'
T ?= ./...
FIRE ?= 5m
FUZZ ?= 20s

# Google's client for buckets would bring all of gRPC's service meshes with it:
# 13 MB for what we never use.
TAGS := disable_grpc_modules

TOOL := go tool -modfile=scripts/tools.mod

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## put one static program for each service into bin/
	CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -o bin/ ./cmd/...

.PHONY: demo
demo: ## show the whole of it on this machine, from an upload to a matched phone
	@scripts/postgres >/dev/null
	go run ./scripts/demo

.PHONY: run
run: ## run all services here, over a private PostgreSQL, until Ctrl-C
	@scripts/postgres >/dev/null
	go run ./scripts/run

.PHONY: setup
setup: ## install what check and test need and this machine lacks (Debian)
	scripts/setup

.PHONY: check
check: check-format check-modules check-generated check-scripts check-floors lint ## the quick gate before a commit

.PHONY: check-format
check-format:
	scripts/format check

.PHONY: check-modules
check-modules:
	go mod tidy -diff
	go mod verify

.PHONY: check-generated
check-generated:
	scripts/protos check
	go run ./scripts/configuration check
	@scripts/postgres >/dev/null
	go run ./scripts/schema check

.PHONY: check-scripts
check-scripts:
	shellcheck $$(grep -lE '^#!.*(ba)?sh' .ci/run $$(find scripts -type f))
	shellcheck -s sh internal/database/cluster/keeper.sh internal/blob/emulators/keeper.sh

.PHONY: check-floors
check-floors:
	go test ./internal/arch

.PHONY: lint
lint: ## look for mistakes with the chosen linters
	go vet ./...
	$(TOOL) golangci-lint run

.PHONY: test
test: ## run all tests with the race detector; T='…' for some of them
	@scripts/emulators >/dev/null
	@POSTGRES_BIN="$$(scripts/postgres)" && export POSTGRES_BIN && set -x && \
	go test -race -shuffle=on -timeout 15m $(T)

.PHONY: fire
fire: ## kill services and database at random for FIRE=5m, and count that each key comes out once
	@scripts/postgres >/dev/null
	go test -count=1 -run Fire -timeout 60m ./internal/system -fire=$(FIRE) -v

.PHONY: fuzz
fuzz: ## fuzz each parser for FUZZ=20s
	scripts/fuzz $(FUZZ)

.PHONY: bench
bench: ## measure what the system costs on this machine
	@scripts/postgres >/dev/null
	go run ./scripts/bench

.PHONY: generate
generate: ## write again what is generated: protos, docs/schema.sql, docs/configuration.md
	scripts/protos
	go run ./scripts/configuration
	@scripts/postgres >/dev/null
	go run ./scripts/schema

.PHONY: format
format: ## format the code
	scripts/format

# make help lists the targets.
GO      ?= go
SEEDS   ?= 20000
VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo devel)
LDFLAGS  = -X main.version=$(VERSION)

MINUTES ?= 10
NODES   ?=
AWAY    ?= 60s
MIB     ?=

.PHONY: help build test test-matrix demo bench sim soak away fmt proto deps clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

build: ## build bin/mtmd and bin/mtmctl
	$(GO) build -ldflags "$(LDFLAGS)" -o bin/ ./cmd/...

deps: ## install PostgreSQL if it is missing (as root), or say what is missing
	@scripts/deps.sh

test: deps ## vet, unit tests, simulator, real clusters
	@SEEDS=$(SEEDS) scripts/test.sh

test-matrix: deps build ## core scenarios on PostgreSQL 15 to 18
	@scripts/test-matrix.sh

demo: deps build ## three nodes, in one minute
	@scripts/demo.sh

bench: deps build ## measure against stock PostgreSQL (QUICK=1: a few short cells)
	@$(GO) run ./testcluster/bench $(if $(QUICK),-quick) $(BENCH)

sim: ## simulate SEEDS seeds: crashes and cuts, elections and recovery, members, a referee
	@SEEDS=$(SEEDS) scripts/sim.sh

soak: deps ## random faults on real clusters for MINUTES each: NODES=3, or NODES=2+1, or both; SEED= repeats a choice
	@MTM_SOAK=$(MINUTES)m MTM_SOAK_SEED=$(SEED) MTM_KEEP=1 $(GO) test ./testcluster/scenario -count=1 -v -timeout 0 \
		-run 'TestSoak$(if $(NODES),/$(if $(filter 2%,$(NODES)),two,three))'

away: deps ## a node comes back under full load after AWAY=60s, or after MIB= of changes that it missed
	@MTM_AWAY=$(AWAY) MTM_AWAY_MIB=$(MIB) MTM_KEEP=1 $(GO) test ./testcluster/scenario -count=1 -v -timeout 0 -run 'TestAway$$'

fmt: ## format the code
	gofmt -w $$(git ls-files '*.go')

proto: ## generate proto/mtmpb
	$(GO) generate ./proto/...

clean: ## remove what was built
	rm -rf bin .cache

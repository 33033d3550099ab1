# Every target works from a fresh clone. `run` and `test` need Go and make,
# nothing else; the tools behind the other targets are pinned in tools/ and
# built by Go the first time they are used.

# No cgo: one static binary, and no C compiler needed to build it. Only the
# race detector asks for one.
export CGO_ENABLED = 0
# A go.work of yours must not change what is built.
export GOWORK = off

# The release being built. Without one the binary tells its commit.
VERSION   ?= $(shell git describe --tags --dirty 2>/dev/null)
# How long each fuzz target runs: a number of executions (20000x), not a time.
# Go 1.26 may fail a target for no reason when a time runs out (go.dev/issue/75804).
FUZZTIME  ?= 200000x
# Which benchmarks run, and how often. To compare two results, take ten of each:
# go tool -modfile=tools/go.mod benchstat old.txt new.txt
BENCH     ?= .
COUNT     ?= 1

MODULE    := github.com/fanfare-dev/fanfare
GO        ?= go
BUF       := $(GO) tool -modfile=tools/buf/go.mod buf
LINT      := $(GO) tool -modfile=tools/lint/go.mod golangci-lint
GENERATED := '*.pb.go' '*.pb.gw.go' '*.swagger.json'

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Start a whole cluster here and watch it deliver real events
	@bin/fanfare dev --demo

.PHONY: build
build: ## Build bin/fanfare
	$(GO) build -trimpath -ldflags '-s -w -X $(MODULE)/internal/version.release=$(VERSION)' -o bin/fanfare ./cmd/fanfare

.PHONY: test
test: ## Run all tests
	$(GO) test ./...

.PHONY: interop
interop: ## Send to the libraries that receivers use, and receive from those that senders use (needs node 20 and npm)
	@command -v npm > /dev/null || { echo "interop: there is no npm here, so nothing was tried"; exit 0; }; \
	npm ci --prefix tools/interop --no-audit --no-fund && \
	FANFARE_INTEROP=$(CURDIR)/tools/interop $(GO) test ./worker ./receiver -run '^TestInterop' -count 1 -v

.PHONY: deployments
deployments: ## Read the chart and the compose file as Helm, Kubernetes and Compose do
	$(GO) -C tools/deploy vet . && $(GO) -C tools/deploy test -count 1 .

.PHONY: collector
collector: ## Send what a cluster observes to a real OpenTelemetry Collector, built in tools/collector
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	$(GO) -C tools/collector vet . && $(GO) -C tools/collector test . && \
	$(GO) build -C tools/collector -o "$$dir/collector" . && \
	FANFARE_COLLECTOR="$$dir/collector" $(GO) test ./internal/clusterlab -run '^TestCollector$$' -count 1 -v

.PHONY: race
race: ## Run all tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -timeout 30m ./...

.PHONY: cover
cover: ## Run all tests and write coverage.html
	$(GO) test -coverprofile=coverage.out -coverpkg=./... ./...
	$(GO) tool cover -html=coverage.out -o coverage.html

KILLS     ?= 50

.PHONY: kill
kill: ## Kill a cluster under load KILLS times: nothing acknowledged is lost
	KILLS=$(KILLS) $(GO) test ./cmd/fanfare -run '^TestKillUnderLoad$$' -count 1 -timeout 60m -v

# How many random lives the simulation runs, and within how many each canary
# must be found. A bigger heap than the default spares the garbage collector.
SEEDS     ?= 1000
CANARIES  := ignore-fence ack-before-commit forget-promotion purge-too-far
SIM       := GOGC=400 $(GO) test ./internal/sim -run '^TestRandom$$' -count 1 -timeout 60m

.PHONY: sim
sim: ## Run SEEDS random lives of a whole cluster against an oracle
	SEEDS=$(SEEDS) $(SIM)

.PHONY: canaries
canaries: ## Break each promise on purpose: the simulation must notice within SEEDS
	@$(GO) vet -tags canary ./internal/sim # else what does not build would count as noticed
	@for canary in $(CANARIES); do \
		if FANFARE_CANARY=$$canary SEEDS=$(SEEDS) $(SIM) -tags canary -failfast > /dev/null 2>&1; \
		then echo "$$canary: not noticed in $(SEEDS) seeds"; exit 1; \
		else echo "$$canary: noticed"; fi; \
	done

# How long the soak does harm. SEED=… repeats an order of it.
SOAK      ?= 10m

.PHONY: soak
soak: ## Break a real cluster of processes at random for SOAK, and count
	SOAK=$(SOAK) $(GO) test ./internal/clusterlab -run '^TestSoak$$' -count 1 -timeout 0 -v

.PHONY: scale
scale: ## Measure how deliveries grow with workers
	SCALE=1 $(GO) test ./internal/clusterlab -run '^$$' -bench '^BenchmarkScaleOut$$' -benchtime 1x -timeout 60m

.PHONY: shrink
shrink: ## Find the shortest failing life of SEED
	@steps=1; while SEED=$(SEED) STEPS=$$steps $(GO) test ./internal/sim -run '^TestRandom$$' -count 1 > /dev/null; \
		do steps=$$((steps + 1)); [ $$steps -le 1000 ] || { echo "seed $(SEED) does not fail"; exit 1; }; done; \
	echo "fails after $$steps steps: SEED=$(SEED) STEPS=$$steps go test ./internal/sim -run TestRandom"

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME executions
	@set -e; \
	grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sort | \
	while IFS=: read -r file func; do \
		echo "$${func#func } in $$(dirname "$$file")"; \
		$(GO) test -run '^$$' -fuzz "^$${func#func }$$" -fuzztime $(FUZZTIME) \
			-fuzzminimizetime 1000x "$$(dirname "$$file")" </dev/null || exit 1; \
	done

.PHONY: prometheus
prometheus: ## Test the rules, dashboards and alerts that are shipped, with Prometheus's own code
	$(GO) vet -C tools/prometheus ./...
	$(GO) test -C tools/prometheus ./...

.PHONY: bench
bench: ## Run the benchmarks that match BENCH, COUNT times
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) ./...

.PHONY: generate
generate: ## Write the code that comes from the protos
	@find proto internal/openapi $(foreach name,$(GENERATED),-name $(name) -o) -false | xargs rm -f
	$(BUF) generate

.PHONY: lint
lint: ## Run the linters, for Go and for the protos
	$(BUF) lint
	$(BUF) format --diff --exit-code proto
	$(LINT) run ./...

.PHONY: fmt
fmt: ## Format everything
	$(LINT) fmt ./...
	$(BUF) format -w proto

.PHONY: tidy
tidy: ## Make every go.mod and go.sum say what the code needs
	for module in . tools tools/buf tools/collector tools/deploy tools/lint tools/prometheus; do $(GO) -C $$module mod tidy || exit 1; done

.PHONY: check
check: ## Run what CI runs
	.ci/run

.PHONY: clean
clean: ## Remove what the build and the tests left behind
	rm -rf bin coverage.out coverage.html

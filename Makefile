# Everything here needs Go and make only; git (for the version) and a C compiler (for the race detector) are used when they are there.

GO       ?= go
BIN      := bin
TOOLS    := $(CURDIR)/$(BIN)/tools
MODULE   := github.com/drover/drover
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X $(MODULE)/app.version=$(VERSION) -X main.version=$(VERSION)

# One set of flags for all that is compiled without the race detector: the build cache is shared, and the Temporal server, which takes
# minutes, is compiled once. VERSION takes the place of Go's own stamp, which fails where git does not trust the directory.
GOBUILD  := CGO_ENABLED=0 $(GO) build -buildvcs=false -ldflags '$(LDFLAGS)'
GOTEST   := CGO_ENABLED=0 $(GO) test
# The race detector needs cgo, and cgo a C compiler. It watches all but SQLite's own code, which is C turned into Go: to watch that would take most of
# the time of the tests. The driver that our code calls is watched.
RACE     := $(shell command -v $$($(GO) env CC) >/dev/null 2>&1 && \
	echo -race -gcflags=modernc.org/sqlite/lib=-race=false -gcflags=modernc.org/libc=-race=false)

BINARIES := drover drover-worker drover-server drover-agent

.DEFAULT_GOAL := build

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: $(BINARIES) drover-dev ## build bin/drover, drover-worker, drover-server, drover-agent and drover-dev

# Go knows what is up to date; make would have to guess.
.PHONY: $(BINARIES) drover-dev
drover:        package := ./starter
drover-worker: package := ./worker
drover-server: package := ./server
drover-agent:  package := ./agent
$(BINARIES):
	$(GOBUILD) -o $(BIN)/$@ $(package)

drover-dev:
	@[ -e $(BIN)/$@ ] || echo 'first build compiles the Temporal server: several minutes'
	cd deploy/dev && $(GOBUILD) -o ../../$(BIN)/$@ .

.PHONY: demo
demo: build ## build, then migrate a fleet of five servers on this machine and compare every image (DEMOFLAGS: see go run ./deploy/demo -help)
	CGO_ENABLED=0 $(GO) run ./deploy/demo -bin $(BIN) $(DEMOFLAGS)

# The acceptance tests start the binaries and measure them: they run on their own, without the race detector, and are never taken from
# the cache. They wait most of the time, for disks that are copied slowly and for silence to be noticed: four of them at once keep two cores
# half busy. vet is part of lint; over the Temporal server it would take minutes.
.PHONY: test
test: build ## run the unit, workflow, replay and acceptance tests
	@[ -n '$(RACE)' ] || echo 'no C compiler here: the tests run without the race detector'
	DROVER_TEST_POSTGRES= $(GO) test $(RACE) -timeout 25m $$($(GO) list ./... | grep -v '^$(MODULE)/test\(/\|$$\)')
	@[ -n "$$DROVER_TEST_POSTGRES" ] || echo 'DROVER_TEST_POSTGRES names no PostgreSQL server here: the center is tested on SQLite only'
	[ -z "$$DROVER_TEST_POSTGRES" ] || $(GO) test $(RACE) -timeout 25m ./center/...
	cd deploy/dev && $(GOTEST) -vet=off ./...
	$(GOTEST) -count=1 -timeout 20m -parallel 4 ./test/...

# go fuzzes one target at a time. What it finds it writes to the package's testdata/fuzz, and every later test runs it.
FUZZTIME ?= 10s
.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (default 10s) each
	@packages=$$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n 1 dirname | sort -u); \
	[ -n "$$packages" ] || { echo 'there is no fuzz target' >&2; exit 1; }; \
	for package in $$packages; do \
		targets=$$($(GOTEST) -list '^Fuzz' $$package) || { echo "$$targets"; exit 1; }; \
		for target in $$(echo "$$targets" | grep '^Fuzz'); do \
			echo "--- $$package $$target"; \
			for left in 2 1 0; do \
				$(GOTEST) -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package && break; \
				[ $$left -gt 0 ] || exit 1; \
				echo 'once more: a finding is in testdata/fuzz now and fails again, the end of the time does not'; \
			done; \
		done; \
	done

.PHONY: long
long: build ## run the acceptance tests that are too slow for CI, 2000 cases of the model of a job, and every fuzz target for 10 minutes
	$(GOTEST) -count=1 -timeout 4h -tags long ./test/...
	$(GOTEST) -count=1 -timeout 1h -run '^TestJobAgainstAModel$$' ./workflows -rapid.checks=2000
	$(MAKE) --no-print-directory fuzz FUZZTIME=10m

# A number of jobs from 30 on has every process killed at every phase of a job. DURATION goes on with more jobs, POSTGRES is a server's URL.
JOBS ?= 30
.PHONY: chaos
chaos: build ## do JOBS (30) jobs while every process is killed again and again; SEED repeats a run, DURATION=1h goes on, POSTGRES=url
	CGO_ENABLED=0 $(GO) run ./test/chaos -bin $(BIN) -jobs $(JOBS) $(if $(SEED),-seed $(SEED)) $(if $(DURATION),-duration $(DURATION)) $(if $(POSTGRES),-postgres '$(POSTGRES)')

.PHONY: histories
histories: drover-dev ## record the histories that TestReplay replays anew, against a real stack
	$(GOTEST) -tags record -run TestRecord -count=1 ./workflows

# What a release recorded stays as it was: TestReplay replays it with all later versions.
.PHONY: freeze
freeze: ## keep the recorded histories as those of RELEASE, a heading of CHANGELOG.md
	@[ -n '$(RELEASE)' ] || { echo 'say which: make freeze RELEASE=v1.2.3' >&2; exit 2; }
	@[ ! -e workflows/testdata/releases/$(RELEASE) ] || { echo 'release $(RELEASE) has its histories: they are never recorded again' >&2; exit 1; }
	mkdir -p workflows/testdata/releases/$(RELEASE)
	cp workflows/testdata/*.json workflows/testdata/releases/$(RELEASE)
	cd workflows/testdata/releases/$(RELEASE) && sha256sum *.json > SHA256SUMS

.PHONY: bench
bench: build ## run the benchmarks (BENCH selects by regular expression)
	$(GOTEST) -run '^$$' -timeout 2h -bench '$(or $(BENCH),.)' -benchmem ./...

.PHONY: lint
lint: $(TOOLS)/golangci-lint $(TOOLS)/workflowcheck ## run the linters, the layer rules, gofumpt and workflowcheck
	CGO_ENABLED=0 $(TOOLS)/golangci-lint run ./...
	cd deploy/dev && CGO_ENABLED=0 $(TOOLS)/golangci-lint run ./...
	CGO_ENABLED=0 $(TOOLS)/workflowcheck ./workflows/...

.PHONY: fmt
fmt: $(TOOLS)/golangci-lint ## format the code as lint wants it
	$(TOOLS)/golangci-lint fmt ./...
	cd deploy/dev && $(TOOLS)/golangci-lint fmt ./...

# The tools and their versions are those of tools/go.mod.
$(TOOLS)/golangci-lint: package := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(TOOLS)/workflowcheck: package := go.temporal.io/sdk/contrib/tools/workflowcheck
$(TOOLS)/%: tools/go.mod tools/go.sum
	cd tools && CGO_ENABLED=0 $(GO) build -buildvcs=false -o $@ $(package)

.PHONY: clean
clean: ## remove what was built and the data of demo and chaos; Go's caches stay
	rm -rf $(BIN) demo-data chaos-data

# The targets a person needs; 'make help' lists them.
GO      ?= go
BIN     := build/bin
LINT    := $(BIN)/golangci-lint
# The demo keeps its data here when told to: make demo KEEP=/some/folder
KEEP    ?=

.DEFAULT_GOAL := help
.PHONY: help demo test race lint ci bench vuln fuzz build clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: ## replicate a VM between two simulated pools, three times (KEEP=DIR keeps the disks)
	hack/deps demo
	$(GO) run ./cmd/understudy-demo $(if $(KEEP),--keep "$(KEEP)")

test: ## the tests that need Go and gcc alone
	hack/deps test
	$(GO) test -race ./...

build: ## the two programs, into build/bin
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/ ./cmd/understudy ./cmd/abd

lint: $(LINT) ## gofmt, vet, staticcheck, import rules, tidy module files
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not gofmt-clean:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(LINT) run ./...
	$(GO) mod tidy -diff

# Built from its own module file, so that the product's stays short.
$(LINT): hack/tools/go.mod hack/tools/go.sum
	cd hack/tools && $(GO) build -o ../../$(LINT) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

ci: ## what every change must pass: lint, then the tests
	hack/timed lint $(MAKE) lint
	hack/timed test $(MAKE) test

bench: ## the engine against plain reads, on an 8 GiB disk
	hack/deps bench
	$(GO) run ./qemu-tests/cmd/bench

fuzz: ## every fuzz target for half a minute each
	hack/fuzz 30s

vuln: ## known vulnerabilities, where the database can be reached
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.8.0 ./...

clean: ## remove what was built
	rm -rf build

# The targets a person needs; 'make help' lists them.
GO      ?= go
BIN     := build/bin
LINT    := $(BIN)/golangci-lint
# The demo keeps its data here when told to: make demo KEEP=/some/folder
KEEP    ?=
# What a delegate of the demo is: process (a local process), or qemu (the real appliance, emulated)
WORLD   ?= process
# What the demo tells: runs, or failback
STORY   ?= runs
# How long each fuzz target runs
FUZZ    ?= 30s
# How long the chaos tests run
CHAOS   ?= 3m
# The kernel of the delegate's image: debian, or slim (a small one of our own, built from Debian's source)
KERNEL  ?= debian
# make bench and make runs: the disks' size (empty: 8G, or what the folder has room for), the repetitions, the cases as a regular expression, where
# the results go
SIZE    ?=
REPEAT  ?= 5
CASES   ?=
RESULTS ?= bench
# The version that both programs tell.
VERSION := $(shell cat VERSION)

.DEFAULT_GOAL := help
.PHONY: help demo test lint ci nightly bench bench-boot runs scale vuln fuzz chaos build image image-lock e2e xen xen-hvm foreign clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 12

demo: $(if $(filter qemu,$(WORLD)),image) ## replicate a VM between two simulated pools, three times (WORLD=qemu: by real appliances; STORY=failback: failover and back; KEEP=DIR keeps the disks)
	hack/deps demo $(if $(filter qemu,$(WORLD)),e2e)
	$(GO) run ./cmd/understudy-demo --world $(WORLD) --story $(STORY) $(if $(KEEP),--keep "$(KEEP)")

test: ## the tests that need Go and gcc alone
	hack/deps test
	$(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v /orchestrator/replication$$)
	$(GO) test -timeout 20m ./orchestrator/replication

build: ## the two programs, into build/bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o $(BIN)/ ./cmd/understudy ./cmd/abd

image: ## the delegate's image: build/image/abd.xva and what belongs to it (KERNEL=slim: with a small kernel)
	$(if $(filter slim,$(KERNEL)),hack/deps kernel)
	$(GO) run ./image/cmd/mkimage --kernel $(KERNEL)

image-lock: ## take the newest Debian packages into image/lock.json
	$(GO) run ./image/cmd/mkimage lock

e2e: image ## the image in QEMU: boots on BIOS and UEFI, what goes wrong, the main job between two pools
	hack/deps e2e
	$(GO) test -tags e2e -count=1 -timeout 20m ./qemu-tests/e2e/...

xen: image ## the image as PV and PVH guests of a real Xen hypervisor under QEMU
	hack/deps e2e
	$(GO) test -tags xen -count=1 -timeout 25m ./qemu-tests/xen/...

xen-hvm: image ## the XVA's own disk booted as an HVM guest of Xen
	hack/deps e2e
	$(GO) test -tags xenhvm -count=1 -timeout 25m ./qemu-tests/xen/...

foreign: qemu-tests/foreign/node_modules/.package-lock.json ## simulated pools driven by clients that others wrote (npm's xen-api and @xen-orchestra/xva)
	hack/deps foreign
	$(GO) test -tags foreign -count=1 -timeout 10m ./qemu-tests/foreign/...

# npm writes this file last, so that it stands for a whole installation.
qemu-tests/foreign/node_modules/.package-lock.json: qemu-tests/foreign/package.json qemu-tests/foreign/package-lock.json
	hack/deps foreign
	cd qemu-tests/foreign && npm ci
	touch $@

bench-boot: image ## boot times in QEMU by firmware, medians of five
	hack/deps e2e
	$(GO) test -tags e2e -run '^$$' -bench Boot -benchtime 5x -timeout 40m ./qemu-tests/e2e

lint: $(LINT) ## gofmt, vet, staticcheck, import rules, tidy module files
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not gofmt-clean:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(LINT) run ./...
	$(GO) mod tidy -diff

# Built from its own module file, so that the product's stays short.
$(LINT): hack/tools/go.mod hack/tools/go.sum
	cd hack/tools && $(GO) build -o ../../$(LINT) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

ci: ## what every change must pass: lint, the tests, the worlds qemu and xen, foreign clients
	hack/timed lint $(MAKE) lint
	hack/timed test $(MAKE) test
	hack/timed image $(MAKE) image
	hack/timed e2e $(MAKE) e2e
	hack/timed xen $(MAKE) xen
	hack/timed foreign $(MAKE) foreign

nightly: ## what CI has no time for: HVM under Xen, the slim kernel through all worlds, fuzzing, properties, chaos, every kill
	hack/timed xen-hvm $(MAKE) xen-hvm
	hack/timed slim-e2e $(MAKE) e2e KERNEL=slim
	hack/timed slim-xen $(MAKE) xen KERNEL=slim
	hack/timed slim-hvm $(MAKE) xen-hvm KERNEL=slim
	hack/timed image $(MAKE) image
	hack/timed properties $(GO) test -timeout 60m ./transfer -run Propert -rapid.checks=1000
	hack/timed fuzz $(MAKE) fuzz
	hack/timed chaos $(MAKE) chaos
	hack/timed race $(GO) test -race -count=1 -timeout 60m ./orchestrator/replication
	hack/timed kill-matrix $(GO) test -race -count=1 -timeout 60m -run TestKillMatrix -v ./orchestrator/replication -matrix
	hack/timed scale $(MAKE) scale ALL=1

bench: ## the engine against the tools that Debian has, into bench/ (SIZE=8G REPEAT=5 CASES=REGEXP RESULTS=bench)
	hack/deps bench
	$(GO) build -o $(BIN)/bench ./qemu-tests/cmd/bench
	$(BIN)/bench -size '$(SIZE)' -repeat $(REPEAT) -cases '$(CASES)' -out '$(RESULTS)'

runs: ## how long runs of a VM take from beginning to end, and how much of it the pools (SIZE=4G)
	$(GO) run ./qemu-tests/cmd/runs $(if $(SIZE),--size $(SIZE))

scale: ## a disk of 2 TiB, made up, and four disks at once, moved within a delegate's memory (ALL=1: and read to its last byte)
	hack/deps bench
	$(GO) run ./qemu-tests/cmd/scale $(if $(ALL),--all)
	$(GO) test -count=1 -run TestMemoryOfFourDisks -v ./cmd/abd -disk 512

fuzz: ## every fuzz target for a while each (FUZZ=30s)
	hack/fuzz $(FUZZ)

chaos: ## random writes of a guest against cuts, failing disks and crashes, for minutes (CHAOS=3m)
	$(GO) test -race -count=1 -timeout 0 -run TestChaos -v ./transfer ./orchestrator/replication -chaos $(CHAOS)

vuln: ## known vulnerabilities, where the database can be reached
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.8.0 ./...

clean: ## remove what was built
	rm -rf build

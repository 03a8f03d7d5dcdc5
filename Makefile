# make help says what there is. The suites and the demo mount file systems: run them as root.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PREFIX ?= /usr/local
BENCHES := bench-reads bench-copyup bench-many bench-flat bench-placement bench-storm
BENCH = benches/mounts/$(@:bench-%=%).sh $(if $(RAW),--json $(RAW)/$(@:bench-%=%).json)
.PHONY: setup build install demo test test-all test-boot bench bench-mounts $(BENCHES) fuzz soak clean help
KIND ?= statelite

setup: ## install what a fresh Debian lacks, and the foreign test suites into .cache
	@integration/setup.sh

build: ## the program, optimised: target/release/statelite
	cargo build --release --locked

install: build ## the program, man pages, completions and mount.statelite, below PREFIX and /sbin
	@PREFIX=$(PREFIX) integration/install.sh

demo: setup build ## three nodes from one Debian image, with real programs in them; under a minute
	@integration/demo.sh

test: setup build ## unit and integration tests, then the foreign suites in their short form
	@integration/run.sh ci $(KIND)

test-all: setup build ## the same with the suites in full: about an hour and a half
	@integration/run.sh full $(KIND)

test-boot: setup build ## machines that boot off their roots, both NFS servers and the kernel's client, in guests; about ten minutes
	@for t in nodes own nfsd-boot nfsd ganesha; do integration/boot/$$t.sh || all=1; done; exit $${all:-0}

bench: build ## what a request costs, by criterion
	cargo bench --locked

bench-mounts: $(BENCHES) ## all of the following, one after the other: raw figures into RAW=DIR

$(BENCHES): setup build
	@$(BENCH)
bench-reads: ## opening and reading outside rules, for each way of io
bench-copyup: ## lookups beside a copy of 1 GiB, and beside a store that hangs
bench-many: ## cold lookups by 1 to 8 processes in as many roots
bench-flat: ## lookups with 1 to 16 litetrees, 10 to 100,000 rules; PLOT=FILE.svg draws it
bench-storm: ## 64 nodes that boot over NFS at once, beside the image itself and one that liteimg rewrote
bench-placement: ## what a lone caller waits for, by where its session runs

fuzz: setup ## what reads tables, configuration, requests, names and options: ten minutes of fuzzing each
	@integration/fuzz.sh

soak: setup build ## many roots in use while the daemon is killed, reloaded, upgraded and its stores filled: half an hour
	@integration/soak.sh

clean: ## remove what build made; .cache (image, tools) stays
	cargo clean

help: ## this list
	@echo "statelite: make TARGET [KIND=overlayfs: hold the suites against the kernel's overlayfs instead]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

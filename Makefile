# The one front door. `make` alone lists what there is.

.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: help setup demo test check static bench soak faults

# Salt version of the demo: 3006, 3007 or 3008.
SALT ?= 3008
# More arguments for faults, such as `ARGS="--case half-open --relay syndic --json"`.
ARGS ?=
# KEEP=1 leaves the demo up until Ctrl-C.
KEEP ?=

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  settings: SALT=3006|3007|3008 (demo, faults), KEEP=1 (demo stays up until Ctrl-C), ARGS=... (faults)"

setup: ## install what is missing: redis-server, Salt in .venv/, cargo-nextest, cargo-deny, the target of static programs
	@scripts/setup

demo: ## a top master, Redis, a bridge and two sites on loopback; real salt commands (KEEP=1 leaves it up)
	@scripts/setup $(SALT)
	@echo "[demo] building ..." >&2
	@cargo build --workspace --bins
	@exec target/debug/saltway-demo --salt $(SALT) $(if $(filter-out 0,$(KEEP)),--keep)

test: ## every test, real servers included; ends with one line of counts
	@scripts/setup system 3006 3007 3008 nextest
	@scripts/test

check: ## format, clippy, docs, forbidden dependencies, licences and advisories
	@scripts/setup system deny
	@scripts/check

static: ## saltway-minion-shim as one static file, in target/static
	@scripts/setup static
	@scripts/build-static

bench: ## latency, throughput, memory, the ledger and receipts, beside the site's own master, salt-syndic and redis-benchmark (about 40 minutes)
	@scripts/setup system 3006 3008 static
	@cargo build --release --workspace --bins
	@scripts/build-static
	@target/release/latency --salt 3008
	@target/release/latency --salt 3006
	@target/release/throughput
	@target/release/rss
	@target/release/ledger
	@target/release/minion_cost
	@target/release/silence --salt 3008
	@target/release/back --salt 3006
	@target/release/back --salt 3008
	@target/release/receipts

faults: ## what each fault costs, through Saltway and through salt-syndic (an hour; ARGS="--list", "--case NAME", "--relay saltway|syndic", "--json")
	@scripts/setup system $(SALT)
	@cargo build --workspace --bins
	@target/debug/faults --salt $(SALT) $(ARGS)

# Simulated worlds of `make soak`: how many, from which on; or one seed, with its whole trace.
SEEDS ?= 100000
FROM ?= 0
SEED ?=

soak: ## simulate SEEDS=100000 worlds from FROM=0 in parallel, or replay SEED=n with its whole trace
	@cargo build --quiet --release -p simulation
	@SEEDS=$(SEEDS) FROM=$(FROM) SEED=$(SEED) MUTATION=$(MUTATION) target/release/soak

# Everything that a developer or a machine runs. Each target installs what it needs first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export PATH := $(PATH):$(HOME)/.cargo/bin
.DELETE_ON_ERROR:
.PHONY: help demo test soak check bench build clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## watch rotations and a containment on a private PostgreSQL
	@deploy/dev/bootstrap postgres
	@cargo build --quiet --locked --bin rekeyd --example demo
	@target/debug/examples/demo

test: ## run all tests, against real servers too
	@deploy/dev/bootstrap postgres openbao sshd strace
	@cargo test --locked --features proving --no-run
	@deploy/dev/with-servers cargo test --locked --features proving

soak: ## live simulated histories: make soak SEEDS=0..1000000, or one seed to have it told
	@REKEYD_SEEDS=$(or $(SEEDS),0..1000000) cargo test --quiet --locked --features proving --test it -- --nocapture simulation::no_history

check: ## formatting, lints, dependencies
	@cargo fmt --all --check
	@cargo clippy --locked --all-targets -- -D warnings
	@cargo clippy --locked --all-targets --features proving -- -D warnings
	@deploy/dev/bootstrap cargo-deny
	@cargo deny --locked check

bench: ## measure: make bench NAME=sweep|latency|idle
	@deploy/dev/bootstrap postgres openbao
	@cargo build --quiet --release --locked --bin rekeyd
	@cargo bench --quiet --locked --bench $(or $(NAME),$(error say which: make bench NAME=sweep|latency|idle))

build: ## the release binary
	@deploy/dev/bootstrap
	@cargo build --release --locked

clean: ## remove what was built
	@cargo clean

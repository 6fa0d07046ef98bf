# Everything that a developer or a machine runs. Each target installs what it needs first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export PATH := $(PATH):$(HOME)/.cargo/bin
.DELETE_ON_ERROR:
.PHONY: help demo demo-cluster test prove fuzz soak soak-kill soak-cluster check bench build image clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## watch rotations and a containment on a private PostgreSQL
	@deploy/dev/bootstrap postgres
	@cargo build --quiet --locked --bin rekeyd --example demo
	@target/debug/examples/demo

demo-cluster: ## watch the same on a private Kubernetes: rekeyd as two pods, OpenBao, a canary
	@deploy/dev/bootstrap postgres openbao moto kubernetes
	@cargo build --quiet --locked --bin rekeyd --example demo --example application
	@deploy/dev/with-servers --cluster target/debug/examples/demo cluster

# Frames that are hardly optimised are large: of a test's thread and of a daemon that it starts.
test: ## run all tests, against real servers too
	@deploy/dev/bootstrap postgres mariadb mysql redis valkey rabbitmq clickhouse gitea openbao moto python kubernetes argocd rollouts sshd strace gitleaks
	@rm -rf target/prove
	@cargo test --locked --features proving --no-run
	@status=0; mkdir -p target/tmp; \
	  RUST_MIN_STACK=4194304 \
	  deploy/dev/with-servers --cluster --mariadb --mysql --valkey --clickhouse --gitea cargo test --locked --no-fail-fast --features proving 2>&1 \
	    | tee target/tmp/test.log || status=1; \
	  target/debug/examples/prove || status=1; \
	  awk '/panicked at/ { lines = 12 } /^stack backtrace/ { lines = 0 } lines-- > 0' target/tmp/test.log; \
	  grep -E '^test .* FAILED$$|^test result' target/tmp/test.log; exit $$status

prove: ## show that no crash, fault or race loses a credential, and write target/prove/result.json
	@deploy/dev/bootstrap postgres openbao moto kubernetes gitleaks
	@rm -rf target/prove
	@cargo build --locked --features proving --example prove
	@status=0; cargo test --locked --features proving --test it -- laws:: model:: simulation:: || status=1; \
	  deploy/dev/with-servers --cluster \
	    cargo test --locked --features proving --test live -- reliability:: cluster_sweep:: canary:: || status=1; \
	  target/debug/examples/prove || status=1; exit $$status

fuzz: ## feed what may come from outside: make fuzz FEED=policy|settings|run_document|record|commit|answer|names|address SECONDS=600
	@deploy/dev/bootstrap cargo-fuzz
	@REKEYD_FUZZ_SEEDS=fuzz/corpus cargo test --quiet --locked --features proving --test it -- hostile::
	@for feed in $(or $(FEED),policy settings run_document record commit answer names address); do \
	  echo "feeding $$feed"; mkdir -p fuzz/corpus/$$feed; \
	  REKEYD_FEED=$$feed cargo fuzz run --sanitizer none --target-dir target/fuzz feed fuzz/corpus/$$feed -- \
	    -max_total_time=$(or $(SECONDS),60) -max_len=65536 -print_final_stats=1 || exit 1; \
	done

soak: ## live simulated histories: make soak SEEDS=0..1000000, or one seed to have it told
	@REKEYD_SEEDS=$(or $(SEEDS),0..1000000) cargo test --quiet --locked --features proving --test it -- --nocapture simulation::no_history

soak-kill: ## kill -9 at random moments on real servers: make soak-kill RUNS=10000
	@deploy/dev/bootstrap postgres openbao moto
	@REKEYD_KILLS=$(or $(RUNS),300) deploy/dev/with-servers cargo test --quiet --locked --features proving --test live -- --nocapture no_kill_at_any_moment

soak-cluster: ## rotations and containments back to back in a cluster: make soak-cluster SECONDS=300
	@deploy/dev/bootstrap postgres openbao moto kubernetes sshd
	@cargo build --locked --features proving --bin rekeyd --example application
	@REKEYD_SOAK_SECONDS=$(or $(SECONDS),300) deploy/dev/with-servers --cluster \
	  cargo test --quiet --locked --features proving --test live -- --nocapture endurance::
	@cat target/soak-cluster/*.json

check: ## formatting, lints, dependencies
	@cargo fmt --all --check
	@cargo clippy --locked --all-targets -- -D warnings
	@cargo clippy --locked --all-targets --features proving -- -D warnings
	@deploy/dev/bootstrap cargo-deny
	@cargo deny --locked check

bench: ## measure: make bench NAME=sweep|latency|idle|keys|cluster; a part: ARGS="users=50 rounds=1 targets=redis peer=no"
	@deploy/dev/bootstrap postgres openbao kubernetes mariadb redis rabbitmq clickhouse
	@cargo build --quiet --release --locked --bin rekeyd
	@cargo bench --quiet --locked --bench $(or $(NAME),$(error say which: make bench NAME=sweep|latency|idle|keys|cluster)) -- $(ARGS)

build: ## the release binary
	@deploy/dev/bootstrap
	@cargo build --release --locked
	@! grep -q REKEYD_DISTURB target/release/rekeyd || { echo 'the release has fault points'; rm target/release/rekeyd; exit 1; }

image: build ## an image archive of the release: make image TAG=rekeyd:0.1.0
	@deploy/dev/image target/release/rekeyd $(or $(TAG),rekeyd:latest) target/rekeyd-image.tar --git
	@echo "target/rekeyd-image.tar holds $(or $(TAG),rekeyd:latest); load it with docker load, ctr images import or skopeo"

clean: ## remove what was built
	@cargo clean

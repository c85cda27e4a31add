# Thin names for cargo and rustane. `make help` lists them.

CARGO ?= cargo
FEATURES = rustane/failpoints

.PHONY: help build test lint macos interop bench-step train clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

build: ## the release binary, target/release/rustane
	$(CARGO) build --release --locked

test: ## every test: Rust, and the comparison with transformers where Python packages can be had
	$(CARGO) test --workspace --locked --features $(FEATURES)
	tests/interop/run

lint: ## format and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked --features $(FEATURES) -- -D warnings

macos: ## clippy and a linked executable for macOS, on Debian
	tests/macos/check

interop: ## only the comparison with transformers
	tests/interop/run

train: ## the tiny preset on the built-in stories
	$(CARGO) run --release --locked -- train

bench-step: ## one training step of the 110m preset, with phases
	$(CARGO) run --release --locked -- bench step --preset 110m --seq 256 --batch 4

clean: ## remove what was built
	$(CARGO) clean

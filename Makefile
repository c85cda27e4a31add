# Thin names for cargo and rustane. `make help` lists them.

CARGO ?= cargo
FEATURES = rustane/failpoints
RUSTANE = $(CARGO) run --release --locked --
# More flags for whatever runs rustane, such as ARGS="--device ane" or ARGS="--layers 2".
ARGS ?=

# Where Objective-C can be tested without a Mac.
GNUSTEP = $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m))

.PHONY: help build test test-device apple lint macos interop results submit bench-step train clean \
	sweep-600m sweep-1b sweep-3b sweep-5b sweep-full \
	forward-7b forward-10b forward-ladder forward-ceiling train-600m

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'
	@echo 'ARGS adds flags: make sweep-600m ARGS="--layers 4 --out mine.json"'

build: ## the release binary, target/release/rustane
	$(CARGO) build --release --locked

test: ## every test: Rust, and the comparison with transformers where Python packages can be had
	tests/need vulkan; case $$? in 0) ;; 3) skip="--exclude metal-decode" ;; *) exit 1 ;; esac; \
	$(CARGO) test --workspace $$skip --locked --features $(FEATURES)
	$(if $(GNUSTEP),tests/need gnustep && $(MAKE) apple || [ $$? = 3 ])
	tests/interop/run

apple: ## the bridge to Apple's framework, on GNUstep's Objective-C runtime (Linux, x86-64)
	$(CARGO) test -p fake-ane -p ane-bridge --locked --features ane-bridge/gnustep \
	  --lib --test apple --test apple_changed --test apple_limits
	$(CARGO) test --workspace --locked --features $(FEATURES),backend-ane/gnustep --test apple_training

test-device: ## the suites on this Mac's Neural Engine; they fail where there is none
	$(CARGO) test --locked -p ane-bridge --features device --test device
	$(CARGO) test --locked -p backend-ane --features device --test device_train --test device_infer

lint: ## format and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked --features $(FEATURES) -- -D warnings
	$(if $(GNUSTEP),$(CARGO) clippy -p fake-ane -p ane-bridge --all-targets --locked --features ane-bridge/gnustep -- -D warnings)

macos: ## clippy and a linked executable for macOS, on Debian
	tests/macos/check

interop: ## only the comparison with transformers
	tests/interop/run

train: ## the tiny preset on the built-in stories
	$(RUSTANE) train $(ARGS)

results: ## render results/ as results/index.html
	$(RUSTANE) results index

# As FILE=results/mine.json ENDPOINT=https://…; without an endpoint, a branch for a pull request.
submit: ## show FILE=results, ask, and send it or make a branch for a pull request
	$(RUSTANE) bench submit $(or $(FILE),$(error say which file: make submit FILE=results/mine.json)) $(if $(ENDPOINT),--endpoint $(ENDPOINT),--pull-request) $(ARGS)

bench-step: ## one training step of the 110m preset, with phases
	$(RUSTANE) bench step --preset 110m --seq 256 --batch 4 $(ARGS)

sweep-600m: ## published sweep, 579M parameters: loss before and after ten steps (10 GB)
	$(RUSTANE) bench sweep --config 600m-A $(ARGS)

sweep-1b: ## the same, 1.5B (24 GB, or as many layers as fit)
	$(RUSTANE) bench sweep --config 1b-A --layers fit $(ARGS)

sweep-3b: ## the same, 3.2B (53 GB, or as many layers as fit)
	$(RUSTANE) bench sweep --config 3b-A --layers fit $(ARGS)

sweep-5b: ## the same, 5.0B (83 GB, or as many layers as fit)
	$(RUSTANE) bench sweep --config 5b-A --layers fit $(ARGS)

sweep-full: ## all 25 configurations, slices of those that do not fit
	$(RUSTANE) bench sweep --all --layers fit $(ARGS)

forward-7b: ## published forward pass, 6.5B parameters, one layer in memory at a time
	$(RUSTANE) bench forward --config 7b $(ARGS)

forward-10b: ## the same, 9.7B
	$(RUSTANE) bench forward --config 10b $(ARGS)

forward-ladder: ## the same, 5B to 20B
	$(RUSTANE) bench forward --ladder $(ARGS)

forward-ceiling: ## the same, 25B and 30B
	$(RUSTANE) bench forward --ceiling $(ARGS)

# The flags of the original's target; its rate for the embedding is that of everything else here.
train-600m: ## train the 600M shape on DATA=file (text, jsonl, parquet, tokens; else the built-in stories) for STEPS=72000
	$(RUSTANE) train --preset 600m-a $(if $(DATA),--data $(DATA)) --optimizer adamw --lr 3e-4 --warmup 100 --clip 1 \
		--set optimizer.beta2=0.99 --set model.residual_scale=0.15811388 --accum 1 --steps $(or $(STEPS),72000) $(ARGS)

clean: ## remove what was built
	$(CARGO) clean

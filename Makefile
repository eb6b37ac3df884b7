# What people and CI type. The work is in cargo and in scripts/; each target here is one line of either.

.PHONY: help build install uninstall deb demo test torture bench bench-full format lint clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the daemon, the library and the tools, release build, in target/release
	cargo build --release --locked --workspace
	@# cargo writes the library under its link name only; the loader looks for the soname inside it.
	@ln -sfn libhostkv.so "$${CARGO_TARGET_DIR:-target}/release/libhostkv.so.0"

install: ## what was built, with PREFIX (/usr/local), LIBDIR, SYSCONFDIR and DESTDIR
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' LIBDIR='$(LIBDIR)' SYSCONFDIR='$(SYSCONFDIR)' scripts/install-files.sh install

uninstall: ## take it away again, with the same variables
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' LIBDIR='$(LIBDIR)' SYSCONFDIR='$(SYSCONFDIR)' scripts/install-files.sh uninstall

deb: build ## the Debian packages hostkvd, libhostkv0 and libhostkv-dev, in target/debian
	@scripts/build-debs.sh

demo: ## a real engine on the cache: installs, builds and shows everything (HOSTKV_DEMO_MODEL, HOSTKV_DEMO_TOKENS)
	@scripts/demo.sh

test: ## every check, quick ones first; installs the compilers and checkers it needs
	@scripts/test.sh

torture: ## the worst that one host allows, for MINUTES=80 (SEED=, ONLY=F1,F7 repeat a part)
	@scripts/torture.sh

bench: ## hostkv, the machine's limits and its peers, as ratios, in at most 15 minutes; report in target/bench
	@scripts/bench.sh

bench-full: ## the same with 10^7 keys and a real engine
	@scripts/bench.sh --full

format: ## format the Rust sources
	cargo fmt --all

lint: ## clippy, warnings are errors
	cargo clippy --workspace --all-targets --locked -- -D warnings

clean: ## remove target/ (llama.cpp stays in its cache, see scripts/build-llama.sh)
	cargo clean

#!/usr/bin/env bash
# Measures hostkv, the machine's limits and its peers, and writes target/bench/report.md.
#
#   scripts/bench.sh [--full] [--only GROUP]
#
# Installs the peers' servers where it may (scripts/install.sh bench); what is not there in the end is SKIPPED in the
# report. --full also measures 10^7 keys and a real engine, for which scripts/demo.sh builds llama.cpp once per machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/install.sh bench || echo "bench: going on without the servers that are missing." >&2
if HOSTKV_BENCH_PLASMA=$(scripts/build-plasma.sh); then
  export HOSTKV_BENCH_PLASMA
else
  unset HOSTKV_BENCH_PLASMA
fi
cargo build --release --locked -p hostkv-daemon -p hostkv-bench
exec "${CARGO_TARGET_DIR:-target}/release/hostkv-bench" "$@"

#!/usr/bin/env bash
# Runs the daemon's store, a writer and two readers of the library together under random schedules.
#
#   scripts/shuttle.sh               10,000 schedules, from a seed of the clock
#   scripts/shuttle.sh N             N schedules
#   HOSTKV_TEST_SEED=7 scripts/shuttle.sh     the same ones again
#
# Prints the seed, and at a failure the schedule. The build is in target/shuttle, because --cfg shuttle rebuilds everything.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

count=${1:-10000}
[[ $count =~ ^[1-9][0-9]{0,8}$ ]] || { echo "shuttle: '$count' is no number of schedules" >&2; exit 2; }
export HOSTKV_SCHEDULES=$count HOSTKV_TEST_SEED=${HOSTKV_TEST_SEED:-$(date +%s)}
RUSTFLAGS="${RUSTFLAGS-} --cfg shuttle" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/shuttle" \
  cargo test --locked -p hostkv-fuzz-bodies --test schedules -- --nocapture

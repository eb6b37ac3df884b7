#!/usr/bin/env bash
# Runs the models of the shared-memory protocol and prints, for each, how many executions were explored and which
# ways to break it were caught. Fails when a model fails or a mutant is not caught.
#
#   scripts/models.sh                       half a minute, after a build of a minute
#   HOSTKV_MODEL_FULL=1 scripts/models.sh   wider bounds: about ten minutes
#   scripts/models.sh NAME                  only the models whose test's name contains NAME
#
# The build has a target folder of its own, target/loom, because --cfg loom rebuilds everything.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

output=$(mktemp)
trap 'rm -f "$output"' EXIT
code=0
RUSTFLAGS="${RUSTFLAGS-} --cfg loom" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/loom" \
  cargo test --release --locked -p hostkv-shm-protocol --test loom -- --nocapture --test-threads=2 "$@" 2>&1 |
  tee "$output" || code=$?

models=$(grep -c '^model ' "$output" || true)
mutants=$(grep -c '^  mutant ' "$output" || true)
caught=$(grep -c '^  mutant .* caught: ' "$output" || true)
printf '\n%d models, %d of %d mutants caught\n' "$models" "$caught" "$mutants"
((code == 0 && models > 0 && caught == mutants)) || exit 1

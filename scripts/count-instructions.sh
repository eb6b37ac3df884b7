#!/usr/bin/env bash
# Counts the worker's instructions of a read, one acquire and release of 16 keys, with telemetry off and on: a figure
# that a busy machine cannot blur. cargo build --release -p hostkv-daemon -p hostkv-tests first. Takes ten seconds.
#
# Fails when a read with telemetry off takes over 3 % more than the figure below. What made it dearer is then to be found,
# or, if it is worth it or another compiler is the cause, the figure to be written anew. Exit code 77 without valgrind.
# Without sums: what comparing them costs depends on the size of the objects, not on the path that is counted here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

known_off=11422

command -v valgrind >/dev/null || { echo "SKIPPED: there is no valgrind to count with"; exit 77; }
target=${CARGO_TARGET_DIR:-$PWD/target}
work=$(mktemp -d)
daemon=
stop() {
  [[ -z $daemon ]] || { kill "$daemon" && wait "$daemon"; } || true
  daemon=
}
trap 'stop; rm -rf "$work"' EXIT

# counted MODE ROUNDS: instructions of the worker inside its reads.
counted() {
  timeout 60 valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect=hostkv_counted_reads \
    "$target/release/hostkv-test-counted" "$work/$1.sock" "$2" 2>"$work/valgrind" || { cat "$work/valgrind" >&2; return 1; }
  sed -n 's/^==[0-9]*== Collected : //p' "$work/valgrind"
}

# per_read MODE FLAG…: instructions of one read, by the difference of two runs, so that the first reads weigh nothing.
per_read() {
  local mode=$1 few many
  shift
  # The level hides the lines of reads: what is left is what telemetry alone costs.
  LMCACHE_LOG_LEVEL=WARNING timeout 120 "$target/release/hostkvd" --socket "$work/$mode.sock" --l1-size-gb 0.03125 \
    --disable-prometheus --integrity off "$@" 2>"$work/$mode.log" &
  daemon=$!
  for _ in {1..200}; do
    [[ ! -S $work/$mode.sock ]] || break
    sleep 0.05
  done
  few=$(counted "$mode" 500)
  many=$(counted "$mode" 1500)
  stop
  awk -v few="$few" -v many="$many" 'BEGIN { printf "%.1f\n", (many - few) / 1000 }' >"$work/$mode.figure"
}

per_read off
per_read on --enable-telemetry --telemetry-processor "{\"type\": \"jsonl\", \"path\": \"$work/events\"}"

# START and END of each lookup: a read without its events would be a cheap one.
events=$(grep -c '^{"name":"lookup"' "$work/events" || true)
[[ $events == 4000 ]] || { echo "count-instructions: $events events of lookups instead of 4000" >&2; exit 1; }

awk -v off="$(cat "$work/off.figure")" -v on="$(cat "$work/on.figure")" -v known="$known_off" 'BEGIN {
  printf "a read of 16 keys: %.1f instructions with telemetry off (known: %d), %.1f with it on: %.1f more\n", off, known, on, on - off
  if (off < 1000 || on <= off) { print "these are not the counts of reads"; exit 1 }
  if (off > known * 1.03) { printf "off, a read takes %.1f %% more than is known\n", (off / known - 1) * 100; exit 1 }
}'

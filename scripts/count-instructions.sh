#!/usr/bin/env bash
# Counts the worker's instructions of a read through the C interface, one acquire and release of some keys: a figure that a
# busy machine cannot blur. cargo build --release -p hostkv-daemon -p hostkv-tests first. Takes half a minute.
#
# Fails when a read takes more than LIMIT % above its figure in the table below. What made it dearer is then to be found,
# or, if it is worth it or another compiler is the cause, the figure to be written anew; also when a read has become
# cheaper. Exit code 77 without valgrind.
#
#   scripts/count-instructions.sh --figures    only prints the table as it would stand here
#
# "on" is with telemetry. "sampled" is with sums as by default; the others are without, because what comparing one costs
# depends on the size of the object, which is small here, and not on the path that is counted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

limit=5
# keys, mode, instructions of one acquire and release
table='
1 off 1623
32 off 10057
256 off 69678
32 on 11105
256 sampled 74196
'

command -v valgrind >/dev/null || { echo "SKIPPED: there is no valgrind to count with"; exit 77; }
target=${CARGO_TARGET_DIR:-$PWD/target}
work=$(mktemp -d)
daemon=
stop() {
  [[ -z $daemon ]] || { kill "$daemon" && wait "$daemon"; } || true
  daemon=
}
trap 'stop; rm -rf "$work"' EXIT

# start NAME FLAG…: a daemon at the socket NAME.
start() {
  local name=$1
  shift
  # The level hides the lines of reads: what is left is what telemetry alone costs.
  LMCACHE_LOG_LEVEL=WARNING timeout 300 "$target/release/hostkvd" --socket "$work/$name.sock" --l1-size-gb 0.03125 \
    --disable-prometheus "$@" 2>"$work/$name.log" &
  daemon=$!
  for _ in {1..200}; do
    [[ ! -S $work/$name.sock ]] || break
    sleep 0.05
  done
}

# counted NAME KEYS ROUNDS: instructions of the worker inside its reads.
counted() {
  timeout 60 valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect=hostkv_counted_reads \
    "$target/release/hostkv-test-counted" "$work/$1.sock" reads "$2" "$3" 2>"$work/valgrind" >/dev/null ||
    { cat "$work/valgrind" >&2; return 1; }
  sed -n 's/^==[0-9]*== Collected : //p' "$work/valgrind"
}

# per_read NAME KEYS: instructions of one read, by the difference of two runs, so that the first reads weigh nothing.
per_read() {
  local few many
  few=$(counted "$1" "$2" 50)
  many=$(counted "$1" "$2" 250)
  echo $(((many - few + 100) / 200))
}

# flags MODE: sets the flags of a daemon.
flags() {
  case $1 in
    off) flags=(--integrity off) ;;
    sampled) flags=(--integrity sampled) ;;
    on) flags=(--integrity off --enable-telemetry --telemetry-processor "{\"type\": \"jsonl\", \"path\": \"$work/events\"}") ;;
  esac
}

code=0
mode=
while read -r keys wanted known; do
  [[ -n $keys ]] || continue
  if [[ $wanted != "$mode" ]]; then
    stop
    mode=$wanted
    flags "$mode"
    start "$mode" "${flags[@]}"
  fi
  now=$(per_read "$mode" "$keys")
  if [[ ${1-} == --figures ]]; then
    echo "$keys $mode $now"
    continue
  fi
  LC_ALL=C awk -v keys="$keys" -v mode="$mode" -v now="$now" -v known="$known" -v limit="$limit" '
    function grouped(n, text) {
      for (text = ""; n >= 1000; n = int(n / 1000)) text = sprintf(",%03d%s", n % 1000, text)
      return n text
    }
    BEGIN {
      change = (now / known - 1) * 100
      told = mode == "on" ? " with telemetry" : mode == "sampled" ? " with sums" : ""
      printf "acquire+release of %d %s%s: %s instructions, was %s (%+.0f %%), limit %d %%\n", keys,
        keys == 1 ? "key" : "keys", told, grouped(now), grouped(known), change, limit
      # Fewer than a read can do with are no counts of reads.
      exit change > limit || now < 100 * (keys > 1 ? keys / 10 : 1)
    }' || code=1
done <<<"$table"
stop

# START and END of each lookup: a read without its events would be a cheap one.
events=$(grep -c '^{"name":"lookup"' "$work/events" || true)
# Two runs, each with its first read and 64 to warm up.
expected=$((2 * (2 * 65 + 50 + 250)))
[[ $events == "$expected" ]] || { echo "count-instructions: $events events of lookups instead of $expected" >&2; exit 1; }
exit "$code"

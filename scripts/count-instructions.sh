#!/usr/bin/env bash
# Counts the worker's instructions of a read through the C interface, one acquire and release of some keys, and the daemon's of
# a store, one reserve and commit: figures that a busy machine cannot blur. cargo build --release -p hostkv-daemon
# -p hostkv-tests first. Takes a minute.
#
# Fails when a read or a store takes more than LIMIT % above its figure below. What made it dearer is then to be found,
# or, if it is worth it or another compiler is the cause, the figure to be written anew; also when a read has become
# cheaper. Exit code 77 without valgrind.
#
#   scripts/count-instructions.sh --figures    only prints the table as it would stand here
#
# "on" is with telemetry. "sampled" is with sums as by default; the others are without, because what comparing one costs
# depends on the size of the object, which is small here, and not on the path that is counted.
# The daemon's are those of carrying its requests out, from the receipt of a frame to the reply, at the default log level.
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
# keys, instructions of the daemon for one reserve and commit
stores='
32 43467
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

# compared WHAT KEYS NOW KNOWN LEAST: says by how much a figure has changed; fails beyond the limit, or below what it can be.
compared() {
  LC_ALL=C awk -v what="$1" -v keys="$2" -v now="$3" -v known="$4" -v least="$5" -v limit="$limit" '
    function grouped(n, text) {
      for (text = ""; n >= 1000; n = int(n / 1000)) text = sprintf(",%03d%s", n % 1000, text)
      return n text
    }
    BEGIN {
      change = (now / known - 1) * 100
      split(what, part, "|")
      printf "%s of %d %s%s: %s instructions, was %s (%+.0f %%), limit %d %%\n", part[1], keys,
        keys == 1 ? "key" : "keys", part[2], grouped(now), grouped(known), change, limit
      exit change > limit || now < least
    }'
}

# stored KEYS ROUNDS: instructions of a daemon of its own for so many stores and those that warm up.
stored() {
  local count
  rm -f "$work/store.sock"
  # The pool is never so full that it evicts, and no thread but the loop has work.
  LD_PRELOAD="$work/pidfd.so" timeout 120 valgrind --tool=callgrind --callgrind-out-file=/dev/null \
    --toggle-collect="hostkv_daemon::server::session::Client::step" "$target/release/hostkvd" --socket "$work/store.sock" \
    --l1-size-gb 0.03125 --l1-align-bytes 64 --max-objects 20000 --disable-prometheus --integrity off \
    2>"$work/store.log" &
  daemon=$!
  for _ in {1..400}; do
    [[ ! -S $work/store.sock ]] || break
    sleep 0.1
  done
  timeout 60 "$target/release/hostkv-test-counted" "$work/store.sock" small "$1" "$2" >/dev/null || { cat "$work/store.log" >&2; return 1; }
  stop
  count=$(sed -n 's/^==[0-9]*== Collected : //p' "$work/store.log")
  echo "$count"
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
  case $mode in
    on) how="| with telemetry" ;;
    sampled) how="| with sums" ;;
    *) how= ;;
  esac
  # Fewer than a read can do with are no counts of reads.
  compared "acquire+release$how" "$keys" "$now" "$known" $((keys > 1 ? keys * 10 : 100)) || code=1
done <<<"$table"
stop

"${CC:-cc}" -shared -fPIC -O1 -o "$work/pidfd.so" tests/c/pidfd_for_valgrind.c -ldl
while read -r keys known; do
  [[ -n $keys ]] || continue
  few=$(stored "$keys" 50)
  many=$(stored "$keys" 250)
  now=$(((many - few + 100) / 200))
  if [[ ${1-} == --figures ]]; then
    echo "$keys $now"
    continue
  fi
  compared "the daemon's part of reserve+commit" "$keys" "$now" "$known" $((keys * 100)) || code=1
done <<<"$stores"

# START and END of each lookup: a read without its events would be a cheap one.
events=$(grep -c '^{"name":"lookup"' "$work/events" || true)
# Two runs, each with its first read and 64 to warm up.
expected=$((2 * (2 * 65 + 50 + 250)))
[[ $events == "$expected" ]] || { echo "count-instructions: $events events of lookups instead of $expected" >&2; exit 1; }
exit "$code"

#!/usr/bin/env bash
# Runs the daemon, the library and the C programs under the checkers of memory and of threads.
#
#   scripts/sanitize.sh address            the end-to-end suite with daemon and library under the address sanitizer
#   scripts/sanitize.sh address --short    the tests of it that reach most memory
#   scripts/sanitize.sh thread             the C client under valgrind's helgrind and, where the standard library can be
#                                          rebuilt, with the library itself under the thread sanitizer
#   scripts/sanitize.sh miri               the pure parts of shm-protocol, in an interpreter that knows undefined behaviour
#
# RUSTC_BOOTSTRAP=1 makes stable take the sanitizer's flag. Builds are in target/sanitize-*. A part that the machine lacks
# the means for is said. Exit code: 0 nothing was found, 1 something was, 2 wrong arguments, 77 nothing could be run.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

tool=${1-} short=${2-}
[[ -z $short || ($short == --short && $tool == address) ]] || { echo "sanitize: what is '$short'? The head of this script lists all." >&2; exit 2; }
target=${CARGO_TARGET_DIR:-$PWD/target}
[[ $target == /* ]] || target=$PWD/$target
host=$(rustc -vV | sed -n 's/^host: //p')
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
ran=0 failed=0

has() { command -v "$1" >/dev/null; }
skip() { echo "SKIPPED: $*"; }
# check NAME COMMAND…
check() {
  local name=$1
  shift
  ran=$((ran + 1))
  if "$@" >"$work/log" 2>&1 && ! grep -qE 'WARNING: ThreadSanitizer|ERROR: AddressSanitizer' "$work/log"; then
    printf 'ok      %s: %s\n' "$name" "$(grep -E '^(test result:|[0-9]+ passed)' "$work/log" | tail -1)"
  else
    failed=1
    printf 'FAILED  %s\n' "$name"
    grep -E -m3 -A25 'ERROR: AddressSanitizer|WARNING: ThreadSanitizer|^==[0-9]+== [A-Z]|Undefined Behavior|panicked' "$work/log" || tail -40 "$work/log"
  fi
}

# Tests that reach most memory: hostile frames and leases, deaths in the middle, pins, copies from staging, telemetry.
telling=(
  client_crash:: write_path:: read_path:: versions:: untrusted:: quota:: eviction:: integrity::
  torture::a_client_that_flips torture::a_client_killed_at_any_step torture::what_a_client_without_a_socket
)
# What they measure is the machine or the allocator, which the sanitizer is in the way of.
unfit=(system_calls:: startup_errors:: a_flood_of_connections in_any_memory_cgroup in_little_memory a_daemon_in_little_memory)

address() {
  export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR=$target/sanitize-address
  # A process that ends on the way has not given back what it holds, which is no leak.
  export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:${ASAN_OPTIONS-}
  local names=() skipped=() features=()
  # The clients of object stores take longer to build than all else, and none of the telling tests reaches them.
  [[ $short == --short ]] && features=(--no-default-features)
  cargo build --quiet --locked --target "$host" "${features[@]}" -p hostkv-daemon || return 1
  cargo build --quiet --locked --target "$host" -p hostkv-tests --bins || return 1
  cargo test --quiet --locked --target "$host" -p hostkv-tests --test e2e --no-run || return 1
  if [[ $short == --short ]]; then names=("${telling[@]}"); fi
  local name
  for name in "${unfit[@]}"; do skipped+=(--skip "$name"); done
  cargo test --locked --target "$host" -p hostkv-tests --test e2e -- "${names[@]}" "${skipped[@]}"
}

# build COMPILER NAME FLAG…: tests/c/NAME.c as $work/NAME
build() { "$1" -std=c11 -g -O1 -pthread -Iinclude "tests/c/$2.c" -o "$work/$2" "${@:3}"; }
beside_daemon() { python3 scripts/hostkv_daemon.py --daemon "$folder/hostkvd" --pool-gib 0.0625 -- "$@"; }
# Builds what the C programs need, and says where it is.
library() {
  folder=$target/debug
  cargo build --quiet --locked -p hostkv-client-ffi -p hostkv-daemon || return 1
  ln -sfn libhostkv.so "$folder/libhostkv.so.0"
  link=("-L$folder" -lhostkv "-Wl,-rpath,$folder")
}

by_helgrind() {
  build cc threads "${link[@]}" &&
    beside_daemon valgrind --tool=helgrind -q --error-exitcode=99 --suppressions=tests/c/helgrind.supp "$work/threads" 5
}
whole() {
  RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=thread" CARGO_TARGET_DIR=$target/sanitize-thread \
    cargo build --quiet --locked --target "$host" -Zbuild-std -p hostkv-client-ffi &&
    build clang threads -fsanitize=thread "$target/sanitize-thread/$host/debug/libhostkv.a" -ldl -lm &&
    TSAN_OPTIONS=halt_on_error=1:exitcode=66 beside_daemon "$work/threads" 100
}

miri() {
  MIRIFLAGS=-Zmiri-disable-isolation CARGO_TARGET_DIR=$target/sanitize-miri PROPTEST_CASES=4 \
    cargo +nightly miri test --locked -p hostkv-shm-protocol --lib --test segments
}

case $tool in
  address) check "address sanitizer, end-to-end suite${short:+, its short form}" address ;;
  thread)
    library || exit 1
    if has valgrind; then check "threads.c under helgrind" by_helgrind; else skip "there is no valgrind"; fi
    if [[ -d $(rustc --print sysroot)/lib/rustlib/src/rust/library ]] && has clang; then
      check "threads.c and the library under the thread sanitizer" whole
    else
      skip "the library under the thread sanitizer: that takes clang and the sources of the standard library (rustup component add rust-src)"
    fi
    ;;
  miri)
    cargo +nightly miri --version >/dev/null 2>&1 || {
      skip "there is no miri (rustup toolchain install nightly --component miri)"
      exit 77
    }
    check "miri on shm-protocol" miri
    ;;
  *) echo "sanitize: '$tool' is none of address, thread, miri" >&2; exit 2 ;;
esac
((ran)) || exit 77
exit "$failed"

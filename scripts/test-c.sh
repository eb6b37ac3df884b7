#!/usr/bin/env bash
# Checks the C interface: hostkv.h in every dialect by two compilers, the exported symbols and the soname, and
# tests/c against a daemon of its own, plain, under sanitizers, under valgrind, and linked statically.
#
#   scripts/test-c.sh              the release build: cargo build --release -p hostkv-client-ffi -p hostkv-daemon first
#   HOSTKV_PROFILE=debug scripts/test-c.sh        the debug build
#
# A check whose compiler or valgrind is missing is skipped and counted. The last line is
# `N passed, N failed, N skipped`; the exit code is 1 if one failed or none passed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

target=${CARGO_TARGET_DIR:-$PWD/target}
[[ $target == /* ]] || target=$PWD/$target
library=$target/${HOSTKV_PROFILE:-release}
daemon=$library/hostkvd
for file in "$library/libhostkv.so" "$library/libhostkv.a" "$daemon"; do
  [[ -e $file ]] || { echo "test-c: $file is missing; build hostkv-client-ffi and hostkv-daemon first." >&2; exit 1; }
done
# cargo writes the library under its link name only; the loader looks for the soname inside it.
ln -sfn libhostkv.so "$library/libhostkv.so.0" || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

pedantic=(-Wall -Wextra -Wpedantic -Werror)
strict=(-g -O1 "${pedantic[@]}" -Wconversion -Wshadow -pthread -Iinclude)
link=("-L$library" -lhostkv "-Wl,-rpath,$library")
static=("$library/libhostkv.a" -ldl -lm)
passed=0 failed=0 skipped=0

# check NAME COMMAND…: runs it, counts it, shows what a failed one said.
check() {
  local name=$1
  shift
  if "$@" >"$work/log" 2>&1; then
    passed=$((passed + 1))
    printf 'ok      %s%s\n' "$name" "$(grep -oE '^[0-9]+ passed, 0 failed$' "$work/log" | sed 's/^/: /')"
  else
    failed=$((failed + 1))
    printf 'FAILED  %s\n' "$name"
    sed 's/^/    /' "$work/log"
  fi
}

skip() {
  skipped=$((skipped + 1))
  printf 'SKIPPED %s: %s is not installed\n' "$1" "$2"
}

has() { command -v "$1" >/dev/null; }

beside_daemon() { python3 scripts/hostkv_daemon.py --daemon "$daemon" --pool-gib 0.0625 -- "$@"; }

# --- the library's face

exports() { diff client-ffi/abi/exports.txt <(nm -D --defined-only "$library/libhostkv.so" | awk '{print $3}' | LC_ALL=C sort); }
soname() { readelf -d "$library/libhostkv.so" | grep -F 'Library soname: [libhostkv.so.0]'; }
check "exported symbols are those of client-ffi/abi/exports.txt" exports
check "the soname is libhostkv.so.0" soname

# --- the header, in every dialect

# dialect COMPILER LANGUAGE DIALECT SOURCE: the header alone, and the source, linked and run.
dialect() {
  "$1" "-std=$3" "${pedantic[@]}" -fsyntax-only -x "$2" include/hostkv.h &&
    "$1" "-std=$3" "${pedantic[@]}" -Iinclude "$4" -o "$work/header" "${link[@]}" && "$work/header"
}
for compiler in gcc clang; do
  for standard in c99 c11 c17; do
    name="hostkv.h as $standard by $compiler"
    if has "$compiler"; then check "$name" dialect "$compiler" c "$standard" tests/c/header_c99.c; else skip "$name" "$compiler"; fi
  done
done
for compiler in g++ clang++; do
  for standard in c++11 c++17 c++20; do
    name="hostkv.h as $standard by $compiler"
    if has "$compiler"; then check "$name" dialect "$compiler" c++ "$standard" tests/c/header_cpp.cpp; else skip "$name" "$compiler"; fi
  done
done

# --- the programs

# build COMPILER NAME FLAG…: tests/c/NAME.c, or else examples/NAME.c, as $work/NAME-COMPILER
build() {
  local source=tests/c/$2.c
  [[ -e $source ]] || source=examples/$2.c
  "$1" -std=c11 "${strict[@]}" "$source" -o "$work/$2-$1" "${@:3}"
}

abi() { build "$1" abi "${link[@]}" && "$work/abi-$1"; }
plain() { build "$1" "$2" "${link[@]}" && beside_daemon "$work/$2-$1" "${@:3}"; }
linked_statically() { build cc misuse "${static[@]}" && beside_daemon "$work/misuse-cc"; }

# The sanitizers watch the C side, and the leak check every allocation, the library's too.
sanitized() {
  build "$1" "$2" -fsanitize=address,undefined -fno-sanitize-recover=all "${link[@]}" &&
    ASAN_OPTIONS=detect_leaks=1 beside_daemon "$work/$2-$1" "${@:3}"
}

# Also the library's own reads and writes; any line of valgrind's is a failure, a child's too.
under_valgrind() {
  local leaks=$1 name=$2
  shift 2
  build cc "$name" "${link[@]}" &&
    beside_daemon valgrind -q --error-exitcode=99 "--leak-check=$leaks" --errors-for-leak-kinds=definite,possible \
      "$work/$name-cc" "$@" 2>&1 | tee "$work/valgrind" && ! grep -E '^==[0-9]+==' "$work/valgrind" >/dev/null
}

for compiler in gcc clang; do
  for program in abi batches misuse prefetch threads; do
    if ! has "$compiler"; then
      skip "$program by $compiler" "$compiler"
    elif [[ $program == abi ]]; then
      check "abi by $compiler" abi "$compiler"
    else
      check "$program by $compiler" plain "$compiler" "$program"
    fi
  done
done
check "misuse linked statically" linked_statically
for program in batches misuse prefetch threads roundtrip; do
  check "$program under the address and undefined-behaviour sanitizers" sanitized gcc "$program"
done
if has valgrind; then
  # No leak check here: in the forked child it would look through mappings that the child does not have.
  check "batches under valgrind" under_valgrind no batches
  check "misuse under valgrind" under_valgrind no misuse
  check "prefetch under valgrind" under_valgrind no prefetch
  check "threads under valgrind" under_valgrind full threads 20
  check "roundtrip under valgrind" under_valgrind full roundtrip
else
  skip "batches under valgrind" valgrind
  skip "misuse under valgrind" valgrind
  skip "prefetch under valgrind" valgrind
  skip "threads under valgrind" valgrind
  skip "roundtrip under valgrind" valgrind
fi

printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
((failed == 0 && passed > 0))

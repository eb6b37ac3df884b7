#!/usr/bin/env bash
# Compiles tests/c/hostkv_hpp.cpp in every dialect and with every compiler that hostkv.hpp promises, runs each result
# against the daemon that HOSTKV_SOCKET names (scripts/hostkv_daemon.py starts one), and prints the table of what came of
# it. The test calls every function that the library exports, and the header explains everything that is public
# (scripts/header_docs.py). The release build of the library comes first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=${CARGO_TARGET_DIR:-$PWD/target}
[[ $target == /* ]] || target=$PWD/$target
library=$target/release
mkdir -p "$target/examples"
ln -sfn libhostkv.so "$library/libhostkv.so.0"
program=$target/examples/hostkv_hpp
strict=(-O1 -g -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
modes=("exceptions" "HOSTKV_NO_EXCEPTIONS" "-fno-exceptions -fno-rtti")
exports=client-ffi/abi/exports.txt

python3 scripts/header_docs.py include/hostkv.hpp "$exports"

count=0
table=$(printf '%-28s %-8s %-22s %-22s %s' compiler dialect "${modes[@]}")
for compiler in g++ clang++; do
  name=$("$compiler" --version | head -n 1 | sed -E 's/^(Debian )?(clang|g\+\+).* ([0-9]+\.[0-9.]+).*/\2 \3/')
  # c++2b: the older of the supported compilers do not know the name c++23 yet.
  for dialect in c++17 c++20 c++2b; do
    row=$(printf '%-28s %-8s' "$name" "$dialect")
    for mode in "${modes[@]}"; do
      case $mode in
        exceptions) flags=() ;;
        HOSTKV_NO_EXCEPTIONS) flags=(-DHOSTKV_NO_EXCEPTIONS) ;;
        *) read -ra flags <<<"$mode" ;;
      esac
      "$compiler" "-std=$dialect" "${flags[@]}" "${strict[@]}" -Iinclude tests/c/hostkv_hpp.cpp -o "$program" \
        "-L$library" -lhostkv "-Wl,-rpath,$library"
      said=$("$program")
      # Nothing that the library exports is out of reach, and nothing is untested.
      diff "$exports" <(nm -u "$program" | grep -o 'hostkv_[a-z_]*' | LC_ALL=C sort -u) >&2 ||
        { echo "test-cpp-header: the test does not call what $exports lists" >&2; exit 1; }
      row+=$(printf ' %-22s' "${said#hostkv_hpp: }")
      count=$((count + 1))
    done
    table+=$'\n'$row
  done
done
printf '%s\n' "$table"
echo "test-cpp-header: $count builds of hostkv.hpp compiled without a warning and ran"

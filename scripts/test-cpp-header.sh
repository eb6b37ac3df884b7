#!/usr/bin/env bash
# Compiles tests/c/hostkv_hpp.cpp in every dialect and with every compiler that hostkv.hpp promises, and runs
# each result against the daemon that HOSTKV_SOCKET names (scripts/hostkv_daemon.py starts one). The release
# build of the library comes first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=${CARGO_TARGET_DIR:-$PWD/target}
[[ $target == /* ]] || target=$PWD/$target
library=$target/release
mkdir -p "$target/examples"
ln -sfn libhostkv.so "$library/libhostkv.so.0"
program=$target/examples/hostkv_hpp
strict=(-O1 -g -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)

count=0
for compiler in g++ clang++; do
  # c++2b: the older of the supported compilers do not know the name c++23 yet.
  for dialect in c++17 c++20 c++2b; do
    for mode in "" -DHOSTKV_NO_EXCEPTIONS "-fno-exceptions -fno-rtti"; do
      read -ra mode_flags <<<"$mode"
      echo "$compiler -std=$dialect $mode"
      "$compiler" "-std=$dialect" "${mode_flags[@]}" "${strict[@]}" -Iinclude tests/c/hostkv_hpp.cpp -o "$program" \
        "-L$library" -lhostkv "-Wl,-rpath,$library"
      "$program"
      count=$((count + 1))
    done
  done
done
echo "test-cpp-header: $count builds of hostkv.hpp compiled and ran"

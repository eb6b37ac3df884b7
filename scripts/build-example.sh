#!/usr/bin/env bash
# Builds one of the examples against include/ and the release build of the library, and prints the
# program's path. `cargo build --release -p hostkv-client-ffi` comes first.
#
#   scripts/build-example.sh c              examples/roundtrip.c
#   scripts/build-example.sh cpp            examples/roundtrip.cpp
#   scripts/build-example.sh integration    examples/integration: serve, ranks and gpu; prints their folder
#   scripts/build-example.sh llama FOLDER   examples/llama, with the folder that scripts/build-llama.sh prints
#
# CC, CXX, CFLAGS and CXXFLAGS are honoured.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=${CARGO_TARGET_DIR:-$PWD/target}
[[ $target == /* ]] || target=$PWD/$target
library=$target/release
out=$target/examples
[[ -e $library/libhostkv.so ]] || { echo "build-example: $library/libhostkv.so is missing; run cargo build --release first." >&2; exit 1; }
mkdir -p "$out"

# cargo writes the library under its link name only; the loader looks for the soname inside it.
ln -sfn libhostkv.so "$library/libhostkv.so.0"

strict=(-O2 -g -Wall -Wextra -Wpedantic -Wconversion -Werror)
link=("-L$library" -lhostkv "-Wl,-rpath,$library")
read -ra c_flags <<<"${CFLAGS-}"
read -ra cxx_flags <<<"${CXXFLAGS-}"

case ${1-} in
  c)
    ${CC:-cc} -std=c99 "${strict[@]}" "${c_flags[@]}" -Iinclude examples/roundtrip.c -o "$out/roundtrip-c" "${link[@]}"
    echo "$out/roundtrip-c"
    ;;
  cpp)
    ${CXX:-c++} -std=c++17 "${strict[@]}" "${cxx_flags[@]}" -Iinclude examples/roundtrip.cpp -o "$out/roundtrip-cpp" "${link[@]}"
    echo "$out/roundtrip-cpp"
    ;;
  integration)
    mkdir -p "$out/integration"
    # cache.c asks POSIX for the clock.
    ${CC:-cc} -std=c99 -D_POSIX_C_SOURCE=200809L "${strict[@]}" "${c_flags[@]}" -Iinclude \
      examples/integration/serve.c examples/integration/cache.c -o "$out/integration/serve" "${link[@]}"
    ${CXX:-c++} -std=c++17 "${strict[@]}" "${cxx_flags[@]}" -Iinclude examples/integration/ranks.cpp -o "$out/integration/ranks" "${link[@]}"
    ${CXX:-c++} -std=c++17 "${strict[@]}" "${cxx_flags[@]}" -Iinclude -isystem examples/integration/stand-in \
      examples/integration/gpu.cpp -o "$out/integration/gpu" "${link[@]}"
    echo "$out/integration"
    ;;
  llama)
    engine=${2?the folder that scripts/build-llama.sh prints}
    ${CXX:-c++} -std=c++17 "${strict[@]}" "${cxx_flags[@]}" -Iinclude -isystem "$engine/include" examples/llama/hostkv_llama.cpp \
      -o "$out/hostkv-llama" "${link[@]}" "-L$engine/lib" -lllama -lggml -lggml-base "-Wl,-rpath,$engine/lib"
    echo "$out/hostkv-llama"
    ;;
  *)
    echo "usage: scripts/build-example.sh c | cpp | integration | llama FOLDER" >&2
    exit 2
    ;;
esac

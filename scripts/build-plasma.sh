#!/usr/bin/env bash
# Fetches Plasma, the object store that pyarrow had until version 11, for make bench, once per machine.
#
#   scripts/build-plasma.sh         progress on standard error, the folder it is in on standard output
#
# Afterwards that folder holds plasma-store-server and libbench-plasma.so, which is bench/peers/plasma.cpp on Plasma's
# own C++ client. Nothing of Python runs. Exit code 77 where there is no such wheel (x86-64 Linux only) or no compiler.
#
#   HOSTKV_CACHE_DIR   where the folder goes, default $HOME/.cache/hostkv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'build-plasma: %s\n' "$*" >&2; }
skip() { say "SKIPPED: $*"; exit 77; }

[[ $(uname -m) == x86_64 ]] || skip "the wheel of pyarrow 11 is for x86-64."
for tool in g++ python3 sha256sum; do
  command -v "$tool" >/dev/null || skip "$tool is missing."
done
folder=${HOSTKV_CACHE_DIR:-$HOME/.cache/hostkv}/plasma-11.0.0
stamp=$(sha256sum bench/peers/plasma.cpp scripts/build-plasma.sh | sha256sum)
if [[ -f $folder/stamp && $(<"$folder/stamp") == "$stamp" ]]; then
  printf '%s\n' "$folder"
  exit 0
fi

mkdir -p "$folder"
rm -f "$folder/stamp"
if [[ ! -d $folder/wheel/pyarrow ]]; then
  say "the wheel of pyarrow 11.0.0 (35 MB)"
  rm -rf "$folder"/wheel "$folder"/*.whl
  python3 -m pip --disable-pip-version-check --no-input download --no-deps --only-binary :all: --python-version 3.11 \
    --implementation cp --abi cp311 --platform manylinux2014_x86_64 -d "$folder" pyarrow==11.0.0 >"$folder/download.log" 2>&1 ||
    skip "pip does not get pyarrow 11.0.0 (the whole log: $folder/download.log)."
  python3 -m zipfile -e "$folder"/pyarrow-11.0.0-*.whl "$folder/wheel"
  rm -f "$folder"/*.whl
fi
arrow=$folder/wheel/pyarrow
chmod +x "$arrow/plasma-store-server"
# The wheel is built with the library interface that GCC had before version 5.
g++ -std=c++17 -O2 -Wall -Wextra -Wno-cpp -shared -fPIC -D_GLIBCXX_USE_CXX11_ABI=0 -isystem "$arrow/include" bench/peers/plasma.cpp \
  -o "$folder/libbench-plasma.so" -L"$arrow" -l:libplasma.so.1100 -l:libarrow.so.1100 -Wl,-rpath,"$arrow" >&2 ||
  skip "the client does not compile."
ln -sfn wheel/pyarrow/plasma-store-server "$folder/plasma-store-server"
printf '%s' "$stamp" >"$folder/stamp"
printf '%s\n' "$folder"

#!/usr/bin/env bash
# Writes include/hostkv.h from client-ffi/src/ffi; needs nothing but cargo.
#
#   scripts/header.sh           writes it
#   scripts/header.sh --check   fails if the committed one is not what would be written
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${1-} in
  "") update=1 ;;
  --check) update=0 ;;
  *)
    echo "usage: scripts/header.sh [--check]" >&2
    exit 2
    ;;
esac
HOSTKV_UPDATE_HEADER=$update cargo test --quiet --locked -p hostkv-client-ffi --test header

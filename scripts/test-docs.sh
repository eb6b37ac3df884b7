#!/usr/bin/env bash
# Checks the documents against the built tree: cargo build --release --workspace (make build) first. About a minute.
#
#   scripts/test-docs.sh                         every page, and the Rust documentation without a warning
#   scripts/test-docs.sh docs/operations.md      the commands of these pages only, and nothing of Rust
#   scripts/test-docs.sh --update                writes anew what pages repeat: quoted code, the table of flags
#   scripts/test-docs.sh --list-skips            shows each command that is left out
#
# Every command in a page is run, in the order of the page, beside a daemon of its own; those that can't be are left
# out by kind (tests/docs/commands.py has the kinds with their reasons) and counted. C and C++ are lines of programs in
# examples/, which the step `examples` compiles and runs. Links, anchors, flags, functions, metrics, start-up errors,
# alerts and statuses that a page names are compared with what there is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export PYTHONDONTWRITEBYTECODE=1
# As `make build` leaves it.
ln -sfn libhostkv.so "${CARGO_TARGET_DIR:-target}/release/libhostkv.so.0"
# An outer bound; the daemons that a page starts end with it.
timeout 300 python3 tests/docs/run.py "$@"
if [[ $# == 0 ]]; then
  RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --workspace --locked --quiet
  echo "the Rust documentation has no warnings"
fi

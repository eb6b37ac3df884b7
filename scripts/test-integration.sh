#!/usr/bin/env bash
# Compiles examples/integration, the code of docs/integration.md, and runs it against real daemons: cargo build
# --release -p hostkv-daemon -p hostkv-client-ffi -p hostkv-cli first. Takes some seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
programs=$(scripts/build-example.sh integration)
# An outer bound; what it ends takes its daemons and engines along.
timeout 180 python3 tests/docs/integration.py "$programs"

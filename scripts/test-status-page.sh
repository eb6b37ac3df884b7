#!/usr/bin/env bash
# Looks at the status page of a real hostkvd in headless Chromium: cargo build --release -p hostkv-daemon -p hostkv-tests
# first. Takes about 20 seconds. Without Chromium it is skipped (exit code 77). Arguments go to tests/status_page/run.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# An outer bound; what it ends takes its daemon, worker and browser along.
exec timeout "${HOSTKV_STATUS_PAGE_TIMEOUT:-180}" python3 tests/status_page/run.py "$@"

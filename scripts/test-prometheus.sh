#!/usr/bin/env bash
# Checks packaging/prometheus and packaging/grafana, alone and against a real Prometheus that scrapes a real hostkvd
# under a known load: cargo build --release -p hostkv-daemon -p hostkv-tests first. Takes about 40 seconds.
#
# Prometheus and promtool are those of the Debian package prometheus; without them their checks are skipped and
# counted. The last line is `N passed, N failed, N skipped`; the exit code is 1 if one failed or none passed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The shipped scrape configuration names port 9090. In a network of its own that port is free, whoever else has it.
network=()
for attempt in "unshare --net" "unshare --user --map-root-user --net"; do
  # The words of an attempt are its own.
  # shellcheck disable=SC2086
  if $attempt true 2>/dev/null; then
    read -ra network <<<"$attempt"
    export HOSTKV_TEST_OWN_NETWORK=1
    break
  fi
done
# An outer bound; what it ends takes its daemon and its Prometheus along.
exec timeout 120 ${network[@]+"${network[@]}"} python3 tests/prometheus/run.py

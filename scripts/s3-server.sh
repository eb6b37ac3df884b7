#!/usr/bin/env bash
# Prints the path of an S3 server for tests: moto_server, in a Python environment below the target folder.
#
# The first call makes the environment, which takes pip and its index; others only print. Says why it can't and
# ends with 77 where that is not to be had.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=${CARGO_TARGET_DIR:-$PWD/target}
environment=$target/s3-server
program=$environment/bin/moto_server

# Tests run side by side; one of them makes it.
mkdir -p "$target"
exec 9>"$target/s3-server.lock"
flock 9
if [[ ! -e $environment/ready ]]; then
  rm -rf "$environment"
  if ! { python3 -m venv "$environment" && "$environment/bin/pip" install --quiet 'moto[server,s3]==5.2.1'; } >&2; then
    rm -rf "$environment"
    echo "s3-server: moto can't be installed" >&2
    exit 77
  fi
  touch "$environment/ready"
fi
printf '%s\n' "$program"

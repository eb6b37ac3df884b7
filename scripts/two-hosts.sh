#!/usr/bin/env bash
# Shows two hosts that share one store on a real engine: scripts/two_hosts.py with what it needs built.
#
#   scripts/two-hosts.sh [--model tiny|demo] [--tokens N] [--store redis|s3]
#
# The variables and the model are those of scripts/demo.sh. Needs root, for network namespaces, and redis-server or what
# scripts/s3-server.sh needs; exit code 77 without them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'two-hosts: failed: %s\n' "$*" >&2; exit 1; }

model=${HOSTKV_DEMO_MODEL:-demo}
tokens=${HOSTKV_DEMO_TOKENS:-2049}
store=redis
while (($#)); do
  case $1 in
    --model) model=${2-}; shift 2 || die "--model needs tiny or demo." ;;
    --tokens) tokens=${2-}; shift 2 || die "--tokens needs a number." ;;
    --store) store=${2-}; shift 2 || die "--store needs redis or s3." ;;
    *) die "unknown option $1; known are --model, --tokens and --store." ;;
  esac
done
[[ $model == tiny || $model == demo ]] || die "the model '$model' is not tiny or demo."
[[ $store == redis || $store == s3 ]] || die "the store '$store' is not redis or s3."
[[ $tokens =~ ^[0-9]{1,7}$ ]] || die "'$tokens' is not a number of tokens."

target=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --release --locked -p hostkv-daemon -p hostkv-client-ffi || die "the daemon or the library does not build."
engine=$(scripts/build-llama.sh) || die "llama.cpp does not build."
program=$(scripts/build-example.sh llama "$engine") || die "the example program does not build."
file=$target/examples/model-$model-$(sha256sum examples/llama/make_model.py | cut -c -12).gguf
[[ -f $file ]] || "$engine/venv/bin/python" examples/llama/make_model.py "$model" "$file" || die "the model cannot be made."
options=()
if [[ $store == s3 ]]; then
  server=$(scripts/s3-server.sh) || exit
  options=(--s3-server "$server")
fi
exec python3 scripts/two_hosts.py --program "$program" --daemon "$target/release/hostkvd" --model "$file" --tokens "$tokens" "${options[@]}"

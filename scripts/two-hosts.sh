#!/usr/bin/env bash
# Shows two hosts that share one store on a real engine: scripts/two_hosts.py with what it needs built.
#
#   scripts/two-hosts.sh [--model tiny|demo] [--tokens N]
#
# The variables and the model are those of scripts/demo.sh. Needs root, for network namespaces, and redis-server; exit code
# 77 without them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'two-hosts: failed: %s\n' "$*" >&2; exit 1; }

model=${HOSTKV_DEMO_MODEL:-demo}
tokens=${HOSTKV_DEMO_TOKENS:-2049}
while (($#)); do
  case $1 in
    --model) model=${2-}; shift 2 || die "--model needs tiny or demo." ;;
    --tokens) tokens=${2-}; shift 2 || die "--tokens needs a number." ;;
    *) die "unknown option $1; known are --model and --tokens." ;;
  esac
done
[[ $model == tiny || $model == demo ]] || die "the model '$model' is not tiny or demo."
[[ $tokens =~ ^[0-9]{1,7}$ ]] || die "'$tokens' is not a number of tokens."

target=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --release --locked -p hostkv-daemon -p hostkv-client-ffi || die "the daemon or the library does not build."
engine=$(scripts/build-llama.sh) || die "llama.cpp does not build."
program=$(scripts/build-example.sh llama "$engine") || die "the example program does not build."
file=$target/examples/model-$model-$(sha256sum examples/llama/make_model.py | cut -c -12).gguf
[[ -f $file ]] || "$engine/venv/bin/python" examples/llama/make_model.py "$model" "$file" || die "the model cannot be made."
exec python3 scripts/two_hosts.py --program "$program" --daemon "$target/release/hostkvd" --model "$file" --tokens "$tokens"

#!/usr/bin/env bash
# Shows hostkv on a real engine: llama.cpp processes that skip prefill because another process did it.
#
#   scripts/demo.sh [--model tiny|demo] [--tokens N] [--pool-gib N] [--rounds N]
#
# Installs what is missing (scripts/install.sh demo), builds the daemon, the library, llama.cpp and the
# example program, makes the model, and runs scripts/demo.py, which starts and stops the daemon.
#
#   HOSTKV_DEMO_MODEL    demo (106 M parameters, the default) or tiny (for tests)
#   HOSTKV_DEMO_TOKENS   the prompt's length, default 2049
#   HOSTKV_CACHE_DIR     where llama.cpp is built, default $HOME/.cache/hostkv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'demo: failed: %s\n' "$*" >&2; exit 1; }

model=${HOSTKV_DEMO_MODEL:-demo}
tokens=${HOSTKV_DEMO_TOKENS:-2049}
pool=1
rounds=0
while (($#)); do
  case $1 in
    --model) model=${2-}; shift 2 || die "--model needs tiny or demo." ;;
    --tokens) tokens=${2-}; shift 2 || die "--tokens needs a number." ;;
    --pool-gib) pool=${2-}; shift 2 || die "--pool-gib needs a number." ;;
    --rounds) rounds=${2-}; shift 2 || die "--rounds needs a number." ;;
    *) die "unknown option $1; known are --model, --tokens, --pool-gib and --rounds." ;;
  esac
done
[[ $model == tiny || $model == demo ]] || die "the model '$model' is not tiny or demo."
[[ $tokens =~ ^[0-9]{1,7}$ ]] || die "'$tokens' is not a number of tokens."
[[ $rounds =~ ^[0-9]{1,3}$ ]] || die "'$rounds' is not a number of rounds."
[[ $pool =~ ^[0-9]{1,4}$ ]] || die "'$pool' is not a number of GiB."

scripts/install.sh demo || die "packages are missing."
target=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --release --locked -p hostkv-daemon -p hostkv-client-ffi || die "the daemon or the library does not build."
engine=$(scripts/build-llama.sh) || die "llama.cpp does not build."
program=$(scripts/build-example.sh llama "$engine") || die "the example program does not build."

# Named after the script that makes it, so that another script makes another file.
file=$target/examples/model-$model-$(sha256sum examples/llama/make_model.py | cut -c -12).gguf
if [[ ! -f $file ]]; then
  printf 'demo: making the %s model\n' "$model" >&2
  "$engine/venv/bin/python" examples/llama/make_model.py "$model" "$file" || die "the model cannot be made."
fi
exec python3 scripts/demo.py --program "$program" --daemon "$target/release/hostkvd" --model "$file" --tokens "$tokens" --pool-gib "$pool" --rounds "$rounds"

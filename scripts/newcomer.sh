#!/usr/bin/env bash
# Goes through README.md and docs/integration.md as somebody would who has never seen the repository: a fresh clone, an
# empty CARGO_HOME, nothing that was built before. No part of `make test`: it takes a quarter of an hour and more.
#
#   scripts/newcomer.sh [--skip-demo] [--folder FOLDER]
#
#   --skip-demo   leaves out `make demo`, which builds llama.cpp
#   --folder      where everything goes, default a new one in TMPDIR. With the folder of an earlier run the steps that
#                 passed there are not done again, so that one that stopped goes on
#
# Each step has a bound; what is cut off, and its daemons, end with it. The whole log is in FOLDER/newcomer.log, whose
# path is the last line. Exit code 1 if a step failed. The registry of this host's cargo configuration is used.
set -uo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1

skip_demo=0 folder=
while (($#)); do
  case $1 in
    --skip-demo) skip_demo=1; shift ;;
    --folder) folder=${2?a folder}; shift 2 ;;
    *) echo "usage: scripts/newcomer.sh [--skip-demo] [--folder FOLDER]" >&2; exit 2 ;;
  esac
done
[[ -n $folder ]] || folder=$(mktemp -d "${TMPDIR:-/tmp}/hostkv-newcomer-XXXXXX") || exit 1
mkdir -p "$folder/done" "$folder/cargo-home" "$folder/runtime" || exit 1
folder=$(cd "$folder" && pwd)
log=$folder/newcomer.log

# What a shell of today may have set must not help.
for name in $(compgen -e | grep -E '^(HOSTKV_|CARGO_TARGET_DIR$|LMCACHE_LOG_LEVEL$)'); do unset "$name"; done
for file in config.toml config; do
  [[ ! -f ${CARGO_HOME:-$HOME/.cargo}/$file ]] || cp "${CARGO_HOME:-$HOME/.cargo}/$file" "$folder/cargo-home/"
done
# rustup's tools stay where they are.
export RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
export CARGO_HOME=$folder/cargo-home HOSTKV_CACHE_DIR=$folder/cache XDG_RUNTIME_DIR=$folder/runtime
chmod 700 "$XDG_RUNTIME_DIR"

# What they do is in the pages; the names say which.
step_clone() { rm -rf hostkv && git clone --quiet "$repository" hostkv && git -C hostkv log -1 --format='%h %s'; }
step_demo() { cd hostkv && make demo; }
step_build() { cd hostkv && make build; }
step_help() { cd hostkv && make help && target/release/hostkvd --help && target/release/hostkv --help; }

# By the lines of the README, one by one, with a daemon at a socket of this folder.
step_link() {
  cd hostkv || return 1
  local lines
  mapfile -t lines < <(grep -E '^(cc |c\+\+ ) *examples/roundtrip\.(c|cpp) .*-rpath' README.md)
  [[ ${#lines[@]} == 2 ]] || { echo "README.md has ${#lines[@]} lines that link, not 2."; return 1; }
  for line in "${lines[@]}"; do printf '$ %s\n' "$line"; bash -euc "$line" || return 1; done
  python3 scripts/hostkv_daemon.py -- sh -euc './roundtrip-c; ./roundtrip-cpp' && rm roundtrip-c roundtrip-cpp
}
step_readme() { cd hostkv && scripts/test-docs.sh --show README.md; }
step_integration() { cd hostkv && scripts/test-docs.sh --show docs/integration.md && scripts/test-integration.sh; }
step_operations() { cd hostkv && scripts/test-docs.sh --show docs/operations.md; }
# Nothing of all that leaves anything in the clone.
step_clean_tree() { cd hostkv && git status --short && [[ -z $(git status --short) ]]; }

# name:seconds
steps=(clone:120 demo:5400 build:5400 help:60 link:180 readme:300 integration:300 operations:300 clean_tree:30)

run() {
  local name=$1 seconds=$2 begin=$SECONDS code
  if [[ -e $folder/done/$name ]]; then
    outcomes+=("$(printf '%-12s passed in an earlier run' "$name")")
    return 0
  fi
  printf '\n== %s, %s\n' "$name" "$(date -u +%H:%M:%S)"
  # A shell of its own, so that `timeout` has something to end; the functions go along.
  (cd "$folder" && export -f "step_$name" && export repository && timeout --kill-after=20 "$seconds" bash -uo pipefail -c "step_$name")
  code=$?
  if [[ $code == 0 ]]; then
    touch "$folder/done/$name"
    outcomes+=("$(printf '%-12s passed in %d s' "$name" $((SECONDS - begin)))")
  else
    outcomes+=("$(printf '%-12s FAILED (exit code %d) in %d s' "$name" "$code" $((SECONDS - begin)))")
    failed=1
  fi
  return "$code"
}

outcomes=() failed=0
main() {
  printf 'newcomer: %s, %s processors, %s\n' "$(uname -sr)" "$(nproc)" "$(date -u +%F)"
  local step
  for step in "${steps[@]}"; do
    if [[ $step == demo:* && $skip_demo == 1 ]]; then
      outcomes+=("demo         left out by --skip-demo")
      continue
    fi
    # Without a clone and a build nothing else can be.
    run "${step%:*}" "${step#*:}" || [[ $step != clone:* && $step != build:* ]] || break
  done
  printf '\n'
  printf '%s\n' "${outcomes[@]}"
  return "$failed"
}

# Appended: a run that goes on keeps what the first part said.
main 2>&1 | tee -a "$log"
code=${PIPESTATUS[0]}
printf 'newcomer: the log is %s\n' "$log"
exit "$code"

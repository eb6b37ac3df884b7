#!/usr/bin/env bash
# Runs every check of the repository, quick ones first, and says at the end how many steps passed.
#
#   scripts/test.sh            all steps
#   scripts/test.sh NAME…      these steps only
#   scripts/test.sh --list     their names
#
# A step is a function below, named step_<name>; its output is its own runner's. It passes with exit code 0,
# is skipped with 77 (and says why), and fails with any other. All steps run, also after a failure. The last
# line is `N passed, N failed, N skipped`; the exit code is 1 if a step failed or none passed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

steps=(format lint scripts header abi build unit loom shuttle c_interface cpp_header aarch64 examples install deb containers instructions prometheus status_page docs demo two_hosts fuzz planted sanitize)

target=${CARGO_TARGET_DIR:-$PWD/target}
[[ $target == /* ]] || target=$PWD/$target
skips=$target/test-skips.txt

# Each step runs in a shell of its own with strict mode, so that any failing command in it fails it.
step_format() { cargo fmt --all --check; }

step_lint() {
  cargo clippy --workspace --all-targets --locked -- -D warnings
  # Only sync.rs names the atomics, so that loom can take their place; clippy can't tell a re-export.
  ! grep -rnE '(std|core)::sync::atomic' --include='*.rs' . --exclude-dir=target --exclude-dir=sync --exclude=sync.rs
}

step_scripts() {
  local script
  for script in scripts/*.sh .ci/run; do bash -n "$script"; done
  # Compiled in memory: nothing is left in the tree.
  python3 -c 'import sys; [compile(open(path, encoding="utf-8").read(), path, "exec") for path in sys.argv[1:]]' \
    scripts/*.py examples/llama/*.py tests/docs/*.py
}

step_header() { scripts/header.sh --check; }

step_abi() { scripts/test-abi.sh; }

step_build() { cargo build --release --locked -p hostkv-daemon -p hostkv-client-ffi -p hostkv-cli -p hostkv-tests -p hostkv-pages; }

# Tests that this machine cannot run say why in a file, since cargo shows no output of a test that passes.
# The end-to-end tests run the hostkvd of their own profile, which cargo does not build for another package's tests.
step_unit() {
  rm -f "$skips"
  cargo build --locked -p hostkv-daemon
  # One failing binary hides none of the others.
  cargo test --workspace --locked --no-fail-fast
}

step_loom() { scripts/models.sh; }

# As many as a slow machine does in a minute, with another seed each time.
step_shuttle() { scripts/shuttle.sh 10000; }

step_c_interface() { scripts/test-c.sh; }

step_cpp_header() { python3 scripts/hostkv_daemon.py -- scripts/test-cpp-header.sh; }

# The other architecture, emulated.
step_aarch64() { scripts/aarch64.sh; }

step_examples() {
  local kind program
  for kind in c cpp; do
    program=$(scripts/build-example.sh "$kind")
    # Twice beside one daemon: the second finds what the first one left. The inner shell expands its own $1.
    # shellcheck disable=SC2016
    python3 scripts/hostkv_daemon.py -- sh -euc '"$1"; "$1"' sh "$program"
  done
  scripts/test-integration.sh
}

# A minute for each target; the corpus is replayed on plain stable in step unit.
step_fuzz() { scripts/fuzz.sh --seconds 60; }

# Five of the planted bugs, others each day; all of them in `make torture`.
step_planted() { scripts/planted.sh --rotate 5 --seconds 180; }

step_sanitize() { scripts/sanitize.sh address --short; }

step_install() { scripts/test-install.sh; }

step_deb() { scripts/test-deb.sh; }

step_containers() { scripts/test-containers.py; }

step_instructions() { scripts/count-instructions.sh; }

step_status_page() { scripts/test-status-page.sh; }

# Every command of the documents, and that they say what is.
step_docs() { scripts/test-docs.sh; }

step_prometheus() { scripts/test-prometheus.sh; }

# A real engine, on a model small enough for a test: as in `make demo`, then without any daemon.
step_demo() {
  scripts/demo.sh --model tiny
  local models=("$target"/examples/model-tiny-*.gguf)
  OMP_WAIT_POLICY=passive "$target/examples/hostkv-llama" --model "${models[0]}" --tokens 600 \
    --socket /nonexistent/hostkv.sock --verify
  echo "without a daemon the engine answers all the same"
}

# The same engine on two hosts, which are network namespaces, with each kind of store between them.
step_two_hosts() {
  scripts/two-hosts.sh --model tiny
  scripts/two-hosts.sh --model tiny --store s3
}

if [[ ${1-} == --list ]]; then
  printf '%s\n' "${steps[@]}"
  exit 0
fi
chosen=("$@")
((${#chosen[@]})) || chosen=("${steps[@]}")
for name in "${chosen[@]}"; do
  declare -F "step_$name" >/dev/null || { echo "test: no step '$name'; the steps are: ${steps[*]}" >&2; exit 2; }
done

scripts/install.sh test || exit 1
declare -A outcome=()
passed=0 failed=0 skipped=0
for name in "${chosen[@]}"; do
  printf '\n== %s\n' "$name"
  begin=$SECONDS
  (set -e; "step_$name")
  code=$?
  case $code in
    0) outcome[$name]=passed; passed=$((passed + 1)) ;;
    77) outcome[$name]=SKIPPED; skipped=$((skipped + 1)) ;;
    *) outcome[$name]="FAILED (exit code $code)"; failed=$((failed + 1)) ;;
  esac
  outcome[$name]+=" in $((SECONDS - begin)) s"
done

printf '\n'
for name in "${chosen[@]}"; do printf '%-12s %s\n' "$name" "${outcome[$name]}"; done
if [[ -s $skips && " ${chosen[*]} " == *" unit "* ]]; then
  printf '\n%d parts of tests were left out on this machine:\n' "$(wc -l <"$skips")"
  sort "$skips" | uniq -c
fi
printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
((failed == 0 && passed > 0))

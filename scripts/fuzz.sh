#!/usr/bin/env bash
# Fuzzes the parts of hostkv that read what others write: coverage-guided, under the address sanitizer.
#
#   scripts/fuzz.sh                              every target for a minute, two at a time
#   scripts/fuzz.sh --seconds N [TARGET…]        these targets for N seconds each
#   HOSTKV_TORTURE_SECONDS=N scripts/fuzz.sh     every target, N seconds in all, the build included
#   scripts/fuzz.sh --jobs N                     so many at a time
#   scripts/fuzz.sh --minimise [TARGET…]         brings what was found into the committed corpus, as few files as cover as much
#   scripts/fuzz.sh --replay TARGET FILE…        runs these files alone, with the sanitizer's report
#   scripts/fuzz.sh --list                       the targets
#
# A target starts from fuzz/corpus/TARGET and fuzz/regressions/TARGET and keeps what it finds in target/fuzz/found. For
# each it prints executions, rate and coverage. A crash is kept in target/fuzz/crashes; the script says how to replay it
# and fails. Then: add the file to fuzz/regressions/TARGET, see `cargo test -p hostkv-fuzz-bodies` fail, mend.
#
# It needs no cargo-fuzz: it sets what cargo-fuzz would. RUSTC_BOOTSTRAP=1 makes stable take the sanitizer's flag.
# Exit code: 0 nothing was found, 1 something was, 2 wrong arguments, 77 skipped for want of a C++ compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

targets=(frames session lease control config)
seconds=60 jobs=2 mode=fuzz chosen=()
die() { echo "fuzz: $*" >&2; exit 2; }
number() { [[ ${2-} =~ ^[1-9][0-9]*$ ]] || die "$1 takes a number from 1 on, not '${2-}'."; }
while (($#)); do
  case $1 in
    --seconds) number "$1" "${2-}"; seconds=$2; shift ;;
    --jobs) number "$1" "${2-}"; jobs=$2; shift ;;
    --minimise) mode=minimise ;;
    --replay) mode=replay ;;
    --list) printf '%s\n' "${targets[@]}"; exit 0 ;;
    -*) die "unknown option '$1'; the head of this script lists them." ;;
    *) if [[ $mode == replay && ${#chosen[@]} -gt 0 ]]; then chosen+=("$(realpath "$1")"); else chosen+=("$1"); fi ;;
  esac
  shift
done
[[ $mode != replay || ${#chosen[@]} -ge 2 ]] || die "--replay takes a target and files."
((${#chosen[@]})) || chosen=("${targets[@]}")
checked=("${chosen[@]}")
[[ $mode != replay ]] || checked=("${chosen[0]}")
for target in "${checked[@]}"; do
  [[ " ${targets[*]} " == *" $target "* ]] || die "no target '$target'; the targets are: ${targets[*]}."
done
command -v g++ >/dev/null || { echo "fuzz: SKIPPED: libFuzzer is C++ and there is no g++"; exit 77; }

folder=${CARGO_TARGET_DIR:-$PWD/target}
[[ $folder == /* ]] || folder=$PWD/$folder
folder=$folder/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
mkdir -p "$folder"

# The very versions that are shipped, as far as both workspaces have the crate.
cp Cargo.lock fuzz/Cargo.lock
build() {
  # What `cargo fuzz build` sets: coverage of edges, comparisons and tables, the address sanitizer, cfg(fuzzing).
  RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$folder RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1 -Zsanitizer=address" \
    cargo build --quiet --manifest-path fuzz/Cargo.toml --release --target "$host"
}
build
if [[ -n ${HOSTKV_TORTURE_SECONDS-} ]]; then
  # What is left after the build, and some seconds to end in, over the rounds that the targets take.
  rounds=$(((${#chosen[@]} + jobs - 1) / jobs))
  seconds=$(((HOSTKV_TORTURE_SECONDS - SECONDS - 15) / rounds))
  ((seconds > 0)) || { echo "fuzz: SKIPPED: the build took all of $HOSTKV_TORTURE_SECONDS s"; exit 77; }
fi
programs=$folder/$host/release
export ASAN_OPTIONS=${ASAN_OPTIONS-detect_odr_violation=0:abort_on_error=0}
# A slow machine is no defect: a run may take long, and only one that never ends is caught.
limits=(-timeout=60 -rss_limit_mb=2048 -malloc_limit_mb=512 -max_len=4096)

if [[ $mode == replay ]]; then
  exec "$programs/${chosen[0]}" "${limits[@]}" "${chosen[@]:1}"
fi

inputs_of() {
  local input
  for input in "fuzz/corpus/$1" "fuzz/regressions/$1"; do [[ ! -d $input ]] || printf '%s\n' "$input"; done
}

if [[ $mode == minimise ]]; then
  for target in "${chosen[@]}"; do
    mapfile -t inputs < <(inputs_of "$target")
    merged=$folder/merged/$target
    rm -rf "$merged"
    mkdir -p "$merged" "$folder/found/$target"
    "$programs/$target" "${limits[@]}" -merge=1 "$merged" "${inputs[@]}" "$folder/found/$target" 2>"$folder/$target.log" ||
      { tail -20 "$folder/$target.log"; exit 1; }
    rm -rf "fuzz/corpus/$target"
    cp -r "$merged" "fuzz/corpus/$target"
    printf '%-8s %5d files, %d bytes\n' "$target" "$(find "fuzz/corpus/$target" -type f | wc -l)" \
      "$(find "fuzz/corpus/$target" -type f -printf '%s\n' | awk '{sum += $1} END {print sum + 0}')"
  done
  exit 0
fi

# fuzz_one TARGET: its output in a file, a line about it on standard output; exit code 1 when it found something.
fuzz_one() {
  local target=$1 log=$folder/$1.log code=0 inputs
  mapfile -t inputs < <(inputs_of "$target")
  mkdir -p "$folder/found/$target" "$folder/crashes"
  "$programs/$target" "${limits[@]}" -max_total_time="$seconds" -print_final_stats=1 -use_value_profile=0 \
    -artifact_prefix="$folder/crashes/$target-" "$folder/found/$target" "${inputs[@]}" >"$log" 2>&1 || code=$?
  local runs rate coverage
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
  coverage=$(grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -1)
  printf '%-8s %10s executions, %7s a second, %s%s\n' "$target" "${runs:-?}" "${rate:-?}" "${coverage:-no coverage}" \
    "$( ((code == 0)) || echo ', FOUND SOMETHING')"
  ((code == 0)) && return
  grep -E '^(thread .* panicked|==[0-9]+==ERROR|SUMMARY)' -A2 "$log" | head -12 | sed 's/^/    /'
  local crash
  for crash in $(sed -n "s/.*Test unit written to //p" "$log"); do
    printf '    replay: scripts/fuzz.sh --replay %s %s\n' "$target" "$crash"
  done
  return 1
}

failed=0 running=0
for target in "${chosen[@]}"; do
  if ((running == jobs)); then
    wait -n || failed=1
    running=$((running - 1))
  fi
  fuzz_one "$target" &
  running=$((running + 1))
done
while ((running)); do
  wait -n || failed=1
  running=$((running - 1))
done
exit "$failed"

#!/usr/bin/env bash
# Does the worst that one host allows to hostkv for MINUTES (80 when not given): the faults, then the models in full,
# then what time is left fuzzing.
#
#   scripts/torture.sh                       80 minutes, a seed from the clock
#   MINUTES=10 SEED=7 ONLY=F1,F7 scripts/torture.sh
#
# Prints the seed, the rates, what was not reached in the time, and the table of faults. The exit code is 1 when
# anything was violated.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

minutes=${MINUTES:-80}
[[ $minutes =~ ^[0-9]+$ && $minutes -gt 0 ]] || { echo "torture: MINUTES is '$minutes', not a whole number above 0" >&2; exit 2; }
target=${CARGO_TARGET_DIR:-target}

scripts/install.sh test || exit 1
cargo build --release --locked -p hostkv-daemon -p hostkv-tests || exit 1

begin=$SECONDS
budget=$((minutes * 60))
outcomes=() failed=0
# The faults take four fifths of the time; short runs give it all to them.
share=$minutes
((minutes >= 20)) && share=$((minutes * 4 / 5))

note() {
  local name=$1 code=$2
  case $code in
    0) outcomes+=("$name: passed") ;;
    77) outcomes+=("$name: SKIPPED") ;;
    *) outcomes+=("$name: FAILED (exit code $code)"); failed=1 ;;
  esac
}

arguments=(--minutes "$share")
[[ -n ${SEED-} ]] && arguments+=(--seed "$SEED")
[[ -n ${ONLY-} ]] && arguments+=(--only "$ONLY")
"$target/release/hostkv-torture" "${arguments[@]}"
note faults $?

left() { echo $((budget - (SECONDS - begin))); }

# A part that the time does not reach is named, not left out in silence.
for part in models fuzz; do
  script=scripts/$part.sh
  [[ -x $script ]] || continue
  seconds=$(left)
  if ((seconds < 60)); then
    outcomes+=("$part: not reached in this time")
    continue
  fi
  # 124 is the end of the time, which is no finding.
  HOSTKV_MODEL_FULL=1 HOSTKV_TORTURE_SECONDS=$seconds timeout --foreground "$seconds" "$script"
  code=$?
  if ((code == 124)); then outcomes+=("$part: nothing found in ${seconds} s"); else note "$part" "$code"; fi
done

printf '\n'
printf '%s\n' "${outcomes[@]}"
exit "$failed"

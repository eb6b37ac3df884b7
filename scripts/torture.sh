#!/usr/bin/env bash
# Does the worst that one host allows to hostkv for MINUTES (80 when not given): the faults for five eighths of the time,
# the models in full, random schedules, the planted bugs, the sanitizers, and fuzzing for what is left.
#
#   scripts/torture.sh                                80 minutes, a seed from the clock
#   MINUTES=10 SEED=7 scripts/torture.sh              less than 20 minutes are for the faults alone
#   MINUTES=5 ONLY=F1,F7 scripts/torture.sh           these faults alone
#
# Prints the seed, the rates, what was not reached in the time, and the table of faults. The exit code is 1 when
# anything was violated.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

minutes=${MINUTES:-80}
[[ $minutes =~ ^[1-9][0-9]{0,5}$ ]] || { echo "torture: MINUTES is '$minutes', not a whole number above 0" >&2; exit 2; }
target=${CARGO_TARGET_DIR:-target}

scripts/install.sh test || exit 1
cargo build --release --locked -p hostkv-daemon -p hostkv-tests || exit 1

begin=$SECONDS
left() { echo $((minutes * 60 - (SECONDS - begin))); }
outcomes=() failed=0

# note NAME CODE: keeps how a part ended; 124 is the end of its time, which is no finding.
note() {
  case $2 in
    0) outcomes+=("$1: passed") ;;
    77) outcomes+=("$1: SKIPPED on this machine") ;;
    124) outcomes+=("$1: nothing found in its time, not finished") ;;
    *) outcomes+=("$1: FAILED (exit code $2)"); failed=1 ;;
  esac
}

# part NAME SECONDS COMMAND…: runs it for at most so long; a part that the time does not reach is named.
part() {
  local name=$1 seconds=$2
  shift 2
  [[ -x $1 ]] || { outcomes+=("$name: SKIPPED, there is no $1"); return; }
  ((seconds >= 60)) || { outcomes+=("$name: not reached in this time"); return; }
  printf '\n== %s, at most %d s\n' "$name" "$seconds"
  timeout --kill-after=30 "$seconds" "$@"
  note "$name" $?
}

share=$minutes
((minutes >= 20)) && share=$((minutes * 5 / 8))
arguments=(--minutes "$share")
[[ -n ${SEED-} ]] && arguments+=(--seed "$SEED")
[[ -n ${ONLY-} ]] && arguments+=(--only "$ONLY")
"$target/release/hostkv-torture" "${arguments[@]}"
note faults $?

if [[ -z ${ONLY-} ]]; then
  HOSTKV_MODEL_FULL=1 part models $(($(left) / 2)) scripts/models.sh
  part schedules $(($(left) / 3)) scripts/shuttle.sh 1000000
  part "planted bugs" $(($(left) / 2)) scripts/planted.sh
  for tool in address thread miri; do
    part "checker $tool" $(($(left) / 3)) scripts/sanitize.sh "$tool"
  done
  # Two targets at a time, and two minutes to build them.
  targets=$(scripts/fuzz.sh --list 2>/dev/null | wc -l)
  each=$((($(left) - 120) * 2 / (targets > 0 ? targets : 1)))
  if ((each >= 10)); then
    part fuzz "$(left)" scripts/fuzz.sh --seconds "$each"
  else
    outcomes+=("fuzz: not reached in this time")
  fi
fi

printf '\n'
printf '%s\n' "${outcomes[@]}"
exit "$failed"

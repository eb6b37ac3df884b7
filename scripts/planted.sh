#!/usr/bin/env bash
# Plants known bugs, one at a time, in a copy of the tree, and shows that the test named for each of them goes red.
#
#   scripts/planted.sh                      all of tests/planted
#   scripts/planted.sh NAME…                those whose file name contains one of these
#   scripts/planted.sh --rotate N           N of them, others each day of the year
#   scripts/planted.sh --seconds S …        begins no further one S seconds after the clean tree is built
#   scripts/planted.sh --list               their names
#
# A file of tests/planted is a patch with a head: `bug:` what is wrong, `breaks:` the promise that it breaks, `test:` the
# command that must catch it, and `needs: root` where only root can run that; without it the bug is left out. First each test is run on the clean tree, where it must pass; then each bug is planted
# alone. A patch that does not apply or does not compile is a failure, because it shows nothing. The copy and its build are
# in target/planted and are used again, so a bug costs one small rebuild.
#
# Prints a table bug | caught by | result, then `N passed, N failed, N skipped`; the exit code is 1 if one failed or none passed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# The longest that a test with its build may take; a bug that hangs it is caught too.
test_seconds=${HOSTKV_PLANTED_TEST_SECONDS:-300}
root=$PWD
target=${CARGO_TARGET_DIR:-$root/target}
[[ $target == /* ]] || target=$root/$target
work=$target/planted
tree=$work/tree
log=$work/log

die() { echo "planted: $*" >&2; exit 2; }
number() { [[ ${2-} =~ ^[1-9][0-9]{0,5}$ ]] || die "$1 takes a number from 1 on, not '${2-}'."; }

mapfile -t all < <(cd tests/planted && ls -- *.patch | sed 's/\.patch$//')
rotate=0 seconds=0 names=()
while (($#)); do
  case $1 in
    --rotate) number "$1" "${2-}"; rotate=$2; shift ;;
    --seconds) number "$1" "${2-}"; seconds=$2; shift ;;
    --list) printf '%s\n' "${all[@]}"; exit 0 ;;
    -*) die "unknown option '$1'; the head of this script lists them." ;;
    *) names+=("$1") ;;
  esac
  shift
done
chosen=()
if ((${#names[@]})); then
  for name in "${names[@]}"; do
    found=()
    for bug in "${all[@]}"; do [[ $bug == *"$name"* ]] && found+=("$bug"); done
    ((${#found[@]})) || die "no bug is called '$name'; --list shows them."
    chosen+=("${found[@]}")
  done
elif ((rotate)); then
  day=$(date +%-j)
  ((rotate < ${#all[@]})) || rotate=${#all[@]}
  for ((i = 0; i < rotate; i++)); do chosen+=("${all[(day * rotate + i) % ${#all[@]}]}"); done
  echo "planted: day $day of the year: ${chosen[*]}"
else
  chosen=("${all[@]}")
fi
command -v patch >/dev/null || { echo "planted: SKIPPED: there is no patch program"; exit 77; }

head_of() { sed -n "s/^$2: //p;/^diff /q" "tests/planted/$1.patch"; }

# The copy is brought up to date by content and never by time: a file that a bug was taken out of must be newer than what
# was built with the bug in it.
copy_tree() {
  mkdir -p "$tree"
  local file
  git ls-files -co --exclude-standard | sort >"$work/files"
  while IFS= read -r file; do
    [[ -f $file ]] || continue
    cmp -s "$file" "$tree/$file" && continue
    mkdir -p "$tree/$(dirname "$file")"
    cp "$file" "$tree/$file" && chmod --reference="$file" "$tree/$file"
  done <"$work/files"
  (cd "$tree" && find . -type f -printf '%P\n' | sort) | comm -13 "$work/files" - |
    while IFS= read -r file; do rm -f "$tree/$file"; done
}

# Crates from elsewhere are built alike in any tree: those that are there are linked, not built again.
share_builds() {
  local profile part
  for profile in debug loom/release shuttle/debug; do
    [[ -d $target/$profile/deps ]] || continue
    mkdir -p "$work/target/$profile"
    for part in deps .fingerprint build; do
      mkdir -p "$work/target/$profile/$part"
      find "$target/$profile/$part" -mindepth 1 -maxdepth 1 ! -iname '*hostkv*' -print0 |
        xargs -0r cp -aln -t "$work/target/$profile/$part"
    done
  done
}

# What is built again for every bug is built as quickly as possible.
quick_builds() {
  mkdir -p "$work/.cargo"
  local package
  for package in shm-protocol daemon client-ffi tests; do
    printf '[profile.dev.package.hostkv-%s]\nopt-level = 0\ndebug = false\n' "$package"
  done >"$work/.cargo/config.toml"
}

# run_test BUG: its command in the copy; the output is in $log.
run_test() {
  local command
  command=$(head_of "$1" test)
  (cd "$tree" && CARGO_TARGET_DIR=$work/target CARGO_TERM_COLOR=never \
    timeout --kill-after=10 "$test_seconds" bash -c "$command") >"$log" 2>&1
}

is_red() { grep -qE '^test result: FAILED|^test .* FAILED$|panicked at|NOT CAUGHT|\(signal: [0-9]+, SIG' "$log"; }
has_run() { grep -qE '^running [1-9]' "$log"; }

# heal BUG: gives the files that it changes back their own text, as files of now.
heal() {
  local file
  for file in $(sed -n 's|^+++ b/||p' "tests/planted/$1.patch"); do cp "$file" "$tree/$file"; done
}

# plant BUG: gives its result in words; fails unless it was caught.
plant() {
  local bug=$1 code
  if ! (cd "$tree" && patch -p1 -s -F1 --no-backup-if-mismatch -r - <"$root/tests/planted/$bug.patch") >"$log" 2>&1; then
    heal "$bug"
    echo "FAILED: the patch does not apply any more; make it anew"
    return 1
  fi
  run_test "$bug"
  code=$?
  heal "$bug"
  if grep -qE '^error(\[E[0-9]+\])?: ' "$log" && ! has_run; then
    echo "FAILED: the bug does not compile: $(grep -m1 -E '^error' "$log")"
    return 1
  fi
  if ((code == 124 || code == 137)) && has_run; then
    echo "caught: the test hangs"
  elif ((code != 0)) && is_red; then
    echo "caught: $(grep -oE '^test .* \.\.\. FAILED$|^model .* failed.*|signal: [0-9]+, SIG[A-Z]+' "$log" | head -1 | sed 's/^test \(.*\) \.\.\. FAILED$/\1/')"
  else
    echo "FAILED: NOT CAUGHT (exit code $code)"
    return 1
  fi
}

mkdir -p "$work"
# There is one copy, so there is one run at a time.
exec {lock}>"$work/lock"
flock "$lock"
copy_tree
share_builds
quick_builds
passed=0 failed=0 skipped=0
declare -A clean=() result=()
for bug in "${chosen[@]}"; do
  command=$(head_of "$bug" test)
  if [[ -z $command || -z $(head_of "$bug" bug) || -z $(head_of "$bug" breaks) ]]; then
    result[$bug]="FAILED: its head lacks bug:, breaks: or test:"
  elif [[ $(head_of "$bug" needs) == root && $EUID != 0 ]]; then
    result[$bug]="SKIPPED: its test needs root"
  elif [[ -z ${clean[$command]-} ]]; then
    if run_test "$bug" && has_run; then
      clean[$command]=yes
    else
      clean[$command]=no
      tail -15 "$log" | sed 's/^/    /'
    fi
  fi
  [[ ${clean[$command]-} == no ]] && result[$bug]="FAILED: its test does not pass without the bug, or is none"
done

begin=$SECONDS reached=()
for bug in "${chosen[@]}"; do
  if ((seconds && SECONDS - begin >= seconds && ${#reached[@]})); then
    echo "planted: not reached in $seconds s: $bug"
    continue
  fi
  reached+=("$bug")
  if [[ -z ${result[$bug]-} ]]; then
    start=$SECONDS
    result[$bug]=$(plant "$bug")
    echo "  $bug: ${result[$bug]} ($((SECONDS - start)) s)"
  fi
  if [[ ${result[$bug]} == caught* ]]; then
    passed=$((passed + 1))
  elif [[ ${result[$bug]} == SKIPPED* ]]; then
    skipped=$((skipped + 1))
  else
    failed=$((failed + 1))
    tail -15 "$log" | sed 's/^/    /'
  fi
done

printf '\n| bug | caught by | result |\n|---|---|---|\n'
for bug in "${reached[@]}"; do
  printf '| %s: %s | `%s` | %s |\n' "${bug%%-*}" "$(head_of "$bug" bug)" "$(head_of "$bug" test)" "${result[$bug]}"
done
printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
((failed == 0 && passed > 0))

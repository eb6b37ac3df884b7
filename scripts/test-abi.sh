#!/usr/bin/env bash
# The check of the C interface, and that it sees what it is for: each line below plants a change into a copy of the header.
# The last line is `N passed, N failed`; exit code 77 without abigail-tools.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

for tool in abidw abidiff; do
  command -v "$tool" >/dev/null || { echo "SKIPPED: there is no $tool to describe the C interface with"; exit 77; }
done
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

# planted NAME CODE PART SED…: abi.sh --check on the changed header ends with CODE and its last line has PART.
planted() {
  local name=$1 code=$2 part=$3 got=0
  shift 3
  sed "$@" include/hostkv.h >"$work/hostkv.h"
  if [[ $2 != 's/^//' ]] && cmp -s include/hostkv.h "$work/hostkv.h"; then
    echo "FAILED  $name: the header has changed, and the plant does not fit it any more"
    failed=$((failed + 1))
    return
  fi
  { cat client-ffi/abi/exports.txt; grep -oE 'hostkv_planted' "$work/hostkv.h"; } | sort -u | LC_ALL=C sort >"$work/exports"
  grep -q 'hostkv_lease_check(const' "$work/hostkv.h" || sed -i '/^hostkv_lease_check$/d' "$work/exports"
  HOSTKV_HEADER=$work/hostkv.h HOSTKV_EXPORTS=$work/exports scripts/abi.sh --check >"$work/log" 2>&1 || got=$?
  if [[ $got == "$code" ]] && tail -n 1 "$work/log" | grep -qF "$part"; then
    passed=$((passed + 1))
    printf 'ok      %s: %s\n' "$name" "$(tail -n 1 "$work/log" | cut -c 1-160)"
  else
    failed=$((failed + 1))
    printf 'FAILED  %s: exit code %d instead of %d, or without "%s"\n' "$name" "$got" "$code" "$part"
    sed 's/^/    /' "$work/log"
  fi
}

minor="raise the minor version"
major="raise the soname libhostkv.so.0"
planted "the header as it is" 0 "is that of hostkv" -e 's/^//'
planted "other words in a comment" 0 "is that of hostkv" -e 's/Ends the session, whatever it returns/Ends it/'
planted "a new function" 1 "$minor" -e 's/^uint32_t hostkv_abi_version(void);/&\nint hostkv_planted(void);/'
planted "a field behind the last one of a struct with struct_size" 1 "$minor" -e '/^} hostkv_session_info;/i uint64_t planted;'
planted "another status" 1 "$minor" -e 's/HOSTKV_STATUS_INTERNAL = -17,/&\nHOSTKV_STATUS_PLANTED = -18,/'
planted "a field of another type" 1 "$major" -e 's/uint64_t session_id;/uint32_t session_id;/'
planted "a field in front of others" 1 "$major" -e 's/uint64_t session_id;/uint64_t planted; &/'
planted "a field behind the last one of a struct without struct_size" 1 "$major" -e '/^} hostkv_key;/i uint64_t planted;'
planted "a status of another number" 1 "$major" -e 's/HOSTKV_STATUS_QUOTA = -5,/HOSTKV_STATUS_QUOTA = -6,/'
planted "a function with another argument" 1 "$major" -e 's/hostkv_status_name(int32_t status)/hostkv_status_name(int64_t status)/'
planted "a function that gives something else" 1 "$major" -e 's/^uint32_t hostkv_abi_version(void)/uint64_t hostkv_abi_version(void)/'
planted "a function that is gone" 1 "$major" -e '/^hostkv_status hostkv_lease_check(const/d'

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0 && passed > 0))

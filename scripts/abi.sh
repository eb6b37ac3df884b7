#!/usr/bin/env bash
# Compares the C interface with that of the last release, structs and functions, by abidiff.
#
#   scripts/abi.sh --check     fails with a sentence that says which version to raise
#   scripts/abi.sh --renew     writes client-ffi/abi/libhostkv.abi anew: when a release is made, or when the sentence of
#                              --check was followed. Commit the file with the versions.
#
# What is compared is include/hostkv.h: it is generated from the library's own types (step `header`), and the library
# exports exactly what it declares (client-ffi/abi/exports.txt). A shared object with a body for each declaration is
# compiled from it with debug information of C, which abidw describes. The debug information of the library itself would
# bring in every private type of Rust, and change with the compiler.
#
#   hostkv.h ── a body for each function ──> libhostkv.so.0 ── abidw ──> today ── abidiff ──> libhostkv.abi
#
# The rules: within one soname (libhostkv.so.0, client-ffi/build.rs) a program keeps running with every later library.
#   added function, constant, or field at a struct's end behind struct_size   raise HOSTKV_ABI_VERSION and the minor version
#   anything removed or changed                                               raise the soname and the major version
# Exit code 77 without abidw. HOSTKV_HEADER and HOSTKV_EXPORTS name other files, for the tests of this script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

baseline=client-ffi/abi/libhostkv.abi
header=${HOSTKV_HEADER:-include/hostkv.h}
exports=${HOSTKV_EXPORTS:-client-ffi/abi/exports.txt}
action=${1-}
[[ $action == --check || $action == --renew ]] || { echo "usage: scripts/abi.sh --check | --renew" >&2; exit 2; }
for tool in abidw abidiff cc python3; do
  command -v "$tool" >/dev/null || { echo "SKIPPED: there is no $tool to describe the C interface with"; exit 77; }
done

soname=$(sed -n 's/.*-soname,\([^"]*\)".*/\1/p' client-ffi/build.rs)
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
abi_version=$(sed -n 's/^#define HOSTKV_ABI_VERSION \([0-9]*\)$/\1/p' "$header")
[[ -n $soname && -n $version && -n $abi_version ]] || { echo "abi: soname, version or HOSTKV_ABI_VERSION was not found." >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$header" "$work/hostkv.h"
python3 - "$work" <<'PYTHON'
import re, subprocess, sys

folder = sys.argv[1]
text = subprocess.run(["cc", "-E", "-P", f"{folder}/hostkv.h"], check=True, capture_output=True, text=True).stdout
# A declaration of a function has its name before a parenthesis and ends with a semicolon, outside of any brace.
declarations = [d for d in re.findall(r"[^;{}]+\([^;{}]*\)\s*;", text) if re.search(r"\bhostkv_\w+\s*\(", d)]
with open(f"{folder}/bodies.c", "w", encoding="utf-8") as out:
    out.write('#include "hostkv.h"\n')
    for declaration in declarations:
        out.write(" ".join(declaration.split()).removesuffix(";").strip() + " { __builtin_trap(); }\n")
if not declarations:
    sys.exit("abi: the header declares no function.")
PYTHON
(cd "$work" && cc -g -O0 -w -shared -fPIC "-Wl,-soname,$soname" bodies.c -o "$soname")
# What the bodies define is what the library exports; else one of the two was forgotten.
diff "$exports" <(nm -D --defined-only "$work/$soname" | awk '$3 ~ /^hostkv_/ {print $3}' | LC_ALL=C sort) ||
  { echo "abi: the header does not declare what $exports lists." >&2; exit 1; }

{
  abidw --no-corpus-path --no-comp-dir-path --no-show-locs --no-architecture "$work/$soname"
  # Last, because abidiff knows the file by its first line.
  echo "<!-- hostkv $version, HOSTKV_ABI_VERSION $abi_version; written by scripts/abi.sh -->"
} >"$work/today.abi"

if [[ $action == --renew ]]; then
  cp "$work/today.abi" "$baseline"
  echo "abi: $baseline now describes hostkv $version, HOSTKV_ABI_VERSION $abi_version, $soname."
  exit 0
fi

read -r released released_abi <<<"$(sed -n '$s/^<!-- hostkv \([^,]*\), HOSTKV_ABI_VERSION \([0-9]*\);.*/\1 \2/p' "$baseline")"
released_soname=$(sed -n "s/.*soname='\([^']*\)'.*/\1/p" "$baseline" | head -n 1)
[[ -n $released && -n $released_soname ]] || { echo "abi: $baseline was not written by this script." >&2; exit 1; }

code=0
# Opaque handles have no members to compare; what is only declared counts by its name.
abidiff --harmless --no-architecture "$baseline" "$work/today.abi" >"$work/report" || code=$?
# Bit 0: abidiff failed. Bit 1: it was used wrongly. Bit 2: something changed. Bit 3: incompatibly.
if ((code & 3)); then
  cat "$work/report" >&2
  echo "abi: abidiff failed with $code." >&2
  exit 1
fi

[[ $code != 0 ]] || { echo "abi: the C interface is that of hostkv $released."; exit 0; }

# What the report says, as "breaks" or "adds", and in which words.
verdict=$(python3 - "$work" "$header" <<'PYTHON'
import re, sys

folder, header_path = sys.argv[1:]
report = open(f"{folder}/report", encoding="utf-8").read()
header = open(header_path, encoding="utf-8").read()
lines = [line.strip() for line in report.splitlines()]
what = [line for line in lines if line.startswith(("[A] ", "'"))]
breaks = [line for line in lines if line.startswith("[D] ")]
struct = None
for line in lines:
    named = re.search(r"'(?:const )?struct (\w+)'", line)
    if named:
        struct = named[1]
    if re.search(r"\d+ (data member (changes?|deletions?)|enumerator (changes?|deletions?))", line):
        breaks.append(f"{struct or 'an enum'}: {line}")
    elif re.search(r"\d+ data member insertions?", line):
        body = re.search(rf"struct {struct} \{{(.*?)\n\}}", header, re.S)
        # A caller of another release says in struct_size how much it has; without it nobody knows.
        if not body or "struct_size" not in body[1]:
            breaks.append(f"{struct}: {line} in a struct without struct_size")
    elif re.search(r"parameter \d+ .* was (added|removed)|type name changed|entity changed", line):
        breaks.append(line)
print("breaks" if breaks else "adds")
print("; ".join(dict.fromkeys(what + breaks))[:900])
PYTHON
)
kind=${verdict%%$'\n'*}
detail=${verdict#*$'\n'}
IFS=. read -r major minor _ <<<"$version"
IFS=. read -r released_major released_minor _ <<<"$released"

if [[ $kind == breaks ]]; then
  if [[ $soname != "$released_soname" ]] && ((major > released_major)); then
    echo "abi: the C interface breaks with $released_soname, and $soname says so. Renew the description: scripts/abi.sh --renew"
    exit 0
  fi
  cat "$work/report" >&2
  echo "abi: programs built against hostkv $released would break ($detail): take the change back, or raise the soname" \
    "$released_soname in client-ffi/build.rs, the major version $version in Cargo.toml and HOSTKV_ABI_VERSION $abi_version, and" \
    "run scripts/abi.sh --renew." >&2
  exit 1
fi
if ((abi_version > released_abi && (major > released_major || minor > released_minor))); then
  echo "abi: the C interface grew since hostkv $released, and the versions say so. Renew the description: scripts/abi.sh --renew"
  exit 0
fi
cat "$work/report" >&2
echo "abi: the C interface grew since hostkv $released ($detail): raise the minor version $version in Cargo.toml and" \
  "HOSTKV_ABI_VERSION $abi_version, and run scripts/abi.sh --renew." >&2
exit 1

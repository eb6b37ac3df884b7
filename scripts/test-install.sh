#!/usr/bin/env bash
# Installs into temporary trees and uses them as others will: programs built by pkg-config and by CMake, shared and
# static, against the installed daemon; manual pages and units through their own checkers.
#
#   scripts/test-install.sh       cargo build --release of the daemon, the library and hostkv-pages comes first
#
# A check whose tool is missing is skipped and counted. The last line is `N passed, N failed, N skipped`; the exit code
# is 1 if one failed or none passed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

root=$PWD
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
stage=$work/stage
multiarch=/usr/lib/$(cc -print-multiarch 2>/dev/null || echo hostkv-test)
passed=0 failed=0 skipped=0

# check NAME COMMAND…: runs it, counts it, shows what a failed one said.
check() {
  local name=$1
  shift
  # Not as a condition: bash would go on behind a failing command in it.
  (set -e; "$@") >"$work/log" 2>&1
  if (($? == 0)); then
    passed=$((passed + 1))
    printf 'ok      %s\n' "$name"
  else
    failed=$((failed + 1))
    printf 'FAILED  %s\n' "$name"
    sed 's/^/    /' "$work/log"
  fi
}

# refused COMMAND…: succeeds when it fails; a `!` would not count inside a check.
refused() { if "$@"; then return 1; fi; }

# check_with TOOL NAME COMMAND…: skips where there is no such program.
check_with() {
  local tool=$1
  shift
  if command -v "$tool" >/dev/null; then
    check "$@"
  else
    skipped=$((skipped + 1))
    printf 'SKIPPED %s: %s is not installed\n' "$1" "$tool"
  fi
}

staged() { DESTDIR=$stage PREFIX=/usr LIBDIR=$multiarch scripts/install-files.sh "$1"; }
in_prefix() { PREFIX=$prefix scripts/install-files.sh "$1"; }
beside_daemon() { python3 "$root/scripts/hostkv_daemon.py" --daemon "$prefix/bin/hostkvd" --pool-gib 0.0625 -- "$@"; }

# --- the trees

check "installs into a prefix" in_prefix install
check "installs into a staged tree" staged install

links() {
  [[ $(readlink "$1/libhostkv.so") == libhostkv.so.0 ]]
  [[ $(readlink "$1/libhostkv.so.0") == libhostkv.so.0.* ]]
  [[ -f $1/$(readlink "$1/libhostkv.so.0") ]]
  readelf -d "$1/libhostkv.so" | grep -F 'soname: [libhostkv.so.0]'
}
check "the library has its soname's link and the linker's" links "$prefix/lib"
check "the same in the staged tree" links "$stage$multiarch"
check "the installed daemon takes the installed configuration" \
  "$prefix/bin/hostkvd" --config "$prefix/etc/hostkv/hostkvd.toml" --socket-group "$(id -gn)" --socket /tmp/x --print-config

# --- programs by pkg-config

# with_pkg_config TREE LANGUAGE static|shared: examples/roundtrip against a tree, run beside the installed daemon.
with_pkg_config() {
  local words=(pkg-config --cflags --libs) flags compiler=(cc -std=c99) source=examples/roundtrip.c library
  [[ $2 == c ]] || { compiler=(c++ -std=c++17); source=examples/roundtrip.cpp; }
  if [[ $1 == "$stage" ]]; then
    export PKG_CONFIG_LIBDIR=$stage$multiarch/pkgconfig PKG_CONFIG_SYSROOT_DIR=$stage
    library=$stage$multiarch
  else
    export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
    library=$prefix/lib
  fi
  if [[ $3 == static ]]; then
    words+=(--static)
    compiler+=(-static)
  fi
  read -ra flags <<<"$("${words[@]}" "hostkv >= 0.1" "hostkv < 1")"
  "${compiler[@]}" -Wall -Werror "$source" -o "$work/program" "${flags[@]}"
  if [[ $3 == static ]]; then
    refused grep NEEDED <(readelf -d "$work/program")
  else
    readelf -d "$work/program" | grep -F '[libhostkv.so.0]'
  fi
  LD_LIBRARY_PATH=$library beside_daemon "$work/program"
}
for tree in "$prefix" "$stage"; do
  for language in c c++; do
    for kind in shared static; do
      check_with pkg-config "$language, $kind, by pkg-config in the ${tree##*/}" with_pkg_config "$tree" "$language" "$kind"
    done
  done
done

# --- programs by CMake

with_cmake() {
  local build=$work/cmake-$2 program
  rm -rf "$build"
  cmake -S tests/install -B "$build" "-DEXAMPLES=$root/examples" "-DCMAKE_PREFIX_PATH=$1" "-DSTATIC=$2" \
    -DCMAKE_LIBRARY_ARCHITECTURE="$(basename "$multiarch")"
  cmake --build "$build"
  for program in roundtrip-c roundtrip-cpp; do
    if [[ $2 == ON ]]; then
      refused grep hostkv <(readelf -d "$build/$program")
    else
      readelf -d "$build/$program" | grep -F '[libhostkv.so.0]'
    fi
    # CMake has put the tree's own folder into the program.
    beside_daemon "$build/$program"
  done
}
check_with cmake "C and C++, shared, by CMake in the prefix" with_cmake "$prefix" OFF
check_with cmake "C and C++, static, by CMake in the prefix" with_cmake "$prefix" ON
check_with cmake "C and C++, shared, by CMake in the staged tree" with_cmake "$stage/usr" OFF

moved() {
  mv "$prefix" "$work/moved"
  # The moved tree's daemon, too.
  prefix=$work/moved with_cmake "$work/moved" OFF
}
check_with cmake "the CMake files work in a tree that was moved" moved
[[ ! -e $work/moved ]] || mv "$work/moved" "$prefix"

refuses_1_0() {
  mkdir -p "$work/refuses"
  printf 'cmake_minimum_required(VERSION 3.16)\nproject(x C)\nfind_package(hostkv %s REQUIRED)\n' "$1" >"$work/refuses/CMakeLists.txt"
  refused cmake -S "$work/refuses" -B "$work/refuses/build" "-DCMAKE_PREFIX_PATH=$prefix"
  grep -q "version: 0\." "$work/log"
}
check_with cmake "find_package refuses a later version and names its own" refuses_1_0 0.99
check_with cmake "find_package refuses another major version" refuses_1_0 1.0

# --- manual pages

# Both must say nothing at all; man prints the page itself on standard output.
lint() { ! mandoc -Tlint -W warning "$1" 2>&1 | grep .; }
format_page() { ! man --warnings -l "$1" 2>&1 >/dev/null | grep .; }
for page in man1/hostkv.1 man8/hostkvd.8 man5/hostkvd.toml.5 man3/libhostkv.3; do
  check_with mandoc "mandoc is quiet on ${page##*/}" lint "$prefix/share/man/$page"
  check_with man "man is quiet on ${page##*/}" format_page "$prefix/share/man/$page"
done
pages_agree() {
  local flag
  # Every flag that the program has is on its page.
  for flag in $("$prefix/bin/hostkvd" --help | grep -oE '^ +(-., )?--[a-z0-9-]+' | grep -oE '[a-z0-9][a-z0-9-]+$'); do
    man -l "$prefix/share/man/man8/hostkvd.8" 2>/dev/null | grep -q -- "--$flag" || { echo "--$flag is not on the page"; return 1; }
  done
}
check_with man "hostkvd(8) has every flag of --help" pages_agree

completions_load() {
  local program
  for program in hostkv hostkvd; do
    bash -n "$prefix/share/bash-completion/completions/$program"
    bash -c "source '$prefix/share/bash-completion/completions/$program'; complete -p $program"
  done
  [[ -s $prefix/share/zsh/vendor-completions/_hostkv && -s $prefix/share/fish/vendor_completions.d/hostkv.fish ]]
}
check "the shell completions load" completions_load

check "the installed tool reaches the installed daemon" beside_daemon "$prefix/bin/hostkv" ping

# --- units

units=(hostkvd.service hostkvd.socket hostkvd@.service hostkvd@.socket)
verified() {
  # Pages named by Documentation= must be there as well.
  MANPATH=$prefix/share/man: systemd-analyze verify "${units[@]/#/$prefix/lib/systemd/system/}" 2>&1 | tee "$work/verify"
  ! grep . "$work/verify"
}
exposure() {
  local level
  systemd-analyze security --offline=true "$prefix/lib/systemd/system/$1" | tee "$work/security" | tail -n 1
  level=$(sed -n 's/.*Overall exposure level for [^:]*: \([0-9.]*\) .*/\1/p' "$work/security")
  [[ -n $level ]] || { echo "systemd-analyze names no level"; return 1; }
  awk -v level="$level" 'BEGIN { exit !(level > 0 && level <= 1.5) }' || { echo "the level is $level"; return 1; }
}
check_with systemd-analyze "the units are verified without a word" verified
check_with systemd-analyze "hostkvd.service is exposed by 1.5 at most" exposure hostkvd.service
check_with systemd-analyze "hostkvd@.service is exposed by 1.5 at most" exposure hostkvd@.service

# What docs/tiers.md promises a tier of files, in a unit that may write nowhere else.
cache_of_its_own() {
  local units=$prefix/lib/systemd/system
  grep -x 'ProtectSystem=strict' "$units/hostkvd.service"
  grep -x 'CacheDirectory=hostkv' "$units/hostkvd.service"
  grep -x 'CacheDirectory=hostkv-%i' "$units/hostkvd@.service"
}
check "a unit has a cache directory for a tier of files" cache_of_its_own

enough_descriptors() {
  local limit needed
  limit=$(sed -n 's/^LimitNOFILE=//p' "$prefix/lib/systemd/system/hostkvd.service")
  # Doctor finds a problem where this user's own limit is lower; what counts is the number that it names.
  python3 - "$prefix/bin" >"$work/doctor" <<'PYTHON'
import subprocess, sys
sys.path.insert(0, "scripts")
from hostkv_daemon import Daemon
with Daemon(sys.argv[1] + "/hostkvd", 0.0625, ("--prometheus-port", "0", "--max-sessions", "65536")) as daemon:
    subprocess.run([sys.argv[1] + "/hostkv", "--socket", daemon.socket, "doctor"], check=False)
PYTHON
  needed=$(sed -nE 's/.* descriptors .* needs ([0-9]+).*/\1/p' "$work/doctor")
  echo "needed: $needed, allowed: $limit"
  ((needed > 65536 && needed <= limit))
}
check "the unit allows the descriptors of the most sessions that can be configured" enough_descriptors

within_filter() {
  local traced=$work/traced
  printf '#!/bin/sh\nexec strace -D -f -qq -o %q %q "$@"\n' "$work/trace" "$prefix/bin/hostkvd" >"$traced"
  chmod +x "$traced"
  PKG_CONFIG_PATH=$prefix/lib/pkgconfig
  export PKG_CONFIG_PATH
  # The words of pkg-config are words of the command.
  # shellcheck disable=SC2046
  cc -std=c99 examples/roundtrip.c -o "$work/client" $(pkg-config --cflags --libs hostkv)
  LD_LIBRARY_PATH=$prefix/lib python3 scripts/hostkv_daemon.py --daemon "$traced" --pool-gib 0.0625 -- "$work/client"
  python3 tests/install/system_calls.py "$prefix/lib/systemd/system/hostkvd.service" "$work/trace"
}
if command -v systemd-analyze >/dev/null; then
  check_with strace "start, prefault, sessions and stop stay within the unit's system calls" within_filter
else
  check_with systemd-analyze "start, prefault, sessions and stop stay within the unit's system calls" false
fi
users_made() {
  mkdir -p "$work/root/etc"
  systemd-sysusers "--root=$work/root" "$stage/usr/lib/sysusers.d/hostkv.conf"
  grep '^hostkv:' "$work/root/etc/passwd" "$work/root/etc/group"
}
check_with systemd-sysusers "systemd-sysusers makes the user and the group" users_made

# --- away again

keeps_changes() {
  printf '\nl1_size_gb = 2\n' >>"$prefix/etc/hostkv/hostkvd.toml"
  in_prefix install 2>&1 | grep 'was changed and stays'
  in_prefix uninstall
  [[ $(find "$prefix" -type f -o -type l) == "$prefix/etc/hostkv/hostkvd.toml" ]] || { find "$prefix" -type f; return 1; }
}
gone() { staged uninstall; [[ ! -e $stage ]] || { find "$stage"; return 1; }; }
check "a changed configuration outlives install and uninstall, and nothing else does" keeps_changes
check "uninstall leaves nothing of the staged tree" gone

printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
((failed == 0 && passed > 0))

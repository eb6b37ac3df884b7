#!/usr/bin/env bash
# Installs the Debian packages that a part of the repository needs and this machine lacks.
#
#   scripts/install.sh GROUP…
#     demo   a C++ compiler and Python's venv: for make demo
#     test   demo, and a second compiler and the checkers: for make test
#     bench  the servers that make bench compares with
#
# Expects what building hostkv takes anyway: cargo, gcc, make, python3. Asks for a package only when what it
# provides is missing, so a second run touches nothing. As root it calls apt-get, otherwise sudo apt-get;
# where neither is to be had it names the packages and fails.
set -euo pipefail

say() { printf 'install: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

missing=()
# need PACKAGE COMMAND…: the package is missing unless the command succeeds.
need() {
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
has() { command -v "$1"; }

group_demo() {
  need g++ has g++
  need python3 has python3
  need python3-venv python3 -c 'import ensurepip, venv'
}

group_test() {
  group_demo
  need clang has clang++
  need strace has strace
  need patch has patch
  need valgrind has valgrind
  # valgrind refuses to run a program whose loader it has no symbols for.
  need libc6-dbg dpkg -s libc6-dbg
  need prometheus has promtool
  # For the installed tree: programs built by others' tools, manual pages, units.
  need pkgconf has pkg-config
  need cmake has cmake
  need mandoc has mandoc
  need man-db has man
  need systemd has systemd-analyze
  # For the Debian packages, in a clean Debian.
  need dpkg-dev has dpkg-architecture
  need lintian has lintian
  need mmdebstrap has mmdebstrap
  # For the manifests of containers.
  need python3-yaml python3 -c 'import yaml'
  # For the tiers, and for two hosts that share one.
  need redis-server has redis-server
  need openssl has openssl
  need iproute2 has ip
  # For the C interface, compared with that of the last release.
  need abigail-tools has abidiff
  # For the other architecture.
  need gcc-aarch64-linux-gnu has aarch64-linux-gnu-gcc
  need libc6-dev-arm64-cross test -e /usr/aarch64-linux-gnu/lib/libc.so.6
  need qemu-user has qemu-aarch64
  need chromium has chromium
  need tmux has tmux
}

group_bench() {
  need memcached has memcached
  need redis-server has redis-server
}

(($#)) || die "name a group: demo, test or bench."
for group in "$@"; do
  case $group in
    demo | test | bench) "group_$group" ;;
    *) die "unknown group '$group'; known are demo, test and bench." ;;
  esac
done
((${#missing[@]})) || exit 0

say "missing packages: ${missing[*]}"
command -v apt-get >/dev/null || die "there is no apt-get here; install what these Debian packages hold by your own means: ${missing[*]}"
root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || die "you are not root and there is no sudo; ask an administrator for: apt-get install ${missing[*]}"
  root=(sudo)
fi
"${root[@]}" apt-get update -q >&2 || die "apt-get update failed; still missing: ${missing[*]}"
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2 ||
  die "apt-get install failed; still missing: ${missing[*]}"
# The benchmark starts servers of its own.
for server in memcached redis-server; do
  if [[ " ${missing[*]} " == *" $server "* && -d /run/systemd/system ]]; then
    "${root[@]}" systemctl disable --now --quiet "$server" || say "the service $server that was installed is still running."
  fi
done
# Debian starts a Prometheus of its own on port 9090, which is hostkvd's default too; the tests only want the program.
if [[ " ${missing[*]} " == *" prometheus "* && -d /run/systemd/system ]]; then
  "${root[@]}" systemctl disable --now --quiet prometheus || say "the prometheus service that was installed is still running on port 9090."
fi

#!/usr/bin/env bash
# Makes the Debian packages and uses them in a clean Debian: install, start as the user hostkv without a capability, use as
# a member of the group hostkv, be refused as anybody else, install again, remove, purge until nothing is left.
#
#   scripts/test-deb.sh     the release build of daemon, library, tool and hostkv-pages comes first; as root
#
# The clean Debian is made by mmdebstrap once and kept in target/clean-debian-RELEASE.tar (145 MB). There is no service
# manager in it: the daemon is started as its unit would. Exit code 77 where a tool or root is missing. The last line is
# `N passed, N failed`.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

skip() { echo "SKIPPED: $*"; exit 77; }
((EUID == 0)) || skip "installing packages into a clean Debian needs root"
for tool in dpkg-deb mmdebstrap lintian unshare setpriv pkg-config; do
  command -v "$tool" >/dev/null || skip "there is no $tool to test the Debian packages with"
done
release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
[[ -n $release ]] || skip "this is no release of Debian"

target=${CARGO_TARGET_DIR:-$PWD/target}
[[ $target == /* ]] || target=$PWD/target
work=$(mktemp -d) || exit 1
root=$work/root
# The daemon of a test that failed ends with the namespace of its processes.
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

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

# --- inside, in namespaces of its own: see the end of this file

inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }
as() { inside setpriv "--reuid=$1" "--regid=$1" --init-groups --no-new-privs "${@:2}"; }

installs() {
  inside dpkg -i /packages/libhostkv0.deb /packages/hostkvd.deb
  [[ $(inside stat -c '%a %U %G' /run/hostkv) == "750 hostkv hostkv" ]]
  inside dpkg -s hostkvd | grep -F 'install ok installed'
  inside ldconfig -p | grep -F 'libhostkv.so.0'
  [[ -L $root/etc/systemd/system/multi-user.target.wants/hostkvd.service ]]
}

start_daemon() {
  as_unit=(setpriv --reuid=hostkv --regid=hostkv --init-groups --bounding-set=-all --inh-caps=-all --no-new-privs)
  chroot "$root" env -i PATH=/usr/bin RUNTIME_DIRECTORY=/run/hostkv HOSTKV_L1_SIZE_GB=0.03125 HOSTKV_PROMETHEUS_PORT=0 \
    "${as_unit[@]}" hostkvd --config /etc/hostkv/hostkvd.toml 2>"$work/daemon.log" &
  daemon=$!
  for _ in {1..600}; do
    [[ ! -S $root/run/hostkv/hostkv.sock ]] || return 0
    sleep 0.05
  done
  cat "$work/daemon.log" >&2
  return 1
}

serves_as_hostkv() {
  [[ $(inside stat -c '%a %U %G' /run/hostkv/hostkv.sock) == "660 hostkv hostkv" ]]
  grep '^CapEff:.*0000000000000000$' "$root/proc/$daemon/status"
  ! grep -E 'WARNING|ERROR' "$work/daemon.log"
}

member_uses_it() {
  # Twice: the second finds what the first one left.
  as alice /roundtrip
  as alice /roundtrip
  printf 'some bytes' | as alice hostkv put a-model/0/0/00ff -
  [[ $(as alice hostkv get a-model/0/0/00ff -o -) == "some bytes" ]]
  as alice hostkv ping
}

stranger_is_refused() {
  local said
  said=$(as bob /roundtrip 2>&1) && return 1
  echo "$said" | grep -E 'user [0-9]+ may not open the socket /run/hostkv/hostkv.sock'
  said=$(as bob hostkv ping 2>&1) && return 1
  echo "$said" | grep -E 'user [0-9]+ may not open the socket /run/hostkv/hostkv.sock'
  # By the folder, which is the group's; and by the daemon, were the folder open.
  inside chmod 755 /run/hostkv
  inside chmod 666 /run/hostkv/hostkv.sock
  said=$(as bob /roundtrip 2>&1) && return 1
  echo "$said" | grep -E 'uid [0-9]+ may not open a session'
  inside chmod 750 /run/hostkv
  inside chmod 660 /run/hostkv/hostkv.sock
}

installs_again() {
  echo '# of the administrator' >>"$root/etc/hostkv/hostkvd.toml"
  inside dpkg -i /packages/libhostkv0.deb /packages/hostkvd.deb
  tail -n 1 "$root/etc/hostkv/hostkvd.toml" | grep -Fx '# of the administrator'
  # The one that runs serves on.
  as alice hostkv ping
}

removes() {
  inside dpkg -r hostkvd
  [[ ! -e $root/usr/bin/hostkvd && -e $root/etc/hostkv/hostkvd.toml ]]
  inside getent passwd hostkv
}

# Every path but for what dpkg and the tools for users write for themselves.
everything() {
  (cd "$root" && find . -xdev \( -path ./proc -o -path ./dev -o -path ./var/lib/dpkg -o -path ./var/log -o -path ./packages \) -prune -o -print |
    grep -vE '^\./(etc/(passwd|group|shadow|gshadow|subuid|subgid)-|etc/\.pwd\.lock|etc/ld\.so\.cache|var/cache/ldconfig|roundtrip$|run/?$)' | LC_ALL=C sort)
}

purges() {
  inside dpkg -P hostkvd libhostkv0
  [[ -z $(inside getent passwd hostkv) && -z $(inside getent group hostkv) ]]
  diff "$work/before" <(everything)
  ! ls -d "$root/var/log/hostkv"* "$root/run/hostkv" 2>/dev/null
}

in_clean_debian() {
  mount --make-rprivate /
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs tmpfs "$root/run"
  inside useradd alice
  inside useradd bob
  everything >"$work/before"
  check "installs, with user, folder and the service enabled" installs
  inside usermod -aG hostkv alice
  daemon=
  start_daemon || return 1
  check "the daemon serves as hostkv, without a capability and without a complaint" serves_as_hostkv
  check "a member of the group uses it, by the library and by the tool" member_uses_it
  check "anybody else is refused, by the folder and by the daemon" stranger_is_refused
  check "installed again, it keeps the changed configuration and the running daemon" installs_again
  kill -TERM "$daemon"
  wait "$daemon"
  check "SIGTERM ends it cleanly" test $? = 0
  check "removed, it leaves configuration and user" removes
  check "purged, it leaves nothing" purges
}

# --- outside

check "the packages are made" scripts/build-debs.sh
check "lintian is quiet" bash -c '! lintian --allow-root "$1"/debian/*.deb | grep .' bash "$target"
same_again() {
  (cd "$target/debian" && sha256sum ./*.deb) >"$work/sums"
  scripts/build-debs.sh
  (cd "$target/debian" && sha256sum -c "$work/sums")
}
[[ -z ${HOSTKV_TEST_SAME-} ]] || check "made again they are the same to the byte" same_again

clean=$target/clean-debian-$release.tar
if [[ ! -e $clean ]]; then
  echo "making a clean Debian, $release"
  # The format is said, because mmdebstrap takes a name that does not end with .tar for a folder.
  mmdebstrap --quiet --format=tar --variant=essential --include=passwd,systemd-standalone-sysusers,systemd-standalone-tmpfiles \
    "$release" "$clean.new" >"$work/log" 2>&1 || { tail -n 5 "$work/log" >&2; skip "mmdebstrap could not make a clean Debian"; }
  mv "$clean.new" "$clean"
fi
mkdir -p "$root/packages"
tar -xf "$clean" -C "$root" || { echo "$clean can't be unpacked; remove it, and it is made anew"; exit 1; }
for name in hostkvd libhostkv0 libhostkv-dev; do
  cp "$target/debian/${name}_"*.deb "$root/packages/$name.deb"
done

# A program as a user of libhostkv-dev builds it, from that package's files alone.
builds_by_dev() {
  local package flags
  for package in libhostkv0 libhostkv-dev; do dpkg-deb -x "$root/packages/$package.deb" "$work/dev"; done
  export PKG_CONFIG_SYSROOT_DIR=$work/dev PKG_CONFIG_LIBDIR
  PKG_CONFIG_LIBDIR=$(echo "$work"/dev/usr/lib/*/pkgconfig)
  read -ra flags <<<"$(pkg-config --cflags --libs hostkv)"
  cc -std=c99 examples/roundtrip.c -o "$root/roundtrip" "${flags[@]}"
}
check "a program builds by libhostkv-dev" builds_by_dev
export -f check inside as installs start_daemon serves_as_hostkv member_uses_it stranger_is_refused installs_again removes everything purges \
  in_clean_debian
export work root passed failed
# In namespaces of its own: what is mounted and started there is gone with it. The counts come back through a file.
# The inner shell expands its own names.
# shellcheck disable=SC2016
timeout 200 unshare --mount --pid --fork --kill-child bash -uo pipefail -c 'in_clean_debian; echo "$passed $failed $?" >"$work/counts"'
read -r passed failed _ <"$work/counts" || { echo "the clean Debian did not come to its end"; failed=$((failed + 1)); }

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0 && passed > 10))

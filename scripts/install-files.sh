#!/usr/bin/env bash
# Puts the built programs, the library and all that belongs to them in place, or takes them away again.
#
#   scripts/install-files.sh install      cargo build --release --workspace comes first (make build)
#   scripts/install-files.sh uninstall    with the same variables
#
#   DESTDIR      in front of every path, for a package or a test; default none
#   PREFIX       default /usr/local
#   LIBDIR       default PREFIX/lib
#   SYSCONFDIR   default /etc for the prefixes /usr and /usr/local, else PREFIX/etc
#   HOSTKV_STRIP=1   without symbols that only a debugger needs, as Debian wants them
#
# Every file goes through `put`, so that what is installed and what is removed is one list. A configuration that is there
# already stays, and one that was changed is not removed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'install-files: %s\n' "$*" >&2; exit 1; }

action=${1-}
[[ $action == install || $action == uninstall ]] || { echo "usage: scripts/install-files.sh install | uninstall" >&2; exit 2; }

destdir=${DESTDIR-}
prefix=${PREFIX:-/usr/local}
libdir=${LIBDIR:-$prefix/lib}
case $prefix in
  /usr | /usr/local) sysconfdir=${SYSCONFDIR:-/etc} ;;
  *) sysconfdir=${SYSCONFDIR:-$prefix/etc} ;;
esac
for path in "$prefix" "$libdir" "$sysconfdir" ${destdir:+"$destdir"}; do
  [[ $path == /* ]] || die "'$path' is not an absolute path."
  [[ $path != *[[:space:]\|\&\\]* ]] || die "'$path' has a character that the files that name it cannot hold."
done
bindir=$prefix/bin
includedir=$prefix/include
mandir=$prefix/share/man
docdir=$prefix/share/doc/hostkv
unitdir=$prefix/lib/systemd/system

target=${CARGO_TARGET_DIR:-$PWD/target}
[[ $target == /* ]] || target=$PWD/target
built=$target/release
for file in hostkvd hostkv hostkv-pages libhostkv.so libhostkv.a; do
  [[ -e $built/$file ]] || die "$built/$file is missing; run 'make build' first."
done
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
soname=$(readelf -d "$built/libhostkv.so" | sed -n 's/.*Library soname: \[\(.*\)\]/\1/p')
[[ -n $version && -n $soname ]] || die "no version in Cargo.toml, or no soname in libhostkv.so."
# The pages bear the date of the release, so that two builds of it give the same files.
released=$(sed -n 's/^ -- .*>  //p' packaging/debian/changelog | head -n 1)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$built/hostkv-pages" include/hostkv.h "$(date -u -d "$released" +%F)" "$work"

# put MODE SOURCE PATH: one file, or with MODE link one link to SOURCE.
put() {
  local mode=$1 source=$2 path=$destdir$3
  if [[ $action == uninstall ]]; then
    rm -f "$path"
    # Folders that nothing else uses go too.
    rmdir --ignore-fail-on-non-empty -p "$(dirname "$path")" 2>/dev/null || true
  elif [[ $mode == link ]]; then
    mkdir -p "$(dirname "$path")"
    ln -sfn "$source" "$path"
  else
    # By a new file that takes the old one's place: a program that runs keeps what it has.
    install -D -m "$mode" "$source" "$path.new"
    mv -f "$path.new" "$path"
  fi
}

# put_config SOURCE PATH
put_config() {
  local path=$destdir$2
  if [[ -e $path ]] && ! cmp -s "$1" "$path"; then
    printf 'install-files: %s was changed and stays.\n' "$path" >&2
  else
    put 644 "$1" "$2"
  fi
}

# fill SOURCE NAME SED…: the template with its values, as $work/NAME
fill() {
  local source=$1 name=$2
  shift 2
  sed "$@" "$source" >"$work/$name"
  ! grep -n '@[a-z_]*@' "$work/$name" >&2 || die "$source has a placeholder that nothing fills."
}

strip_into() {
  cp "$built/$1" "$work/$1"
  [[ -z ${HOSTKV_STRIP-} ]] || strip "$2" --remove-section=.comment --remove-section=.note "$work/$1"
}

strip_into hostkvd --strip-unneeded
strip_into hostkv --strip-unneeded
strip_into libhostkv.so --strip-unneeded
strip_into libhostkv.a --strip-debug
put 755 "$work/hostkvd" "$bindir/hostkvd"
put 755 "$work/hostkv" "$bindir/hostkv"
put 644 "$work/libhostkv.so" "$libdir/libhostkv.so.$version"
put link "libhostkv.so.$version" "$libdir/$soname"
put link "$soname" "$libdir/libhostkv.so"
put 644 "$work/libhostkv.a" "$libdir/libhostkv.a"
put 644 include/hostkv.h "$includedir/hostkv.h"
put 644 include/hostkv.hpp "$includedir/hostkv.hpp"

fill packaging/lib/hostkv.pc.in hostkv.pc -e "s|@prefix@|$prefix|" -e "s|@includedir@|${includedir/#"$prefix"/\$\{prefix\}}|" \
  -e "s|@libdir@|${libdir/#"$prefix"/\$\{prefix\}}|" -e "s|@version@|$version|"
put 644 "$work/hostkv.pc" "$libdir/pkgconfig/hostkv.pc"
fill packaging/lib/hostkvConfig.cmake.in hostkvConfig.cmake -e "s|@version@|$version|g" -e "s|@soname@|$soname|" \
  -e "s|@includedir_from_libdir@|$(realpath -m --relative-to="$libdir" "$includedir")|"
put 644 "$work/hostkvConfig.cmake" "$libdir/cmake/hostkv/hostkvConfig.cmake"
fill packaging/lib/hostkvConfigVersion.cmake.in hostkvConfigVersion.cmake -e "s|@version@|$version|"
put 644 "$work/hostkvConfigVersion.cmake" "$libdir/cmake/hostkv/hostkvConfigVersion.cmake"

for page in hostkv.1 hostkvd.8 hostkvd.toml.5 libhostkv.3; do
  put 644 "$work/$page" "$mandir/man${page##*.}/$page"
done

for program in hostkv hostkvd; do
  put 644 "$work/$program.bash" "$prefix/share/bash-completion/completions/$program"
  put 644 "$work/_$program" "$prefix/share/zsh/vendor-completions/_$program"
  put 644 "$work/$program.fish" "$prefix/share/fish/vendor_completions.d/$program.fish"
done

# unit NAME AT OF_INSTANCE CONFIG RUNTIME: hostkvd.NAME.in as hostkvd@AT.NAME
unit() {
  fill "packaging/systemd/hostkvd.$1.in" "hostkvd$2.$1" -e "s|@name@|hostkvd|g" -e "s|@at@|$2|g" -e "s|@of_instance@|$3|" \
    -e "s|@bindir@|$bindir|" -e "s|@sysconfdir@|$sysconfdir|" -e "s|@config@|$4|" -e "s|@runtime@|$5|g"
  put 644 "$work/hostkvd$2.$1" "$unitdir/hostkvd$2.$1"
}
for kind in service socket; do
  unit $kind "" "" hostkvd hostkv
  unit $kind @ " (%i)" %i hostkv-%i
done
put 644 packaging/systemd/hostkv.sysusers "$prefix/lib/sysusers.d/hostkv.conf"
put 644 packaging/systemd/hostkv.tmpfiles "$prefix/lib/tmpfiles.d/hostkv.conf"
put_config "$work/hostkvd.toml" "$sysconfdir/hostkv/hostkvd.toml"
put 644 LICENSE "$docdir/LICENSE"

if [[ $action == install && -z $destdir ]]; then
  printf 'install-files: hostkv %s is in %s. Programs find the library after ldconfig. As a service: systemd-sysusers, systemctl daemon-reload, systemctl enable --now hostkvd\n' \
    "$version" "$prefix" >&2
fi

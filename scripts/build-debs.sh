#!/usr/bin/env bash
# Makes the Debian packages hostkvd, libhostkv0 and libhostkv-dev of what was built, in target/debian, and prints their paths.
#
#   scripts/build-debs.sh         cargo build --release --workspace comes first (make build)
#
# Needs dpkg-deb and nothing else of Debian's tools: what is installed is what scripts/install-files.sh installs, divided by
# packaging/debian/PACKAGE.install. The versions of the C library that the programs need are read from their symbols.
# With the date of the changelog on every file, the same build gives the same packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'build-debs: %s\n' "$*" >&2; exit 1; }
for tool in dpkg-deb dpkg-architecture objdump strip gzip; do
  command -v "$tool" >/dev/null || die "$tool is missing; the Debian packages dpkg-dev and binutils have it."
done

target=${CARGO_TARGET_DIR:-$PWD/target}
[[ $target == /* ]] || target=$PWD/target
source=packaging/debian
version=$(sed -n '1s/^hostkv (\([^)]*\)).*/\1/p' "$source/changelog")
[[ ${version%-*} == "$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)" ]] ||
  die "$source/changelog is of version $version, and Cargo.toml of another."
SOURCE_DATE_EPOCH=$(date -u -d "$(sed -n 's/^ -- .*>  //p' "$source/changelog" | head -n 1)" +%s)
export SOURCE_DATE_EPOCH
architecture=$(dpkg-architecture -qDEB_HOST_ARCH)
multiarch=$(dpkg-architecture -qDEB_HOST_MULTIARCH)

out=$target/debian
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
rm -rf "$out"
mkdir -p "$out"
HOSTKV_STRIP=1 DESTDIR=$work/all PREFIX=/usr LIBDIR=/usr/lib/$multiarch scripts/install-files.sh install
# Debian has the licence's text in one place.
rm -r "$work/all/usr/share/doc"
find "$work/all/usr/share/man" -type f -exec gzip -9n {} +

# libc_of FILE…: the newest version of the C library that the symbols of these files ask for.
libc_of() { objdump -T "$@" | grep -oE 'GLIBC_[0-9.]+' | cut -d _ -f 2 | sort -V | tail -n 1; }

# package NAME: moves its files out of the tree, adds what describes it, and packs it.
package() {
  local name=$1 tree=$work/$1 file pattern script
  mkdir -p "$tree/DEBIAN" "$tree/usr/share/doc/$name"
  while read -r pattern; do
    [[ $pattern == /* ]] || continue
    while IFS= read -r file; do
      # A pattern of bash, for which a star also stands for slashes.
      # shellcheck disable=SC2053
      [[ /$file == $pattern ]] || continue
      mkdir -p "$tree/$(dirname "$file")"
      mv "$work/all/$file" "$tree/$file"
    done < <(cd "$work/all" && find . -type f -o -type l | sed 's|^\./||')
  done <"$source/$name.install"
  cp "$source/copyright" "$tree/usr/share/doc/$name/copyright"
  gzip -9nc "$source/changelog" >"$tree/usr/share/doc/$name/changelog.Debian.gz"

  mkdir -p "$tree/usr/share/lintian/overrides"
  # Written once for all packages; a line with a name is its own.
  grep -E "^(#|$name:)" "$source/lintian-overrides" >"$tree/usr/share/lintian/overrides/$name"

  for script in postinst prerm postrm; do
    [[ ! -e $source/$name.$script ]] || install -m 755 "$source/$name.$script" "$tree/DEBIAN/$script"
  done
  for file in shlibs triggers; do
    [[ ! -e $source/$name.$file ]] || install -m 644 "$source/$name.$file" "$tree/DEBIAN/$file"
  done
  (cd "$tree" && find . -path './etc/*' -type f | sed 's|^\.||') >"$work/conffiles"
  [[ ! -s $work/conffiles ]] || cp "$work/conffiles" "$tree/DEBIAN/conffiles"
  (cd "$tree" && find . -path ./DEBIAN -prune -o -type f -print0 | sort -z | xargs -0 md5sum | sed 's|  \./|  |') >"$tree/DEBIAN/md5sums"

  local libc=
  case $name in
    hostkvd) libc=$(libc_of "$tree"/usr/bin/*) ;;
    libhostkv0) libc=$(libc_of "$tree"/usr/lib/*/libhostkv.so.?) ;;
  esac
  {
    printf 'Package: %s\nSource: hostkv\nVersion: %s\nArchitecture: %s\n' "$name" "$version" "$architecture"
    grep -E '^(Maintainer|Priority):' "$source/control"
    printf 'Installed-Size: %s\n' "$(du -sk --exclude=DEBIAN "$tree" | cut -f 1)"
    sed -n "/^Package: $name\$/,/^\$/p" "$source/control" | sed -e '1d' -e '/^$/d' \
      -e "s/\${binary:Version}/$version/" -e "s/^Depends: libc6, libgcc-s1/Depends: libc6 (>= $libc), libgcc-s1 (>= 4.2)/"
  } >"$tree/DEBIAN/control"
  find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  dpkg-deb --root-owner-group -Zxz --build "$tree" "$out/${name}_${version}_$architecture.deb" >/dev/null
}

for name in libhostkv0 libhostkv-dev hostkvd; do
  package "$name"
done
left=$(cd "$work/all" && find . -type f -o -type l)
[[ -z $left ]] || die "no package has these files: $left"
printf '%s\n' "$out"/*.deb

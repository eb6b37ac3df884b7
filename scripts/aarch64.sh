#!/usr/bin/env bash
# Builds everything but the network tiers for aarch64 and runs it under qemu's emulation of a process: the tests of the
# protocol and of the library, a look at the machine code of the copy, and a daemon with the C example as its client.
#
# An emulated process shows that the code is right there, and nothing of its speed; its memory is as strongly ordered as
# that of the machine beneath, so what rests on the ordering is shown by the models (scripts/models.sh). Exit code 77
# without Rust's library for the target, the cross compiler or qemu.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

triple=aarch64-unknown-linux-gnu
tools=aarch64-linux-gnu
has_library() { [[ -d $(rustc --print target-libdir --target $triple) ]]; }
has_library || timeout 300 rustup target add $triple || true
has_library || { echo "SKIPPED: there is no Rust library for $triple, and rustup could not add it"; exit 77; }
for program in $tools-gcc $tools-objdump qemu-aarch64; do
  command -v "$program" >/dev/null || { echo "SKIPPED: there is no $program"; exit 77; }
done

target=${CARGO_TARGET_DIR:-$PWD/target}
[[ $target == /* ]] || target=$PWD/$target
built=$target/$triple/debug
qemu=(qemu-aarch64 -L "/usr/$tools")
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$tools-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="${qemu[*]}"

# Two tests ask for what the emulation has not: a page that is wiped by a fork, and a program that starts itself again.
cargo test --locked --target $triple -p hostkv-shm-protocol -p hostkv-client-ffi --lib -- \
  --skip fork::tests::a_child_sees_that_it_is_one --skip ffi::tests::a_panic_prints_nothing
cargo build --locked --target $triple --no-default-features -p hostkv-daemon -p hostkv-client-ffi

# Behind the last streaming store of a function comes the barrier that orders it before the commit.
$tools-objdump --disassemble --no-show-raw-insn --demangle "$built/libhostkv.so" | awk '
  /^[0-9a-f]+ <.*>:$/ { if (streams && !fenced) { print "aarch64: no dmb behind the last stnp of " name; bad = 1 }
                        name = $0; streams = fenced = 0 }
  $2 == "stnp" { streams = 1; fenced = 0; seen++ }
  $2 == "dmb" || ($2 == "bl" || $2 == "b") && /payload_store_fence/ { fenced = 1 }
  END { if (streams && !fenced) { print "aarch64: no dmb behind the last stnp of " name; bad = 1 }
        if (!seen) { print "aarch64: the library has no streaming store"; bad = 1 }
        print "aarch64: " seen + 0 " streaming stores, each ordered before what follows"; exit bad }'

work=$(mktemp -d)
daemon=
stop() {
  [[ -z $daemon ]] || { kill "$daemon" 2>/dev/null && wait "$daemon"; } || true
  rm -rf "$work"
}
trap stop EXIT
$tools-gcc -std=c99 -O2 -Wall -Wextra -Werror -Iinclude examples/roundtrip.c -o "$work/roundtrip" "$built/libhostkv.a" -lpthread -ldl -lm
"${qemu[@]}" "$built/hostkvd" --socket "$work/hostkv.sock" --l1-size-gb 0.125 --prometheus-port 0 2>"$work/log" &
daemon=$!
for _ in {1..100}; do
  [[ ! -S $work/hostkv.sock ]] || break
  sleep 0.1
done
# Twice: the second finds what the first one left.
for _ in 1 2; do
  HOSTKV_SOCKET=$work/hostkv.sock timeout 60 "${qemu[@]}" "$work/roundtrip" || { cat "$work/log" >&2; exit 1; }
done
kill "$daemon"
code=0
wait "$daemon" || code=$?
daemon=
((code == 0)) || { cat "$work/log" >&2; echo "aarch64: the daemon ended with exit code $code" >&2; exit 1; }
echo "aarch64: a client and a daemon stored and read together"

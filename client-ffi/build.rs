//! Gives the shared library its soname, and nothing but its own symbols.
//!
//! Programs that link libhostkv.so remember this name and ask the loader for it, so that a later release with
//! another ABI (libhostkv.so.1) can stand beside this one. cargo writes the file as libhostkv.so only; an
//! installation, or scripts/test-c.sh for the build tree, adds the link of the soname's name.
//!
//! A crate below may have C functions of its own: crc-fast has, when cargo builds the daemon with its object stores in
//! the same run and so switches that feature on for both. What comes from such a library stays inside.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libhostkv.so.0");
    println!("cargo:rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
}

//! Gives the shared library its soname.
//!
//! Programs that link libhostkv.so remember this name and ask the loader for it, so that a later release with
//! another ABI (libhostkv.so.1) can stand beside this one. cargo writes the file as libhostkv.so only; an
//! installation, or scripts/test-c.sh for the build tree, adds the link of the soname's name.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libhostkv.so.0");
}

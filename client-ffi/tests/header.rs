//! Whether `include/hostkv.h` is what the sources say; and the way to write it anew.
//!
//! `scripts/header.sh` runs this with `HOSTKV_UPDATE_HEADER=1`, which writes the header instead of comparing.
//! cbindgen does the work; what it has no notion of is added here: headings over the groups of functions,
//! comments of one line on one line, types without their tags in the functions, and the safety sections of the
//! Rust documentation as plain last paragraphs.

use std::fs;
use std::path::{Path, PathBuf};

/// The files with extern functions, in the order of the header, each with the heading of its functions.
const SECTIONS: [(&str, &str); 6] = [
    (
        "library.rs",
        "Library: versions, names, errors, keys. No session needed.",
    ),
    ("session.rs", "Session and keyspace."),
    ("reservation.rs", "Write: reserve, fill in, commit."),
    (
        "lease.rs",
        "Read: lookup, acquire, read in place, release. No system calls.",
    ),
    (
        "prefetch.rs",
        "Prefetch: bring keys into the pool out of the daemon's tiers.",
    ),
    ("admin.rs", "Admin: take keys out of the pool."),
];

#[test]
fn the_header_is_what_the_sources_say() {
    let path = crate_folder().join("../include/hostkv.h");
    let generated = generate();
    if std::env::var_os("HOSTKV_UPDATE_HEADER").is_some_and(|value| value == "1") {
        fs::write(&path, generated).expect("include/ must be writable");
        return;
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let differs = committed
        .lines()
        .zip(generated.lines())
        .position(|(a, b)| a != b)
        .unwrap_or(committed.lines().count().min(generated.lines().count()));
    assert!(
        committed == generated,
        "include/hostkv.h is not what client-ffi/src/ffi says, from line {} on; run scripts/header.sh and commit \
         the result",
        differs + 1
    );
}

fn crate_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn generate() -> String {
    let config = cbindgen::Config::from_file(crate_folder().join("cbindgen.toml"))
        .expect("cbindgen.toml is read");
    let ffi = crate_folder().join("src/ffi");
    let mut builder = cbindgen::Builder::new()
        .with_config(config)
        .with_src(ffi.join("types.rs"));
    for (file, _) in SECTIONS {
        builder = builder.with_src(ffi.join(file));
    }
    let mut bytes = Vec::new();
    builder
        .generate()
        .expect("cbindgen reads src/ffi")
        .write(&mut bytes);
    let plain = String::from_utf8(bytes)
        .expect("a header is UTF-8")
        .replace(" * # Safety\n *\n", "");
    let short = with_short_comments(plain.trim_start());
    let (types, functions) = short
        .split_once("extern \"C\" {\n")
        .expect("cbindgen opens a block for C++ before the functions");
    let functions = SECTIONS
        .iter()
        .fold(with_short_types(functions), |text, (file, heading)| {
            with_heading(&text, &first_function(&ffi.join(file)), heading)
        });
    format!("{types}extern \"C\" {{\n{functions}")
}

/// Puts each comment that has only one line on one line.
fn with_short_comments(header: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in header.lines() {
        let of_comment = (line.trim() == "*/" && lines.len() >= 2)
            .then(|| lines[lines.len() - 1].trim_start().strip_prefix("* "))
            .flatten()
            .filter(|_| lines[lines.len() - 2].trim() == "/**")
            .map(str::to_owned);
        match of_comment {
            Some(text) => {
                lines.pop();
                let start = lines.pop().unwrap_or_default();
                lines.push(format!("{start} {text} */"));
            }
            None => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

/// The name of the first extern function of a file.
fn first_function(file: &Path) -> String {
    let source = fs::read_to_string(file).expect("a file of src/ffi is read");
    let after = source
        .split_once("extern \"C\" fn ")
        .expect("each of these files has an extern function")
        .1;
    after[..after.find('(').expect("a function has arguments")].to_owned()
}

/// Names types as C programs name them, without `struct` and `enum`, and lines the arguments up again.
fn with_short_types(functions: &str) -> String {
    let mut column = 0;
    let mut lines = Vec::new();
    for line in functions.lines() {
        let is_comment = line.trim_start().starts_with(['/', '*']);
        let short = line
            .replace("struct hostkv_", "hostkv_")
            .replace("enum hostkv_", "hostkv_");
        match short.find('(') {
            _ if is_comment => lines.push(line.to_owned()),
            Some(at) => {
                column = at + 1;
                lines.push(short);
            }
            None if line.starts_with(' ') => {
                lines.push(" ".repeat(column) + short.trim_start());
            }
            None => lines.push(short),
        }
    }
    lines.join("\n") + "\n"
}

/// Puts a heading before the comment of a function.
fn with_heading(functions: &str, function: &str, heading: &str) -> String {
    let declared = functions
        .match_indices(&format!("{function}("))
        .map(|(at, _)| at)
        .find(|at| !is_in_comment(functions, *at))
        .expect("cbindgen declares every function of src/ffi");
    let comment = functions[..declared]
        .rfind("/**")
        .expect("every function of src/ffi is documented");
    let (before, after) = functions.split_at(comment);
    format!("{before}/* ==== {heading} */\n\n{after}")
}

fn is_in_comment(text: &str, at: usize) -> bool {
    let line_start = text[..at].rfind('\n').map_or(0, |i| i + 1);
    text[line_start..].trim_start().starts_with(['/', '*'])
}

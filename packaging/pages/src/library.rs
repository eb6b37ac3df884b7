//! libhostkv(3), from the header: its opening comment, and each function with what is said of it.
//!
//! ```text
//!   /* overview  */     ──> DESCRIPTION: paragraphs, code, and a list of what begins with a word and a full stop
//!   /* ==== Part. */    ──> a heading below FUNCTIONS
//!   /** text */ f(...); ──> the prototype and the text
//! ```

use std::error::Error;

use roff::{Roff, bold, roman};

use crate::page;

/// libhostkv(3).
pub fn page(header: &str, date: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut page = page::begin(
        "libhostkv",
        "3",
        date,
        "one cache of KV blocks for the inference engines of a host",
    );
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold("#include <hostkv.h>")]);
    page.control("PP", []);
    page.text([bold("cc program.c $(pkg-config --cflags --libs hostkv)")]);
    page.control("PP", []);
    page.text([roman(
        "In CMake: find_package(hostkv) and the targets hostkv::hostkv and hostkv::hostkv_static. For C++17 there is \
         hostkv.hpp, a header over this one.",
    )]);
    page.control("SH", ["DESCRIPTION"]);
    overview(&mut page, header)?;
    page.control("SH", ["FUNCTIONS"]);
    let count = functions(&mut page, header);
    if count == 0 {
        return Err("the header declares no function".into());
    }
    page::see_also(
        &mut page,
        &[("hostkv", "1"), ("hostkvd", "8"), ("hostkvd.toml", "5")],
    );
    Ok(page.render().into_bytes())
}

/// The header's first comment without its first line, which the name section has.
fn overview(page: &mut Roff, header: &str) -> Result<(), Box<dyn Error>> {
    let comment = header
        .strip_prefix("/*")
        .and_then(|rest| rest.split_once("*/"))
        .map(|(comment, _)| comment)
        .ok_or("the header does not begin with its overview")?;
    let lines: Vec<&str> = comment
        .lines()
        .skip(1)
        .map(|line| line.trim_start().strip_prefix('*').unwrap_or(line))
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end())
        .collect();
    for (index, block) in blocks(&lines).enumerate() {
        if block[0].starts_with("    ") {
            page.control("PP", []);
            page::code(page, block.iter().copied());
        } else if labelled(block[0]).is_some() {
            list(page, block);
        } else {
            if index > 0 {
                page.control("PP", []);
            }
            page.text([roman(block.join(" "))]);
        }
    }
    Ok(())
}

/// Runs of lines between empty ones.
fn blocks<'a>(lines: &'a [&'a str]) -> impl Iterator<Item = &'a [&'a str]> {
    lines
        .split(|line| line.is_empty())
        .filter(|block| !block.is_empty())
}

/// A line that begins an item: a word, a full stop, and two spaces or more to the column of the texts.
fn labelled(line: &str) -> Option<(&str, &str)> {
    let (label, text) = line.split_once('.')?;
    let is_label = !label.is_empty() && label.chars().all(char::is_alphabetic);
    (is_label && text.starts_with(' ')).then(|| (label, text.trim_start()))
}

fn list(page: &mut Roff, block: &[&str]) {
    for line in block {
        match labelled(line) {
            Some((label, text)) => {
                page.control("TP", []);
                page.text([bold(label)]);
                page.text([roman(text)]);
            }
            None => {
                page.text([roman(line.trim_start())]);
            }
        }
    }
}

/// Every function with its text; gives their number.
fn functions(page: &mut Roff, header: &str) -> usize {
    let mut count = 0;
    // A heading stands before the first one.
    let mut is_first = true;
    let mut text: Vec<&str> = Vec::new();
    let mut lines = header.lines();
    while let Some(line) = lines.next() {
        if let Some(part) = line.strip_prefix("/* ==== ") {
            let title = part.trim_end_matches("*/").trim().trim_end_matches('.');
            page.control("SS", [title]);
            is_first = true;
        } else if line.starts_with("/**") {
            text = comment(line, &mut lines);
        } else if line.contains("hostkv_") && line.contains('(') && !line.starts_with([' ', '#']) {
            let mut prototype = vec![line];
            while !prototype.last().is_some_and(|line| line.ends_with(';')) {
                let Some(line) = lines.next() else { break };
                prototype.push(line);
            }
            if !std::mem::take(&mut is_first) {
                page.control("PP", []);
            }
            page::code(page, prototype);
            page.control("RS", ["4"]);
            for (index, block) in blocks(&text).enumerate() {
                if index > 0 {
                    page.control("PP", []);
                }
                page.text([roman(block.join(" "))]);
            }
            page.control("RE", []);
            text.clear();
            count += 1;
        }
    }
    count
}

/// The lines of a comment of one line or of several.
fn comment<'a>(first: &'a str, lines: &mut std::str::Lines<'a>) -> Vec<&'a str> {
    let first = first.trim_start_matches("/**").trim();
    if let Some(whole) = first.strip_suffix("*/") {
        return vec![whole.trim()];
    }
    lines
        .take_while(|line| !line.trim_end().ends_with("*/"))
        .map(|line| line.trim_start().trim_start_matches('*').trim())
        .collect()
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, with the place and the error"
)]
mod tests {
    use super::*;

    const HEADER: &str = "/* hostkv.h: a cache.\n *\n * It reads.\n *\n *     f();\n *\n * Results.  A number.\n *           \
        Negative is bad.\n */\n\n/* ==== Part one. */\n\n/**\n * Does f.\n *\n * BAD: never.\n */\nhostkv_status \
        hostkv_f(int a,\n    int b);\n\n/** Short. */\nint hostkv_g(void);\n";

    #[test]
    fn overview_and_functions_become_a_page() {
        let page = String::from_utf8(page(HEADER, "2026-11-25").unwrap()).unwrap();
        for part in [
            "It reads.",
            "f();",
            "Negative is bad.",
            ".SS \"Part one\"",
            "hostkv_status hostkv_f(int a,",
            "BAD: never.",
            "Short.",
            "int hostkv_g(void);",
        ] {
            assert!(page.contains(part), "{part:?} is not in:\n{page}");
        }
    }

    #[test]
    fn the_page_has_every_function_of_the_real_header() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../include/hostkv.h");
        let header = std::fs::read_to_string(path).unwrap();
        let exports = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../client-ffi/abi/exports.txt"
        );
        let page = String::from_utf8(page(&header, "2026-11-25").unwrap()).unwrap();
        for name in std::fs::read_to_string(exports).unwrap().lines() {
            assert!(page.contains(&format!("{name}(")), "{name}");
        }
    }

    #[test]
    fn a_header_without_overview_or_functions_is_refused() {
        assert!(page("int hostkv_g(void);", "").is_err());
        assert!(page("/* only words\n */", "").is_err());
    }
}

//! What every manual page is made of.

use roff::{Roff, bold, roman};

/// The version in every page's foot.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A page begun: its title line, with the date of the release, and its name section.
pub fn begin(name: &str, section: &str, date: &str, about: &str) -> Roff {
    let mut page = Roff::new();
    let source = format!("hostkv {VERSION}");
    page.control("TH", [name, section, date, source.as_str()]);
    page.control("SH", ["NAME"]);
    page.text([roman(format!("{name} - {about}"))]);
    page
}

/// Paragraphs.
pub fn paragraphs(page: &mut Roff, texts: &[&str]) {
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            page.control("PP", []);
        }
        page.text([roman(*text)]);
    }
}

/// A list of names with their explanations.
pub fn definitions(page: &mut Roff, items: &[(&str, &str)]) {
    for (name, text) in items {
        page.control("TP", []);
        page.text([bold(*name)]);
        page.text([roman(*text)]);
    }
}

/// Lines that are kept as they are.
pub fn code<'a>(page: &mut Roff, lines: impl IntoIterator<Item = &'a str>) {
    page.control("nf", []);
    for line in lines {
        page.text([roman(line)]);
    }
    page.control("fi", []);
}

/// The last section: other pages.
pub fn see_also(page: &mut Roff, pages: &[(&str, &str)]) {
    page.control("SH", ["SEE ALSO"]);
    let mut text = Vec::new();
    for (index, (name, section)) in pages.iter().enumerate() {
        if index > 0 {
            text.push(roman(", "));
        }
        text.push(bold(*name));
        text.push(roman(format!("({section})")));
    }
    page.text(text);
}

//! hostkv(1), from the tool's command line: one page with every command and its options.

use clap::{Arg, Command};
use roff::{Inline, Roff, bold, italic, roman};

use crate::page;

/// hostkv(1).
pub fn page(date: &str) -> Vec<u8> {
    let mut command = hostkv_cli::command();
    command.build();
    let about = command.get_about().map(ToString::to_string);
    let about = about.unwrap_or_default();
    let mut page = page::begin("hostkv", "1", date, about.trim_end_matches('.'));
    page.control("SH", ["SYNOPSIS"]);
    page.text([
        bold("hostkv"),
        roman(" [OPTIONS] "),
        italic("COMMAND"),
        roman(" [ARGUMENTS]"),
    ]);
    if let Some(text) = command.get_long_about() {
        page.control("SH", ["DESCRIPTION"]);
        text_of(&mut page, &text.to_string());
    }
    page.control("SH", ["OPTIONS"]);
    arguments(&mut page, &command, |_| true);
    page.control("SH", ["COMMANDS"]);
    for command in command.get_subcommands().filter(|c| c.get_name() != "help") {
        page.control("SS", [command.get_name()]);
        let mut usage = command.clone();
        page.text([bold(
            usage.render_usage().to_string().replace("Usage: ", ""),
        )]);
        page.control("PP", []);
        let about = command.get_long_about().or(command.get_about());
        text_of(
            &mut page,
            &about.map(ToString::to_string).unwrap_or_default(),
        );
        // What every command takes stands above.
        arguments(&mut page, command, |argument| !argument.is_global_set());
    }
    if let Some(text) = command.get_after_help() {
        page.control("SH", ["NOTES"]);
        text_of(&mut page, &text.to_string());
    }
    page::see_also(
        &mut page,
        &[("hostkvd", "8"), ("hostkvd.toml", "5"), ("libhostkv", "3")],
    );
    page.render().into_bytes()
}

/// Paragraphs between empty lines; what is indented is kept as it is.
fn text_of(page: &mut Roff, text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    let blocks = lines.split(|line| line.trim().is_empty());
    for (index, block) in blocks.filter(|block| !block.is_empty()).enumerate() {
        if index > 0 {
            page.control("PP", []);
        }
        if block.iter().any(|line| line.starts_with(' ')) {
            page::code(page, block.iter().copied());
        } else {
            page.text([roman(block.join(" "))]);
        }
    }
}

fn arguments(page: &mut Roff, command: &Command, is_wanted: impl Fn(&Arg) -> bool) {
    let shown = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && is_wanted(argument))
        .filter(|argument| argument.get_long() != Some("help"));
    for argument in shown {
        page.control("TP", []);
        page.text(names(argument));
        let help = argument.get_long_help().or(argument.get_help());
        let mut help = help.map(ToString::to_string).unwrap_or_default();
        let values: Vec<String> = argument
            .get_possible_values()
            .iter()
            .filter(|_| argument.get_action().takes_values())
            .map(|value| value.get_name().to_owned())
            .collect();
        if !values.is_empty() {
            help.push_str(&format!(" [possible values: {}]", values.join(", ")));
        }
        page.text([roman(help.replace('\n', " "))]);
    }
}

fn names(argument: &Arg) -> Vec<Inline> {
    let mut names = Vec::new();
    if let Some(short) = argument.get_short() {
        names.push(bold(format!("-{short}")));
    }
    if let Some(long) = argument.get_long() {
        if !names.is_empty() {
            names.push(roman(", "));
        }
        names.push(bold(format!("--{long}")));
    }
    if argument.get_action().takes_values() {
        if !names.is_empty() {
            names.push(roman(" "));
        }
        let values = argument.get_value_names().unwrap_or_default();
        let values: Vec<&str> = values.iter().map(|name| name.as_str()).collect();
        names.push(italic(values.join(" ")));
    }
    names
}

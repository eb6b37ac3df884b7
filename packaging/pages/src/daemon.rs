//! hostkvd(8), hostkvd.toml(5) and the default file, from the daemon's own list of settings.

use std::error::Error;

use hostkv_daemon::config::document;
use roff::{bold, roman};

use crate::page;

/// The values that an installation's file sets, because its units run the daemon as user and group `hostkv`.
const CHOSEN: [(&str, &str); 1] = [("socket_group", "\"hostkv\"")];

/// hostkvd(8).
pub fn program(date: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut command = document::command();
    command.build();
    let man = clap_mangen::Man::new(command.clone());
    let mut options = Vec::new();
    man.render_options_section(&mut options)?;

    let about = "owner of the KV-cache pool of a host";
    let mut begin = page::begin("hostkvd", "8", date, about);
    begin.control("SH", ["SYNOPSIS"]);
    begin.text([bold("hostkvd"), roman(" [FLAGS]")]);
    begin.control("SH", ["DESCRIPTION"]);
    page::paragraphs(
        &mut begin,
        &[
            "hostkvd owns a buffer in shared memory in which LLM inference engines of one host keep KV blocks. Engines link \
             libhostkv, find the longest cached prefix of a prompt and read its blocks in place, without a system call and \
             without asking the daemon. The daemon grants room to writers, publishes what they commit, evicts what was \
             not used for longest, and gives back what a process held that has died.",
            "Memory is allocated whole at the start; a pool that does not fit is an error then and never later. The daemon \
             is ready when every page is there.",
            "Metrics for Prometheus are served at http://127.0.0.1:9090/metrics unless the flags say otherwise, a status page \
             at / and the daemon's health at /healthz.",
        ],
    );
    let after = command.get_after_help().map(ToString::to_string);
    if let Some(after) = &after {
        begin.control("PP", []);
        begin.text([roman(after.as_str())]);
    }

    let mut end = roff::Roff::new();
    end.control("SH", ["SIGNALS"]);
    page::definitions(
        &mut end,
        &[
            (
                "SIGTERM, SIGINT",
                "End cleanly within five seconds: sessions are told, the socket is removed unless the service manager \
                 made it. What clients have mapped stays readable to them.",
            ),
            (
                "SIGHUP",
                "Read the file again and apply the keys that hostkvd.toml(5) marks. The log says what changed and what \
                 needs a restart.",
            ),
        ],
    );
    end.control("SH", ["EXIT STATUS"]);
    page::definitions(
        &mut end,
        &[
            ("0", "Ended by SIGTERM or SIGINT."),
            (
                "1",
                "Something is missing on this host: memory, a port, a folder, a kernel of Linux 6.1 or newer.",
            ),
            ("2", "A flag, a variable or the file is wrong."),
        ],
    );
    end.text([roman(
        "The last line on standard error begins with \"hostkvd: \" and says what is wrong and what to do.",
    )]);
    end.control("SH", ["ENVIRONMENT"]);
    page::definitions(
        &mut end,
        &[
            (
                "HOSTKV_...",
                "Every flag as a variable, in capitals and with underscores.",
            ),
            (
                "LMCACHE_LOG_LEVEL",
                "Level of the log on standard error: DEBUG, INFO, WARNING, ERROR or CRITICAL.",
            ),
            (
                "RUNTIME_DIRECTORY, XDG_RUNTIME_DIR",
                "Where the socket goes when nothing names its path.",
            ),
            (
                "NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID",
                "As of systemd: readiness, a status line, reload and stop are told there, and the watchdog is fed by the \
                 thread that serves requests.",
            ),
            (
                "LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES",
                "As of systemd: the daemon serves on the one listening SOCK_SEQPACKET socket that is passed.",
            ),
        ],
    );
    end.control("SH", ["FILES"]);
    page::definitions(
        &mut end,
        &[
            (
                "/etc/hostkv/hostkvd.toml",
                "What hostkvd.service gives to --config.",
            ),
            (
                "/etc/hostkv/NAME.toml",
                "The same for hostkvd@NAME.service, whose socket is /run/hostkv-NAME/hostkv.sock.",
            ),
            ("/run/hostkv/hostkv.sock", "The socket of hostkvd.service."),
        ],
    );
    page::see_also(
        &mut end,
        &[("hostkv", "1"), ("hostkvd.toml", "5"), ("libhostkv", "3")],
    );

    let mut text = begin.render().into_bytes();
    text.extend(without_preamble(&options));
    text.extend(without_preamble(end.render().as_bytes()));
    Ok(text)
}

/// Each rendered piece defines the same macros; once is enough.
fn without_preamble(piece: &[u8]) -> &[u8] {
    let start = piece
        .windows(4)
        .position(|bytes| bytes == b".SH ")
        .unwrap_or(0);
    &piece[start..]
}

/// hostkvd.toml(5).
pub fn file(date: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut page = page::begin("hostkvd.toml", "5", date, "configuration of hostkvd");
    page.control("SH", ["DESCRIPTION"]);
    page::paragraphs(
        &mut page,
        &[
            "The TOML file that hostkvd reads when --config or HOSTKV_CONFIG names it; hostkvd.service names \
             /etc/hostkv/hostkvd.toml. A flag beats a variable, a variable beats the file, and a key that the file does \
             not have keeps its default. An unknown key or a value that is not allowed ends the start.",
            "Keys marked \"on reload\" are applied when the daemon is reloaded (SIGHUP, systemctl reload hostkvd); the \
             others need a restart. Rights and quotas hold for sessions that are opened afterwards.",
            "hostkvd --config FILE --print-config shows what holds and where each value comes from.",
        ],
    );
    let mut heading = "";
    for entry in document::entries()? {
        if entry.heading != heading {
            heading = entry.heading;
            page.control("SH", [heading.to_uppercase().as_str()]);
        }
        page.control("TP", []);
        page.text([bold(format!("{} = {}", entry.key, entry.example))]);
        page.text([roman(format!("{}.", entry.help))]);
        page.control("br", []);
        let reload = if entry.is_reloadable {
            " On reload."
        } else {
            ""
        };
        page.text([roman(format!("Allowed: {}.{reload}", entry.allowed))]);
    }
    page::see_also(
        &mut page,
        &[("hostkv", "1"), ("hostkvd", "8"), ("libhostkv", "3")],
    );
    Ok(page.render().into_bytes())
}

/// The file that an installation begins with.
pub fn default_file() -> Result<Vec<u8>, Box<dyn Error>> {
    Ok(document::default_file(&CHOSEN)?.into_bytes())
}

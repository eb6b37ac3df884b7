//! The tool in a real terminal, which tmux makes: `top` and the question of `clear`.

use std::cell::Cell;
use std::process::{Command, Stdio};

use hostkv_tests::{Daemon, keys, keyspace, skip, store, wait_until};

use crate::TOOL;

/// A terminal with a shell in it. Ends with this value.
struct Terminal {
    server: String,
    /// Command lines so far.
    line_count: Cell<u32>,
}

impl Terminal {
    /// 100 columns, 30 rows; none where there is no tmux.
    fn open(what: &str, daemon: &Daemon) -> Option<Terminal> {
        let has_tmux = Command::new("tmux")
            .arg("-V")
            .stdout(Stdio::null())
            .status();
        if has_tmux.is_err() {
            skip(&format!("{what}: there is no tmux"));
            return None;
        }
        let server = format!("hostkv-{}-{}", std::process::id(), what.replace(' ', "-"));
        let terminal = Terminal {
            server,
            line_count: Cell::new(0),
        };
        let socket = format!("HOSTKV_SOCKET={}", daemon.socket().display());
        // A shell that says nothing of itself and reads no file of the user.
        let shell = "env -u ENV PS1=$ sh";
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "100",
            "-y",
            "30",
            "-e",
            &socket,
            shell,
        ]);
        terminal.tmux(&["set-option", "-g", "remain-on-exit", "on"]);
        Some(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-L", &self.server])
            .args(arguments)
            .env_remove("TMUX")
            .env("TERM", "xterm-256color")
            .output()
            .unwrap();
        assert!(output.status.success(), "tmux {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Types a line.
    fn type_line(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.tmux(&["send-keys", "Enter"]);
    }

    /// Has the shell run a command line. At its end the terminal shows what is given here and the exit code; no other
    /// line shows the same, so that nobody takes an earlier end for this one.
    fn run(&self, line: &str) -> String {
        let number = self.line_count.get() + 1;
        self.line_count.set(number);
        let end = format!("line-{number}-ended-with-");
        self.type_line(&format!("{line}; echo {end}$?"));
        end
    }

    /// Waits for what [`Terminal::run`] gave, with one of these codes, and gives the screen.
    fn wait_for_end(&self, end: &str, codes: &[u8]) -> String {
        let mut screen = String::new();
        wait_until(
            &format!("{end}{codes:?} can be seen in:\n{}", self.screen()),
            || {
                screen = self.screen();
                let is_seen = |code: &u8| screen.contains(&format!("{end}{code}"));
                codes.iter().any(is_seen)
            },
        );
        screen
    }

    /// As [`Terminal::run`], and waits for its end with this code.
    fn run_to_end(&self, line: &str, code: u8) -> String {
        self.wait_for_end(&self.run(line), &[code])
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// What can be seen; a line that the terminal had to break is one.
    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J"])
    }

    fn format(&self, format: &str) -> String {
        self.tmux(&["display-message", "-p", format])
            .trim()
            .to_owned()
    }

    fn wait_for(&self, part: &str) -> String {
        let mut screen = String::new();
        wait_until(
            &format!("{part:?} can be seen in:\n{}", self.screen()),
            || {
                screen = self.screen();
                screen.contains(part)
            },
        );
        screen
    }

    /// Modes of the terminal that a program may leave changed behind.
    fn assert_restored(&self, modes: &str) {
        let screen = self.run_to_end("clear; stty -g", 0);
        assert!(screen.contains(modes), "{modes} is not in:\n{screen}");
        assert_eq!(
            self.format("#{alternate_on} #{cursor_flag} #{mouse_any_flag}"),
            "0 1 0"
        );
    }

    /// The program that the shell runs.
    fn child(&self) -> i32 {
        let pid = self.format("#{pane_pid}");
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The modes now, as `stty -g` writes them.
    fn modes(&self) -> String {
        let screen = self.run_to_end("stty -g", 0);
        let line = screen.lines().find(|line| line.matches(':').count() > 10);
        // A line that is typed before the shell shows its first prompt is echoed in front of it.
        line.unwrap().trim().trim_start_matches('$').to_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = Command::new("tmux")
            .args(["-L", &self.server, "kill-server"])
            .stderr(Stdio::null())
            .status();
    }
}

#[test]
fn top_shows_resizes_and_gives_the_terminal_back_however_it_ends() {
    let daemon = Daemon::start(&[]);
    let Some(terminal) = Terminal::open("top", &daemon) else {
        return;
    };
    let session = daemon.session();
    let id = keyspace(&session);
    store(&session, id, &keys("k", 16), 1 << 20);
    let modes = terminal.modes();
    for end in ["q", "Escape", "C-c"] {
        let ended = terminal.run(&format!("{TOOL} top"));
        let screen = terminal.wait_for("q quits");
        for part in [
            "hostkvd 0.1.0",
            "16.0 MiB of 32.0 MiB",
            "50.0 %",
            "eviction from 80 %",
            "SESSION",
            "e2e",
        ] {
            assert!(screen.contains(part), "{part:?} is not in:\n{screen}");
        }
        assert_eq!(terminal.format("#{alternate_on}"), "1");
        terminal.press(end);
        terminal.wait_for_end(&ended, &[0]);
        terminal.assert_restored(&modes);
    }

    // Reads show as a rate.
    let ended = terminal.run(&format!("{TOOL} top"));
    terminal.wait_for("q quits");
    wait_until("a hit rate can be seen", || {
        let lease = session
            .acquire(id, &keys("k", 16), &Default::default())
            .unwrap();
        lease.release().unwrap();
        terminal.screen().contains("hit rate now 100.0 %")
    });
    for (width, height) in [("60", "12"), ("20", "4"), ("140", "40")] {
        terminal.tmux(&["resize-window", "-x", width, "-y", height]);
        wait_until("the foot is where the new size has it", || {
            let screen = terminal.screen();
            let foot = screen.lines().position(|row| row.contains("q quits"));
            foot.is_some_and(|row| (row + 1).to_string() == height)
        });
    }
    let top = nix::unistd::Pid::from_raw(terminal.child());
    nix::sys::signal::kill(top, nix::sys::signal::Signal::SIGTERM).unwrap();
    terminal.wait_for_end(&ended, &[0, 143]);
    terminal.assert_restored(&modes);
    drop(session);
    daemon.finish();
}

#[test]
fn top_tells_of_a_daemon_that_goes_and_finds_the_next_one() {
    let daemon = Daemon::start(&[]);
    let Some(terminal) = Terminal::open("top of a restart", &daemon) else {
        return;
    };
    let ended = terminal.run(&format!("{TOOL} top"));
    terminal.wait_for("q quits");
    let spec = daemon.kill();
    terminal.wait_for("can't be looked at");
    let daemon = spec.start();
    wait_until("the new daemon is shown", || {
        let screen = terminal.screen();
        screen.contains(&format!("pid {}", daemon.pid())) && !screen.contains("can't be looked at")
    });
    terminal.press("q");
    terminal.wait_for_end(&ended, &[0]);
    terminal.assert_restored("");
    daemon.finish();
}

#[test]
fn top_ends_with_its_terminal() {
    let daemon = Daemon::start(&[]);
    // Also where SIGHUP is ignored, as under nohup.
    for prefix in ["", "trap '' HUP; "] {
        let Some(terminal) = Terminal::open(&format!("top that loses {}", prefix.len()), &daemon)
        else {
            return;
        };
        terminal.run(&format!("{prefix}{TOOL} top"));
        terminal.wait_for("q quits");
        let top = terminal.child();
        drop(terminal);
        wait_until("it has ended", || {
            !std::path::Path::new(&format!("/proc/{top}")).exists()
        });
    }
    daemon.finish();
}

#[test]
fn clear_asks_on_a_terminal_and_takes_only_yes_for_yes() {
    let daemon = Daemon::start(&[]);
    let Some(terminal) = Terminal::open("clear", &daemon) else {
        return;
    };
    let session = daemon.session();
    store(&session, keyspace(&session), &keys("k", 3), 100);
    drop(session);
    for (answer, code) in [("no", 1), ("y", 1), ("", 1)] {
        terminal.run_to_end("clear", 0);
        let ended = terminal.run(&format!("{TOOL} clear --all"));
        terminal.wait_for("every object of every model and tenant. Type yes to go on:");
        terminal.type_line(answer);
        let screen = terminal.wait_for_end(&ended, &[code]);
        assert!(screen.contains("nothing is removed"), "{screen}");
    }
    assert_eq!(daemon.audit().object_count, 3);
    let ended = terminal.run(&format!("clear; {TOOL} clear --keyspace test-model"));
    terminal.wait_for("model \"test-model\" and no tenant");
    terminal.type_line("yes");
    let screen = terminal.wait_for_end(&ended, &[0]);
    assert!(screen.contains("3 objects removed"), "{screen}");
    daemon.finish();
}

#[test]
fn an_object_does_not_go_to_a_terminal_and_a_dumb_one_has_no_top() {
    let daemon = Daemon::start(&[]);
    let Some(terminal) = Terminal::open("get", &daemon) else {
        return;
    };
    let screen = terminal.run_to_end(&format!("{TOOL} get m/0/0/00 -o -"), 2);
    assert!(screen.contains("is a terminal"), "{screen}");
    let screen = terminal.run_to_end(&format!("clear; TERM=dumb {TOOL} top"), 2);
    assert!(screen.contains("status --watch"), "{screen}");
    // Colours are for terminals, and not for those who want none.
    let ended = terminal.run(&format!(
        "clear; NO_COLOR=1 {TOOL} doctor; {TOOL} doctor >/dev/null"
    ));
    terminal.wait_for_end(&ended, &[0, 1]);
    daemon.finish();
}

//! `hostkv top`: the state as a screen that follows.
//!
//! The main thread looks at the daemon once a second and waits for keys in between. The terminal is given back in the
//! state in which it was: at q, Esc and Ctrl-C, at SIGTERM and SIGINT, and when the program panics. A terminal that has
//! gone, as when an ssh connection breaks, ends it. It needs no
//! mouse and no more than a cursor that can be placed and 8 colours, so it works over ssh. A daemon that goes away is
//! told on the screen and looked for again.
//!
//! ```text
//!   tick --> connect::open --> STATE, or STATS --> model (rates, history) --> screen
//!     ^----- key: quit? resized: draw again -----------------------------------+
//! ```

mod model;
mod screen;

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hostkv::session::{READ_ONLY, Session};
use hostkv::{Error, Status};
use hostkv_shm_protocol::sync::{AtomicUsize, Ordering};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::args::Common;
use crate::connect;
use crate::failure::Failure;
use crate::output::{Output, is_dumb_terminal};
use model::{Look, Model};

/// Between two looks.
const TICK: Duration = Duration::from_secs(1);
/// How long a look may take before the screen says that the daemon does not answer.
const LOOK_TIMEOUT_MS: u32 = 1000;
/// How soon a signal is noticed.
const SIGNAL_LATENCY: Duration = Duration::from_millis(100);

/// Follows the daemon until somebody quits.
pub fn run(common: &Common, output: &Output) -> Result<ExitCode, Failure> {
    if common.json {
        return Err(Failure::usage(
            "top is a screen for people; `hostkv status --watch --json` is its like for programs",
        ));
    }
    if !output.is_terminal() || !std::io::stdin().is_terminal() || is_dumb_terminal() {
        return Err(Failure::usage(
            "top needs a terminal whose cursor can be placed (TERM is neither unset nor dumb); `hostkv status --watch` \
             needs none",
        ));
    }
    let signal = Arc::new(AtomicUsize::new(0));
    // SIGHUP keeps its meaning: the terminal has gone, so there is nothing to be given back.
    for number in [libc::SIGTERM, libc::SIGINT] {
        signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize).map_err(
            |error| Failure::failed(format!("signal {number} can't be waited for: {error}")),
        )?;
    }
    let mut daemon = Watched::open(common)?;
    // Also makes a panic give the terminal back before it is told.
    let mut terminal = ratatui::try_init()
        .map_err(|error| Failure::failed(format!("the terminal can't be set up: {error}")))?;
    let end = follow(&mut terminal, &mut daemon, &signal);
    ratatui::restore();
    // Shows the cursor again; what follows may not come back.
    drop(terminal);
    match end.map_err(|error| Failure::failed(format!("the terminal fails: {error}")))? {
        End::Quit => Ok(ExitCode::SUCCESS),
        End::Signal(number) => {
            // Now that the terminal is restored, the end is the one that the signal asked for.
            let _ = signal_hook::low_level::emulate_default_handler(number);
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Why the screen closes.
enum End {
    Quit,
    Signal(i32),
}

fn follow(
    terminal: &mut ratatui::DefaultTerminal,
    daemon: &mut Watched<'_>,
    signal: &AtomicUsize,
) -> std::io::Result<End> {
    let mut model = Model::default();
    let mut next_look = Instant::now();
    loop {
        if Instant::now() >= next_look {
            match daemon.look() {
                Ok(look) => model.saw(look, Instant::now()),
                Err(error) => model.missed(error.message),
            }
            terminal.draw(|frame| screen::draw(frame, &model))?;
            next_look = Instant::now() + TICK;
        }
        // Relaxed: a single word that nothing else depends on.
        let number = signal.load(Ordering::Relaxed);
        if number != 0 {
            return Ok(End::Signal(number as i32));
        }
        let wait = next_look.saturating_duration_since(Instant::now());
        if has_hung_up(wait.min(SIGNAL_LATENCY)) {
            return Ok(End::Signal(libc::SIGHUP));
        }
        // Not waited for here: at the end of a terminal that has gone crossterm would read for ever.
        if !event::poll(Duration::ZERO)? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                let is_interrupt =
                    key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                let quits = matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc);
                if quits || is_interrupt {
                    return Ok(End::Quit);
                }
            }
            Event::Resize(..) => {
                terminal.draw(|frame| screen::draw(frame, &model))?;
            }
            _ => {}
        }
    }
}

/// Waits for a key, or a while; true when the terminal has gone.
fn has_hung_up(wait: Duration) -> bool {
    let stdin = std::io::stdin();
    let mut watched = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
    // A signal ends the wait early, which is what it is for.
    let _ = poll(&mut watched, timeout);
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    watched[0]
        .revents()
        .is_some_and(|events| events.intersects(gone))
}

/// The daemon, and a session with it while there is one.
struct Watched<'a> {
    common: &'a Common,
    session: Option<Session>,
}

impl<'a> Watched<'a> {
    /// A daemon that is not there at the beginning is an error; one that goes later is waited for.
    fn open(common: &'a Common) -> hostkv::Result<Watched<'a>> {
        Ok(Watched {
            common,
            session: Some(Watched::session(common)?),
        })
    }

    fn session(common: &Common) -> hostkv::Result<Session> {
        connect::open(
            common,
            "top",
            READ_ONLY,
            common.timeout_ms.min(LOOK_TIMEOUT_MS),
        )
    }

    fn look(&mut self) -> hostkv::Result<Look> {
        let session = match self.session.take() {
            Some(session) => session,
            None => Watched::session(self.common)?,
        };
        let look = Watched::look_by(&session);
        // A session whose daemon has gone is of no use; one that was slow is.
        let is_over = |error: &Error| error.status == Status::Disconnected;
        if !look.as_ref().is_err_and(is_over) {
            self.session = Some(session);
        }
        look
    }

    fn look_by(session: &Session) -> hostkv::Result<Look> {
        let info = session.info()?;
        let figures = session.figures()?;
        match session.state() {
            Ok((daemon, sessions)) => Ok(Look {
                info,
                figures,
                daemon: Some(daemon),
                sessions,
            }),
            Err(error) if error.status == Status::Permission => Ok(Look {
                info,
                figures,
                daemon: None,
                sessions: Vec::new(),
            }),
            Err(error) => Err(error),
        }
    }
}

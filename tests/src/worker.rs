//! A worker process: takes one command a line, answers one line, and can be killed between any two.
//!
//! The commands are those of `src/bin/worker.rs`. An answer begins with `OK` or with the name of a status.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use crate::Daemon;

/// Makes the kernel kill this process when the thread that started it ends. For a child between fork and exec.
pub fn end_with_parent() -> std::io::Result<()> {
    // SAFETY: prctl with these numbers touches no memory.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    has_ended: bool,
}

impl Worker {
    /// The program.
    pub fn program() -> PathBuf {
        crate::daemon::profile_folder().join("hostkv-test-worker")
    }

    /// Starts one that will use the daemon's socket.
    pub fn start(daemon: &Daemon) -> Worker {
        Worker::start_at(&daemon.socket(), &[])
    }

    /// Starts one that has to find its daemon by these variables.
    pub fn start_with(variables: &[(&str, &Path)]) -> Worker {
        Worker::spawn(Command::new(Worker::program()), None, variables)
    }

    /// Starts one for this socket, run by another program: `wrapper`, then the worker's own command line.
    pub fn start_at(socket: &Path, wrapper: &[&str]) -> Worker {
        let command = match wrapper.split_first() {
            None => Command::new(Worker::program()),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(Worker::program());
                command
            }
        };
        Worker::spawn(command, Some(socket), &[])
    }

    fn spawn(mut command: Command, socket: Option<&Path>, variables: &[(&str, &Path)]) -> Worker {
        command
            .args(socket)
            .env_remove("HOSTKV_SOCKET")
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("RUNTIME_DIRECTORY")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // SAFETY: prctl is async-signal-safe and touches nothing of this process.
        unsafe { command.pre_exec(end_with_parent) };
        let mut child = command.spawn().expect("the worker program can be run");
        Worker {
            orders: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().expect("standard output is a pipe")),
            child,
            has_ended: false,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order without waiting for the answer.
    pub fn order(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("orders end with the worker");
        writeln!(orders, "{order}").unwrap();
    }

    /// Waits for the next answer.
    pub fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert!(
            answer.ends_with('\n'),
            "the worker has ended without an answer"
        );
        answer.trim_end().to_owned()
    }

    /// Gives an order and waits for the answer.
    pub fn ask(&mut self, order: &str) -> String {
        self.order(order);
        self.answer()
    }

    /// Gives an order that must be answered by `OK`; gives what follows it.
    pub fn must(&mut self, order: &str) -> String {
        let answer = self.ask(order);
        match answer.strip_prefix("OK") {
            Some(rest) => rest.trim_start().to_owned(),
            None => panic!("the worker answers {order:?} with {answer:?}"),
        }
    }

    /// SIGKILLs it and comes back as soon as its end can be seen, as its pidfd says it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        self.has_ended = true;
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }

    /// Ends its orders and waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        drop(self.orders.take());
        let status = self.child.wait().unwrap();
        self.has_ended = true;
        status
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.has_ended {
            // It may have ended by itself; then both are refused, which is as good.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

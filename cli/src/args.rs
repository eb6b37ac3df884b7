//! The command line.
//!
//! Help and man page come from these comments. The exit codes are those of [`crate::failure`].

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::key::ObjectKey;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; doctor: something was found
  2  the command line is wrong
  3  not found (get; rm when no key was there)
  4  the daemon can't be reached

Environment:
  HOSTKV_SOCKET  the daemon's socket, when --socket does not name it
  HOSTKV_SALT    the tenant's cache salt, when --salt-file does not name a file with it
  NO_COLOR       no colours, if set

A KEY is model/rank/group/hex: rank and group in decimal, hex the chunk hash. `hostkv ls` shows keys in this form.";

/// Looks into a hostkv daemon: what it holds, who uses it, and what is wrong.
#[derive(Debug, Parser)]
#[command(name = "hostkv", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Arguments {
    /// What is common to all commands.
    #[command(flatten)]
    pub common: Common,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What is common to all commands.
#[derive(Debug, Args)]
pub struct Common {
    /// The daemon's socket [default: HOSTKV_SOCKET, $XDG_RUNTIME_DIR/hostkv/hostkv.sock, /run/hostkv/hostkv.sock; the
    /// first that is set, or exists]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// A file with the tenant's cache salt; a line end at its end does not count [default: HOSTKV_SALT]
    #[arg(long, global = true, value_name = "FILE")]
    pub salt_file: Option<PathBuf>,
    /// How long the daemon may take to answer, in milliseconds
    #[arg(long, global = true, value_name = "N", default_value_t = 5000,
          value_parser = clap::value_parser!(u32).range(1..=600_000))]
    pub timeout_ms: u32,
    /// JSON instead of a table, one document a line
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows the daemon, its pool and, to an admin, its sessions
    Status(StatusArguments),
    /// Shows the same as a screen that follows; q quits
    Top,
    /// Lists the objects (admin)
    Ls(LsArguments),
    /// Writes an object's bytes into a file
    Get(GetArguments),
    /// Stores a file as an object
    Put(PutArguments),
    /// Removes objects; those that somebody reads stay readable to them
    Rm(RmArguments),
    /// Removes every object of a model, or all there are (admin)
    Clear(ClearArguments),
    /// Measures how long the daemon takes to answer
    Ping(PingArguments),
    /// Measures for a moment what this host and the daemon on it reach, and cleans up
    Bench(BenchArguments),
    /// Looks for what is wrong with the daemon and this host, and says what to change
    Doctor(DoctorArguments),
    /// Has the daemon read its configuration again, and says what changed (admin)
    Reload,
    /// Prints a script of completions for a shell
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Goes on every second until it is interrupted
    #[arg(long)]
    pub watch: bool,
}

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub struct LsArguments {
    /// Only objects of this model; with a salt, only those of its tenant
    #[arg(long, value_name = "MODEL")]
    pub keyspace: Option<String>,
    /// At most this many objects
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct GetArguments {
    /// Which object
    #[arg(value_parser = ObjectKey::parse)]
    pub key: ObjectKey,
    /// Where to; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// Arguments of `put`.
#[derive(Debug, Args)]
pub struct PutArguments {
    /// Which object; a model that the daemon does not know gets the layout fingerprint 0
    #[arg(value_parser = ObjectKey::parse)]
    pub key: ObjectKey,
    /// Where from; - is standard input
    pub file: PathBuf,
}

/// Arguments of `rm`.
#[derive(Debug, Args)]
pub struct RmArguments {
    /// Which objects
    #[arg(required = true, value_name = "KEY", value_parser = ObjectKey::parse)]
    pub keys: Vec<ObjectKey>,
}

/// Arguments of `clear`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["keyspace", "all"]))]
pub struct ClearArguments {
    /// Every object of this model; with a salt, of its tenant
    #[arg(long, value_name = "MODEL")]
    pub keyspace: Option<String>,
    /// Every object there is (admin)
    #[arg(long)]
    pub all: bool,
    /// Does not ask; needed where there is no terminal to ask on
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of `ping`.
#[derive(Debug, Args)]
pub struct PingArguments {
    /// How many times
    #[arg(short, long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: u32,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// How long to measure, in seconds
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=60))]
    pub seconds: u32,
    /// Length of an object
    #[arg(long, value_name = "N", default_value_t = 1 << 20,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub object_bytes: u64,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Flags that hostkvd is, or will be, started with, for what is looked at while it does not run
    #[arg(last = true, value_name = "HOSTKVD FLAG")]
    pub daemon_flags: Vec<OsString>,
}

//! The part of the sandbox that landlock enforces: which files, ports, abstract sockets and processes are there.
//!
//! Called by [`Plan::enter`](super::Plan::enter) on the main thread, and by the log's thread for itself: landlock holds for
//! one thread and those that it starts. Everything that it knows is handled, and what is not in the list of [`Place`]s is
//! refused, descriptors that are open already excepted. Names can still be looked up and asked for their rights.
//!
//! ```text
//!   Place            Reach     a daemon may
//!   /proc            Read      read files
//!   socket's folder  Sockets   make sockets, remove files
//!   file's folder    Read      read files: editors put a new file in the place of the old one
//!   jsonl's folder   Events    read, write, make, cut, rename and remove files
//!   jsonl, no file   Write     read and write that pipe or device
//!   /dev/shm         Remove    remove files, with a named segment
//! ```
//!
//! Segments are in none of them: landlock does not look at files without a place in a file system, so lease and staging
//! segments are made and reopened as before.

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope,
};

use super::Lack;

/// What of landlock is asked for at most. A kernel that has less enforces less; one that has more is not asked for what
/// nobody has tried here.
const NEWEST: ABI = ABI::V7;

/// What is allowed at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Reading files.
    Read,
    /// Reading and writing this one file, which is no regular one.
    Write,
    /// Making sockets and removing files.
    Sockets,
    /// All that a file needs that grows and is rotated.
    Events,
    /// Removing files.
    Remove,
}

impl Reach {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Reach::Read => AccessFs::ReadFile.into(),
            Reach::Write => AccessFs::ReadFile | AccessFs::WriteFile,
            Reach::Sockets => AccessFs::MakeSock | AccessFs::RemoveFile,
            Reach::Events => {
                AccessFs::ReadFile
                    | AccessFs::WriteFile
                    | AccessFs::Truncate
                    | AccessFs::MakeReg
                    | AccessFs::RemoveFile
            }
            Reach::Remove => AccessFs::RemoveFile.into(),
        }
    }
}

/// A folder with all that is in it, or a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    reach: Reach,
}

impl Place {
    /// This place with this reach.
    pub fn new(path: impl Into<PathBuf>, reach: Reach) -> Place {
        Place {
            path: path.into(),
            reach,
        }
    }
}

/// Where a file has to be readable, so that it can be read again after another one was put in its place.
pub fn places_to_reread(file: &Path) -> Vec<Place> {
    let folders = folders_of(file).into_iter();
    folders
        .map(|folder| match folder.parent() {
            // A file in the root folder does not open all files to be read; it is replaced at a restart only.
            None => Place::new(file, Reach::Read),
            Some(_) => Place::new(folder, Reach::Read),
        })
        .collect()
}

/// Where a file may be written to, rotated and made anew; or that it may be opened again, if it is none.
pub fn places_to_rotate(file: &Path) -> Vec<Place> {
    match fs::metadata(file) {
        Ok(found) if !found.is_file() => vec![Place::new(file, Reach::Write)],
        _ => folders_of(file)
            .into_iter()
            .map(|folder| Place::new(folder, Reach::Events))
            .collect(),
    }
}

/// The folder in which a file has its name, and the one where it is, if the name is a link to elsewhere.
fn folders_of(file: &Path) -> Vec<PathBuf> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let named = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let real = fs::canonicalize(file)
        .ok()
        .and_then(|real| real.parent().map(Path::to_owned))
        .filter(|real| *real != named);
    [Some(named), real].into_iter().flatten().collect()
}

/// What is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforced {
    version: i32,
    is_whole: bool,
}

#[cfg(test)]
impl Enforced {
    /// As on a kernel that has all.
    pub(super) fn for_tests() -> Enforced {
        Enforced {
            version: 7,
            is_whole: true,
        }
    }
}

impl Display for Enforced {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = if self.is_whole {
            ""
        } else {
            ", of which this kernel has a part"
        };
        write!(formatter, "landlock (version {}{part})", self.version)
    }
}

/// Restricts this thread, and those that it starts from now on, to nothing at all.
pub fn restrict_to_nothing() -> Result<Enforced, Lack> {
    restrict(&[], false)
}

/// Restricts this thread, and those that it starts from now on, to `places`. One that is not there is left out: opening
/// something in it fails by itself.
pub fn restrict(places: &[Place], keeps_abstract_sockets: bool) -> Result<Enforced, Lack> {
    let status = enter(places, keeps_abstract_sockets)
        .map_err(|error| Lack::Refused(error.to_string().replace('\n', " ")))?;
    let version = match status.landlock {
        LandlockStatus::NotImplemented => return Err(Lack::NotBuilt),
        LandlockStatus::NotEnabled => return Err(Lack::NotEnabled),
        LandlockStatus::Available { effective_abi, .. } => effective_abi.min(NEWEST) as i32,
    };
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(Lack::NotEnabled),
        whole_or_part => Ok(Enforced {
            version,
            is_whole: whole_or_part == RulesetStatus::FullyEnforced,
        }),
    }
}

fn enter(
    places: &[Place],
    keeps_abstract_sockets: bool,
) -> Result<landlock::RestrictionStatus, RulesetError> {
    let scopes = match keeps_abstract_sockets {
        true => Scope::Signal.into(),
        false => Scope::Signal | Scope::AbstractUnixSocket,
    };
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(scopes)?
        .create()?;
    for place in places {
        match PathFd::new(&place.path) {
            Ok(opened) => {
                ruleset = ruleset.add_rule(PathBeneath::new(opened, place.reach.rights()))?;
            }
            Err(error) => log::debug!("The sandbox leaves {:?} out: {error}", place.path),
        }
    }
    ruleset.restrict_self()
}

//! The operator's `--l2-adapter` specs, checked.
//!
//! The configuration checks them at every start, on the main thread; nothing is opened. Each refusal is one line that
//! numbers the spec from 1, in the order of the flags.
//!
//! | type | fields beside those of all: `name`, `required`, `timeout_ms` |
//! |---|---|
//! | `fs` | `base_path`, `max_capacity_gb`, `use_odirect` |
//! | `resp` | `host`, `port` and `tls`, or `unix_socket`; `username`, `password` or `password_file`, `prefix`, `max_capacity_gb` |
//! | `s3` | `endpoint`, `region`, `bucket`, `access_key_id` and `secret_access_key_file` (else from the environment), `prefix`, `max_capacity_gb` |
//! | `fault_inject` | `inner` (a spec), `rate`, `seed`, `kind` |
//!
//! A gigabyte is 2^30 bytes, as in `--l1-size-gb`. Secrets are never shown: neither in `Debug` nor in a message.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::specs::{Family, FieldError, Fields, Kind, SpecError, WrongSpec};

/// Most tiers: as many as a [`TierSet`](super::TierSet) has bits and nobody has stores.
pub const MAX_ADAPTERS: usize = 16;
const DEFAULT_TIMEOUT_MS: u64 = 5_000;
const MAX_TIMEOUT_MS: u64 = 600_000;
const DEFAULT_RESP_PORT: u16 = 6379;
const MAX_NAME_BYTES: usize = 64;
const MAX_CAPACITY_GB: f64 = 1_048_576.0;
const DEFAULT_PREFIX: &str = "hostkv/";
const GIB: f64 = 1_073_741_824.0;

/// One tier as the operator wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterSpec {
    /// Its label `l2_name`; the type with its place from 0 unless the spec has a `name`.
    pub name: String,
    /// Whether the daemon starts only with it.
    pub is_required: bool,
    /// How long one operation on one object may take.
    pub timeout: Duration,
    /// What it is.
    pub adapter: Adapter,
}

/// What a tier is.
#[derive(Debug, Clone, PartialEq)]
pub enum Adapter {
    /// Files in a folder.
    Fs(FsSpec),
    /// Redis, Valkey, or what else speaks their protocol.
    Resp(RespSpec),
    /// A store that speaks S3.
    S3(S3Spec),
    /// Another tier with faults, for tests.
    FaultInject(FaultSpec),
}

impl Adapter {
    /// The type, as the spec names it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Adapter::Fs(_) => FS.name,
            Adapter::Resp(_) => RESP.name,
            Adapter::S3(_) => S3.name,
            Adapter::FaultInject(_) => FAULT_INJECT.name,
        }
    }
}

/// Files in a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct FsSpec {
    /// The folder; made if it is missing.
    pub base_path: PathBuf,
    /// How much it may hold; none = as much as the file system has room for.
    pub capacity_bytes: Option<u64>,
    /// Whether to go around the kernel's page cache.
    pub is_direct: bool,
}

/// Where a RESP server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RespPlace {
    /// On a port.
    Tcp {
        /// Name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// On a Unix socket.
    Unix(PathBuf),
}

/// A RESP server.
#[derive(Debug, Clone, PartialEq)]
pub struct RespSpec {
    /// Where it is.
    pub place: RespPlace,
    /// Whether to speak TLS there.
    pub is_tls: bool,
    /// Whom to log in as.
    pub username: Option<String>,
    /// What with.
    pub password: Option<Password>,
    /// What the names of all objects begin with.
    pub prefix: String,
    /// How much this daemon keeps there.
    pub capacity_bytes: Option<u64>,
}

/// A password, or where it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// Itself.
    Text(String),
    /// The file whose first line it is, read when the tier is opened.
    File(PathBuf),
}

/// Without the password.
impl fmt::Debug for Password {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Password::Text(_) => out.write_str("Text(..)"),
            Password::File(path) => out.debug_tuple("File").field(path).finish(),
        }
    }
}

/// A store that speaks S3.
#[derive(Debug, Clone, PartialEq)]
pub struct S3Spec {
    /// Its address with the scheme; none = that of Amazon.
    pub endpoint: Option<String>,
    /// The region; none = from the environment, `us-east-1` at last.
    pub region: Option<String>,
    /// The bucket, which must be there.
    pub bucket: String,
    /// Which key; none = from the environment, the shared files, the instance's role.
    pub access_key_id: Option<String>,
    /// The file whose first line is the key's secret.
    pub secret_access_key_file: Option<PathBuf>,
    /// What the names of all objects begin with.
    pub prefix: String,
    /// How much this daemon keeps there.
    pub capacity_bytes: Option<u64>,
}

/// Another tier with faults.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultSpec {
    /// The other tier.
    pub inner: Box<AdapterSpec>,
    /// Share of operations that fail, 0 to 1.
    pub rate: f64,
    /// Seed of the random numbers that choose them.
    pub seed: u64,
    /// How they fail.
    pub kind: FaultKind,
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// An error at once.
    Error,
    /// It works, half a deadline late.
    Slow,
    /// It does not end until the daemon does.
    Hang,
    /// A store says that it stored and did not.
    Lose,
    /// One bit of what a load gives is another.
    Corrupt,
    /// A store finds no room.
    Full,
    /// The thread panics, which no operation may: the daemon ends.
    Panic,
}

impl FaultKind {
    const ALL: [(&'static str, FaultKind); 7] = [
        ("error", FaultKind::Error),
        ("slow", FaultKind::Slow),
        ("hang", FaultKind::Hang),
        ("lose", FaultKind::Lose),
        ("corrupt", FaultKind::Corrupt),
        ("full", FaultKind::Full),
        ("panic", FaultKind::Panic),
    ];
}

/// The specs of tiers.
static ADAPTERS: Family<AdapterSpec> = Family {
    flag: "--l2-adapter",
    noun: "adapter",
    kinds: &[&FAULT_INJECT, &FS, &RESP, &S3],
};

static FAULT_INJECT: Kind<AdapterSpec> = Kind {
    name: "fault_inject",
    fields: &["inner", "rate", "seed", "kind"],
    build: build_fault_inject,
};

static FS: Kind<AdapterSpec> = Kind {
    name: "fs",
    fields: &[
        "base_path",
        "max_capacity_gb",
        "use_odirect",
        "name",
        "required",
        "timeout_ms",
    ],
    build: build_fs,
};

static RESP: Kind<AdapterSpec> = Kind {
    name: "resp",
    fields: &[
        "host",
        "port",
        "tls",
        "unix_socket",
        "username",
        "password",
        "password_file",
        "prefix",
        "max_capacity_gb",
        "name",
        "required",
        "timeout_ms",
    ],
    build: build_resp,
};

static S3: Kind<AdapterSpec> = Kind {
    name: "s3",
    fields: &[
        "endpoint",
        "region",
        "bucket",
        "access_key_id",
        "secret_access_key_file",
        "prefix",
        "max_capacity_gb",
        "name",
        "required",
        "timeout_ms",
    ],
    build: build_s3,
};

/// Why the specs are refused.
#[derive(Debug, thiserror::Error)]
pub enum AdapterSpecError {
    /// One of them is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// They are too many.
    #[error("{count} --l2-adapter are given; allowed are {MAX_ADAPTERS} at most, leave some out")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// Two bear the same name.
    #[error(
        "--l2-adapter #{number}: another one is named {name:?} too; give each a 'name' of its own"
    )]
    SameName {
        /// The later one, from 1.
        number: usize,
        /// The name.
        name: String,
    },
    /// Two have the same folder.
    #[error(
        "--l2-adapter #{number}: another one has the base_path {path:?} too; give each a folder of its own"
    )]
    SameFolder {
        /// The later one, from 1.
        number: usize,
        /// The folder.
        path: PathBuf,
    },
}

/// The tiers that the specs ask for, in their order.
pub fn parse(specs: &[String]) -> Result<Vec<AdapterSpec>, AdapterSpecError> {
    if specs.len() > MAX_ADAPTERS {
        return Err(AdapterSpecError::TooMany { count: specs.len() });
    }
    let mut parsed = ADAPTERS.parse(specs)?;
    for (place, spec) in parsed.iter_mut().enumerate() {
        if spec.name.is_empty() {
            spec.name = format!("{}{place}", spec.adapter.type_name());
        }
    }
    for (place, spec) in parsed.iter().enumerate() {
        let before = &parsed[..place];
        let number = place + 1;
        if before.iter().any(|other| other.name == spec.name) {
            return Err(AdapterSpecError::SameName {
                number,
                name: spec.name.clone(),
            });
        }
        if let Some(path) = folder_of(spec)
            && before.iter().any(|other| folder_of(other) == Some(path))
        {
            return Err(AdapterSpecError::SameFolder {
                number,
                path: path.clone(),
            });
        }
    }
    Ok(parsed)
}

fn folder_of(spec: &AdapterSpec) -> Option<&PathBuf> {
    match &spec.adapter {
        Adapter::Fs(fs) => Some(&fs.base_path),
        Adapter::FaultInject(fault) => folder_of(&fault.inner),
        Adapter::Resp(_) | Adapter::S3(_) => None,
    }
}

fn common(fields: &Fields, adapter: Adapter) -> Result<AdapterSpec, FieldError> {
    let allowed = format!("a text of 1 to {MAX_NAME_BYTES} letters, digits, '-', '_', '.' and ':'");
    let name = fields.text("name", &allowed)?.unwrap_or_default();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    let is_bad = name.len() > MAX_NAME_BYTES || !name.bytes().all(is_name);
    if is_bad || (name.is_empty() && fields.has("name")) {
        return Err(fields.refuse("name", &allowed));
    }
    let timeout_ms = fields.whole("timeout_ms", 1..=MAX_TIMEOUT_MS)?;
    Ok(AdapterSpec {
        name: name.to_owned(),
        is_required: fields.yes_no("required")?.unwrap_or(true),
        timeout: Duration::from_millis(timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS)),
        adapter,
    })
}

fn build_fs(fields: &Fields) -> Result<AdapterSpec, FieldError> {
    let fs = FsSpec {
        base_path: required_path(fields, "base_path", "the absolute path of a folder")?,
        capacity_bytes: capacity(fields)?,
        is_direct: fields.yes_no("use_odirect")?.unwrap_or(false),
    };
    common(fields, Adapter::Fs(fs))
}

fn build_resp(fields: &Fields) -> Result<AdapterSpec, FieldError> {
    const HOST: &str = "the name or the address of a host, unless there is a 'unix_socket'";
    let unix_socket = path(fields, "unix_socket", "the absolute path of a socket")?;
    let host = some_text(fields, "host", HOST)?;
    let port = fields.whole("port", 1..=u64::from(u16::MAX))?;
    let place = match (unix_socket, host) {
        (None, None) => return Err(fields.refuse("host", HOST)),
        (Some(path), None) if port.is_none() => RespPlace::Unix(path),
        (None, Some(host)) => RespPlace::Tcp {
            host,
            port: port.map_or(DEFAULT_RESP_PORT, |port| port as u16),
        },
        (Some(_), host) => {
            let field = if host.is_some() { "host" } else { "port" };
            return Err(fields.not_together(
                field,
                "unix_socket",
                "the server listens on one place; leave one of both out".to_owned(),
            ));
        }
    };
    let text = fields.secret("password")?.map(Password::Text);
    let file = path(fields, "password_file", "the absolute path of a file")?.map(Password::File);
    if text.is_some() && file.is_some() {
        return Err(fields.not_together(
            "password",
            "password_file",
            "there is one password; leave one of both out, best 'password'".to_owned(),
        ));
    }
    let is_tls = fields.yes_no("tls")?.unwrap_or(false);
    if is_tls && matches!(place, RespPlace::Unix(_)) {
        let remedy = "no TLS is spoken on a Unix socket; leave one of both out".to_owned();
        return Err(fields.not_together("tls", "unix_socket", remedy));
    }
    let resp = RespSpec {
        place,
        is_tls,
        username: some_text(fields, "username", "a name that is not empty")?,
        password: text.or(file),
        prefix: prefix(fields)?,
        capacity_bytes: capacity(fields)?,
    };
    common(fields, Adapter::Resp(resp))
}

fn build_s3(fields: &Fields) -> Result<AdapterSpec, FieldError> {
    const ENDPOINT: &str = "an address that begins with http:// or https://";
    const BUCKET: &str = "the name of a bucket, 3 to 63 lower-case letters, digits, '-' and '.'";
    let endpoint = some_text(fields, "endpoint", ENDPOINT)?;
    let is_url = |url: &String| url.starts_with("http://") || url.starts_with("https://");
    if endpoint.as_ref().is_some_and(|url| !is_url(url)) {
        return Err(fields.refuse("endpoint", ENDPOINT));
    }
    let is_bucket =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let bucket = some_text(fields, "bucket", BUCKET)?
        .filter(|name| (3..=63).contains(&name.len()) && name.bytes().all(is_bucket))
        .ok_or_else(|| fields.refuse("bucket", BUCKET))?;
    let access_key_id = some_text(fields, "access_key_id", "the id of a key")?;
    let secret = "secret_access_key_file";
    let secret_access_key_file = path(fields, secret, "the absolute path of a file")?;
    match (&access_key_id, &secret_access_key_file) {
        (Some(_), None) => {
            return Err(fields.refuse(secret, "the file of the secret of 'access_key_id'"));
        }
        (None, Some(_)) => {
            return Err(fields.refuse("access_key_id", "the id of the key in that file"));
        }
        _ => {}
    }
    let s3 = S3Spec {
        endpoint,
        region: some_text(fields, "region", "the name of a region")?,
        bucket,
        access_key_id,
        secret_access_key_file,
        prefix: prefix(fields)?,
        capacity_bytes: capacity(fields)?,
    };
    common(fields, Adapter::S3(s3))
}

fn build_fault_inject(fields: &Fields) -> Result<AdapterSpec, FieldError> {
    let inner = fields
        .json("inner")
        .ok_or_else(|| fields.refuse("inner", "the spec of another adapter"))?;
    let inner = ADAPTERS.build(inner.clone()).map_err(|wrong| match wrong {
        WrongSpec::Field(error) => error,
        other => fields.refuse("inner", &format!("the spec of an adapter ({other})")),
    })?;
    let names = FaultKind::ALL.map(|(name, _)| name).join(", ");
    let kind = match fields.text("kind", &names)? {
        None => FaultKind::Error,
        Some(name) => FaultKind::ALL
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, kind)| kind)
            .ok_or_else(|| fields.refuse("kind", &names))?,
    };
    Ok(AdapterSpec {
        name: inner.name.clone(),
        is_required: inner.is_required,
        timeout: inner.timeout,
        adapter: Adapter::FaultInject(FaultSpec {
            rate: fields.number("rate", 0.0..=1.0)?.unwrap_or(1.0),
            seed: fields.whole("seed", 0..=u64::MAX)?.unwrap_or(0),
            kind,
            inner: Box::new(inner),
        }),
    })
}

fn some_text(
    fields: &Fields,
    field: &'static str,
    allowed: &str,
) -> Result<Option<String>, FieldError> {
    match fields.text(field, allowed)? {
        None => Ok(None),
        Some(text) if !text.is_empty() && !text.contains('\0') => Ok(Some(text.to_owned())),
        Some(_) => Err(fields.refuse(field, allowed)),
    }
}

fn path(
    fields: &Fields,
    field: &'static str,
    allowed: &str,
) -> Result<Option<PathBuf>, FieldError> {
    match some_text(fields, field, allowed)?.map(PathBuf::from) {
        Some(path) if !path.is_absolute() => Err(fields.refuse(field, allowed)),
        path => Ok(path),
    }
}

fn required_path(
    fields: &Fields,
    field: &'static str,
    allowed: &str,
) -> Result<PathBuf, FieldError> {
    path(fields, field, allowed)?.ok_or_else(|| fields.refuse(field, allowed))
}

/// `max_capacity_gb` in bytes.
fn capacity(fields: &Fields) -> Result<Option<u64>, FieldError> {
    let gb = fields.number("max_capacity_gb", 0.0001..=MAX_CAPACITY_GB)?;
    Ok(gb.map(|gb| (gb * GIB) as u64))
}

fn prefix(fields: &Fields) -> Result<String, FieldError> {
    let allowed =
        "a text of at most 256 letters, digits, '-', '_', '.', ':' and '/', not at its begin";
    let prefix = fields.text("prefix", allowed)?.unwrap_or(DEFAULT_PREFIX);
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    if prefix.len() > 256 || !prefix.bytes().all(is_part) || prefix.starts_with('/') {
        return Err(fields.refuse("prefix", allowed));
    }
    Ok(prefix.to_owned())
}

#[cfg(test)]
mod tests;

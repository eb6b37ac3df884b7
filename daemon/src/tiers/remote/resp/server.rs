//! A server that speaks RESP: where it listens, how it is reached, and how to log in there.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::tiers::spec::{RespPlace, RespSpec};

/// A connected socket, in the clear or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A server that connections may be made to.
pub(super) struct Server {
    place: RespPlace,
    /// If TLS is spoken there: what it takes, and the name that the certificate must have.
    tls: Option<(TlsConnector, ServerName<'static>)>,
    username: Option<String>,
    password: Option<String>,
}

impl Server {
    /// As the spec says; reads the certificates that this host trusts if TLS is spoken there.
    pub(super) fn of(spec: &RespSpec, password: Option<String>) -> io::Result<Server> {
        let tls = match &spec.place {
            RespPlace::Tcp { host, .. } if spec.is_tls => {
                Some((tls_connector()?, server_name(host)?))
            }
            RespPlace::Tcp { .. } | RespPlace::Unix(_) => None,
        };
        Ok(Server {
            place: spec.place.clone(),
            tls,
            username: spec.username.clone(),
            password,
        })
    }

    /// Connects.
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = match &self.place {
            RespPlace::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            RespPlace::Tcp { host, port } => TcpStream::connect((host.as_str(), *port)).await?,
        };
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
        })
    }

    /// The command that logs in, if there is anything to say.
    pub(super) fn login(&self) -> Option<Vec<&[u8]>> {
        let (username, password) = match (&self.username, &self.password) {
            (None, None) => return None,
            // A user who needs none may give any.
            (username, password) => (username, password.as_deref().unwrap_or_default()),
        };
        let words = [Some("AUTH"), username.as_deref(), Some(password)];
        Some(words.into_iter().flatten().map(str::as_bytes).collect())
    }
}

fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).map_err(|_| {
        io::Error::other(format!(
            "{host:?} can't stand in a certificate; give a name or an address as 'host'"
        ))
    })
}

/// Trusts whom this host trusts.
fn tls_connector() -> io::Result<TlsConnector> {
    const REMEDY: &str =
        "install ca-certificates or name a file that hostkvd may read by SSL_CERT_FILE";
    let found = rustls_native_certs::load_native_certs();
    // Also where there are others: who names a file does not want to go by whatever else is trusted here.
    if let Some(error) = found.errors.first() {
        return Err(io::Error::other(format!(
            "a certificate of this host can't be read: {error}; {REMEDY}"
        )));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(io::Error::other(format!(
            "this host trusts no certificate; {REMEDY}"
        )));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}

//! A real S3 server for tests: moto's, from a folder of Python's packages that `scripts/s3-server.sh` makes below target/.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::{end_with_parent, skip, wait_until};

/// The server with an empty bucket `kv-cache`; killed on drop. It takes any credentials.
pub struct S3Server {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl S3Server {
    /// Starts one. None, and `what` is said to be skipped, where it can't be had.
    pub fn start(what: &str) -> Option<S3Server> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/s3-server.sh");
        let output = Command::new(script).output().unwrap();
        let program = String::from_utf8(output.stdout).unwrap();
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
            skip(&format!("{what}: {why}"));
            return None;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut command = Command::new(program.trim());
        command
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env("MOTO_ALLOW_NONEXISTENT_REGION", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: prctl is async-signal-safe and touches nothing of this process.
        unsafe { command.pre_exec(end_with_parent) };
        let mut server = S3Server {
            child: command.spawn().unwrap(),
            port,
            folder: tempfile::tempdir().unwrap(),
        };
        wait_until("the S3 server listens", || {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "{command:?} ended: {ended:?}");
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        std::fs::write(server.secret(), "any\n").unwrap();
        let answer = server.request("PUT", "/kv-cache");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Some(server)
    }

    /// The file that holds the secret.
    pub fn secret(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    /// The spec of a tier in this bucket, with more fields, as `, "name": "disk"`.
    pub fn spec(&self, bucket: &str, more: &str) -> String {
        let (port, secret) = (self.port, self.secret());
        format!(
            r#"{{"type": "s3", "endpoint": "http://127.0.0.1:{port}", "region": "us-east-1", "bucket": "{bucket}", "access_key_id": "any", "secret_access_key_file": {secret:?}, "timeout_ms": 30000{more}}}"#
        )
    }

    /// One HTTP request without a body; the answer.
    fn request(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\nAuthorization: AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=any\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // It may have ended by itself; then both are refused, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

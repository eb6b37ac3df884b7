//! A real S3 server: moto's, from a folder of Python's packages that `scripts/s3-server.sh` makes below target/.

use super::server::{Server, free_port};
use super::*;
use hostkv_daemon::tiers::figures::FailureReason;
use std::path::PathBuf;
use std::process::Command;

const LEN: u64 = 20 << 20;

struct S3 {
    port: u16,
    secret: PathBuf,
    _folder: tempfile::TempDir,
    _server: Server,
}

impl S3 {
    fn start() -> Option<S3> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/s3-server.sh");
        let output = Command::new(script).output().unwrap();
        let program = String::from_utf8(output.stdout).unwrap();
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
            hostkv_tests::skip(&format!("a tier in S3: {why}"));
            return None;
        }
        let port = free_port();
        let mut command = Command::new(program.trim());
        command
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env("MOTO_ALLOW_NONEXISTENT_REGION", "true");
        let server = Server::start(&mut command, port);
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "any\n").unwrap();
        let s3 = S3 {
            port,
            secret,
            _folder: folder,
            _server: server,
        };
        s3.request("PUT", "/kv-cache");
        Some(s3)
    }

    /// One HTTP request without a body; the answer's head.
    fn request(&self, method: &str, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\nAuthorization: AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=any\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn spec(&self, bucket: &str, more: &str) -> String {
        let (port, secret) = (self.port, &self.secret);
        format!(
            r#"{{"type": "s3", "endpoint": "http://127.0.0.1:{port}", "region": "us-east-1", "bucket": "{bucket}", "access_key_id": "any", "secret_access_key_file": {secret:?}, "timeout_ms": 30000{more}}}"#
        )
    }
}

#[test]
fn what_was_stored_in_s3_is_loaded_bit_for_bit_after_a_restart() {
    let Some(s3) = S3::start() else {
        return;
    };
    round::round_trip(&s3.spec("kv-cache", ""));
    // In parts, which are more than one request.
    let mut pool = Pool::open(&[s3.spec("kv-cache", "")]);
    assert!(pool.store(999, range(0, LEN)).has(0));
    assert_eq!(pool.load(999, 0, range(LEN, LEN)), Some(0));
    // Another length is no part of what the bucket holds.
    assert_eq!(pool.load(999, 0, range(0, LEN - 1)), None);
    assert_eq!(
        pool.figures(0).loads.failures.get(FailureReason::Damaged),
        1
    );
}

#[test]
fn a_bucket_or_an_endpoint_that_is_not_there_ends_the_start_with_one_sentence() {
    let Some(s3) = S3::start() else {
        return;
    };
    let nobody = format!(
        r#"{{"type": "s3", "endpoint": "http://127.0.0.1:{}", "region": "us-east-1", "bucket": "kv-cache", "access_key_id": "any", "secret_access_key_file": {:?}, "timeout_ms": 3000}}"#,
        free_port(),
        s3.secret
    );
    for spec in [s3.spec("no-such-bucket", ""), nobody] {
        let sentence = Pool::try_open(&[spec]).err().unwrap();
        assert!(
            sentence.starts_with("--l2-adapter #1 (s3): bucket"),
            "{sentence}"
        );
        assert!(sentence.contains("that the bucket exists"), "{sentence}");
        assert!(!sentence.contains('\n'), "{sentence}");
    }
}

#[test]
fn two_daemons_share_a_bucket() {
    let Some(s3) = S3::start() else {
        return;
    };
    let mut first = Pool::open(&[s3.spec("kv-cache", "")]);
    let mut second = Pool::open(&[s3.spec("kv-cache", "")]);
    assert!(first.store(1, range(0, 100_000)).has(0));
    assert_eq!(second.load(1, 0, range(0, 100_000)), Some(0));
    assert!(second.store(1, range(0, 100_000)).has(0));
    assert_eq!(second.figures(0).known_keys_count, 1);
}

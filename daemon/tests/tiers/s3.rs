//! A real S3 server: moto's. It takes any credentials, so that those are refused by a server of the test's own.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::server::free_port;
use super::*;
use hostkv_daemon::tiers::figures::FailureReason;
use hostkv_tests::S3Server;

const LEN: u64 = 20 << 20;

fn start() -> Option<S3Server> {
    S3Server::start("a tier in S3")
}

#[test]
fn what_was_stored_in_s3_is_loaded_bit_for_bit_after_a_restart() {
    let Some(s3) = start() else {
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
    let Some(s3) = start() else {
        return;
    };
    let nobody = format!(
        r#"{{"type": "s3", "endpoint": "http://127.0.0.1:{}", "region": "us-east-1", "bucket": "kv-cache", "access_key_id": "any", "secret_access_key_file": {:?}, "timeout_ms": 3000}}"#,
        free_port(),
        s3.secret()
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

/// Answers every request as S3 does when it does not know the key; gives the port. Ends with the test's process.
fn refuses_every_key() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut head = Vec::new();
            let mut piece = [0; 4096];
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut piece) {
                    Ok(count) if count > 0 => head.extend(&piece[..count]),
                    _ => break,
                }
            }
            let body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InvalidAccessKeyId</Code>\
                        <Message>The AWS Access Key Id you provided does not exist in our records.</Message>\
                        <RequestId>1</RequestId></Error>";
            let answer = format!(
                "HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            // The answer to HEAD has no body.
            let body = if head.starts_with(b"HEAD") { "" } else { body };
            // Whoever has gone is not told.
            let _ = stream.write_all(format!("{answer}{body}").as_bytes());
        }
    });
    port
}

#[test]
fn credentials_that_a_stand_in_for_s3_refuses_end_the_start_with_one_sentence_without_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "hunter2\n").unwrap();
    let port = refuses_every_key();
    let spec = |more: &str| {
        format!(
            r#"{{"type": "s3", "endpoint": "http://127.0.0.1:{port}", "region": "us-east-1", "bucket": "kv-cache", "access_key_id": "nobody", "secret_access_key_file": {secret:?}, "timeout_ms": 5000{more}}}"#
        )
    };
    let sentence = Pool::try_open(&[spec("")]).err().unwrap();
    assert!(
        sentence.starts_with("--l2-adapter #1 (s3): bucket \"kv-cache\""),
        "{sentence}"
    );
    for part in ["PermissionDenied", "credentials", "\"required\": false"] {
        assert!(sentence.contains(part), "{sentence}");
    }
    assert!(
        !sentence.contains('\n') && !sentence.contains("hunter"),
        "{sentence}"
    );
    // Not required, it is there without being asked.
    let mut pool = Pool::open(&[spec(r#", "required": false"#)]);
    assert!(pool.store(1, range(0, 4096)).is_empty());
}

#[test]
fn two_daemons_share_a_bucket() {
    let Some(s3) = start() else {
        return;
    };
    let mut first = Pool::open(&[s3.spec("kv-cache", "")]);
    let mut second = Pool::open(&[s3.spec("kv-cache", "")]);
    assert!(first.store(1, range(0, 100_000)).has(0));
    assert_eq!(second.load(1, 0, range(0, 100_000)), Some(0));
    assert!(second.store(1, range(0, 100_000)).has(0));
    assert_eq!(second.figures(0).known_keys_count, 1);
}

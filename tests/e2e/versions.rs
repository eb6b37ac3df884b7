//! A client of another version, or one that speaks nonsense, is refused by name and harms nobody.

use hostkv::Status;
use hostkv_shm_protocol::version::{ABI_HASH, PROTOCOL_VERSION};
use hostkv_shm_protocol::wire::header::{FrameHeader, MessageType};
use hostkv_shm_protocol::wire::request::Request;
use hostkv_tests::{Daemon, RawClient};

use crate::assert_refused;
use hostkv_tests::keyspace_config;

#[test]
fn another_protocol_version_is_refused_with_both_versions() {
    let daemon = Daemon::start(&[]);
    let mut raw = RawClient::connect(daemon.socket()).unwrap();
    let mut hello = RawClient::hello(raw.challenge().unwrap());
    hello.prefix.protocol_version = 77;
    raw.send_hello(&hello);
    let refused = raw.opened().unwrap_err();
    assert_eq!(refused.status, Status::VersionMismatch);
    for part in ["version 77".to_owned(), format!(" {PROTOCOL_VERSION};")] {
        assert!(refused.text.contains(&part), "{}", refused.text);
    }
    assert!(raw.is_disconnected());
    daemon.finish();
}

#[test]
fn a_hello_of_the_future_is_refused_by_its_prefix_alone() {
    let daemon = Daemon::start(&[]);
    let mut raw = RawClient::connect(daemon.socket()).unwrap();
    let nonce = raw.challenge().unwrap();
    let mut frame = FrameHeader {
        message: MessageType::Hello,
        flags: 0,
        request_id: 1,
    }
    .start();
    frame.bytes(&nonce);
    frame.u32(78);
    frame.u64(5);
    frame.bytes(b"fields that this daemon does not know");
    raw.send_bytes(&frame.finish()).unwrap();
    let refused = raw.opened().unwrap_err();
    assert_eq!(refused.status, Status::VersionMismatch);
    assert!(refused.text.contains("version 78"), "{}", refused.text);
    daemon.finish();
}

#[test]
fn another_layout_of_the_segments_is_refused_with_both_fingerprints() {
    let daemon = Daemon::start(&[]);
    let mut raw = RawClient::connect(daemon.socket()).unwrap();
    let mut hello = RawClient::hello(raw.challenge().unwrap());
    hello.prefix.abi_hash = 0xdead_beef;
    raw.send_hello(&hello);
    let refused = raw.opened().unwrap_err();
    assert_eq!(refused.status, Status::VersionMismatch);
    for part in ["0x00000000deadbeef".to_owned(), format!("{ABI_HASH:#018x}")] {
        assert!(refused.text.contains(&part), "{}", refused.text);
    }
    daemon.finish();
}

#[test]
fn a_hello_without_the_nonce_is_refused() {
    let daemon = Daemon::start(&[]);
    let mut raw = RawClient::connect(daemon.socket()).unwrap();
    let mut nonce = raw.challenge().unwrap();
    nonce[0] ^= 1;
    raw.send_hello(&RawClient::hello(nonce));
    assert_eq!(raw.opened().unwrap_err().status, Status::Permission);
    daemon.finish();
}

#[test]
fn malformed_frames_end_the_connection_and_are_counted_and_others_go_on() {
    let daemon = Daemon::start(&[]);
    let other = daemon.session();
    let frames: [&[u8]; 4] = [b"no frame", &[0; 16], &[0xff; 64], &[1]];
    for frame in frames {
        let mut raw = daemon.raw_client();
        raw.send_bytes(frame).unwrap();
        assert!(raw.is_disconnected());
        other.ping().unwrap();
    }
    // A first frame that is no HELLO, and one that says less than it has.
    let mut raw = RawClient::connect(daemon.socket()).unwrap();
    raw.challenge().unwrap();
    raw.send(&Request::Ping);
    assert_eq!(raw.opened().unwrap_err().status, Status::InvalidArgument);
    let mut short = Request::Ping.encode(9, true);
    short.push(0);
    let mut raw = daemon.raw_client();
    raw.send_bytes(&short).unwrap();
    assert!(raw.is_disconnected());
    assert_eq!(daemon.scrape().sample("hostkv_rejected_frames_total"), 6.0);
    drop(other);
    daemon.finish();
}

#[test]
fn a_keyspace_with_another_layout_is_refused_with_both() {
    let daemon = Daemon::start(&[]);
    let (first, second) = (daemon.session(), daemon.session());
    first.open_keyspace(&keyspace_config("m")).unwrap();
    let mut other = keyspace_config("m");
    other.layout_fingerprint = 0x99;
    let message = assert_refused(second.open_keyspace(&other), Status::LayoutMismatch);
    assert!(
        message.contains("0x7") && message.contains("0x99"),
        "{message}"
    );
    let mut other = keyspace_config("m");
    other.tokens_per_key = 16;
    let message = assert_refused(second.open_keyspace(&other), Status::LayoutMismatch);
    assert!(
        message.contains("256") && message.contains("16"),
        "{message}"
    );
    drop((first, second));
    daemon.finish();
}

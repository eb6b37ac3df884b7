use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::ptr::NonNull;
use std::time::Duration;

use crc_fast::{CrcAlgorithm, checksum};

use super::*;
use crate::tiers::remote::waiting::Ending;
use crate::tiers::spec::{RespPlace, RespSpec};

/// What the server does when it has said all.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Waits,
    Closes,
}

/// A connection to a server that says `answers`, so many bytes at a time, once something comes. Its waits end early when the
/// second is dropped.
fn connection(answers: &[u8], at_a_time: usize, then: Then) -> (Connection, Ending) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = RespPlace::Tcp {
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr().unwrap().port(),
    };
    let spec = RespSpec {
        place,
        is_tls: false,
        username: None,
        password: None,
        prefix: String::new(),
        capacity_bytes: None,
    };
    let answers = answers.to_vec();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let _ = stream.read(&mut [0; 1]).unwrap();
        for piece in answers.chunks(at_a_time) {
            // Who has seen enough closes.
            if stream.write_all(piece).is_err() {
                return;
            }
        }
        if then == Then::Waits {
            // Until the other side closes it.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let server = Server::of(&spec, None).unwrap();
    let ending = Ending::new();
    let limit = ending.or_within(Duration::from_secs(30));
    (Connection::open(&server, limit).unwrap(), ending)
}

#[test]
fn answers_are_the_same_in_whatever_pieces_they_come() {
    for at_a_time in [1, 2, 7, 4096] {
        let answers = b"$3\r\nabc\r\n$-1\r\n$0\r\n\r\n-ERR no\r\n+OK\r\n:12\r\n$2\r\n\r\n\r\n";
        let (mut connection, _ending) = connection(answers, at_a_time, Then::Waits);
        for _ in 0..7 {
            connection.command(&[b"GET", b"x"]);
        }
        assert_eq!(connection.value().unwrap(), Some(b"abc".to_vec()));
        assert_eq!(connection.value().unwrap(), None);
        assert_eq!(connection.value().unwrap(), Some(Vec::new()));
        let Err(Trouble::Refused(sentence)) = connection.value() else {
            panic!("an answer that says no is one");
        };
        assert_eq!(sentence, "ERR no");
        connection.settle(2).unwrap();
        assert_eq!(connection.count().unwrap(), 12);
        assert!(!connection.is_quiet());
        assert_eq!(connection.value().unwrap(), Some(b"\r\n".to_vec()));
        assert!(connection.is_quiet());
    }
}

#[test]
fn an_answer_that_is_none_ends_the_connection_with_one_short_sentence() {
    let endless = vec![b'+'; 2 * MOST_LINE_BYTES as usize];
    let answers: [&[u8]; 12] = [
        b":\r\n",
        b":-1\r\n",
        b"what\r\n",
        b"\r\n",
        b"+OK\n",
        b"$x\r\n",
        b"$-2\r\n",
        b"$99999999999999999999\r\n",
        b"*1\r\n$1\r\na\r\n",
        b"$3\r\nabcd\r\n",
        b"\x1b[2J\x00\xff\r\n",
        &endless,
    ];
    for answer in answers {
        let (mut connection, _ending) = connection(answer, 1 << 20, Then::Waits);
        connection.command(&[b"GET", b"x"]);
        let Err(Trouble::Lost(sentence)) = connection.value() else {
            panic!("{:?} was taken for an answer", answer.escape_ascii());
        };
        assert!(sentence.len() < 400, "{sentence}");
        assert!(!sentence.contains(char::is_control), "{sentence:?}");
        assert!(!connection.is_quiet());
    }
}

#[test]
fn a_sentence_of_the_server_is_told_in_one_line_and_not_without_end() {
    let answer = format!("-ERR no 'get' {}\r\n", "x\x1b\r\u{85}".repeat(1000));
    let (mut connection, _ending) = connection(answer.as_bytes(), 1 << 20, Then::Waits);
    connection.command(&[b"GET", b"x"]);
    let Err(Trouble::Refused(sentence)) = connection.value() else {
        panic!("it says no");
    };
    assert!(sentence.starts_with("ERR no 'get' x"), "{sentence}");
    assert_eq!(sentence.chars().count(), MOST_TOLD_CHARS);
    assert!(!sentence.contains(char::is_control), "{sentence:?}");
    assert!(connection.is_quiet());
}

/// Each piece of it is there when it is asked for: nothing of it has to be waited for.
#[test]
fn a_value_without_end_is_given_up_at_the_deadline() {
    let mut answers = b"$18446744073709551615\r\n".to_vec();
    answers.resize(64 << 20, 0);
    let (mut connection, ending) = connection(&answers, 1 << 20, Then::Waits);
    connection.set_limit(ending.or_within(Duration::from_millis(100)));
    connection.command(&[b"GET", b"x"]);
    let Ok(Answer::Value(len_bytes)) = connection.answer() else {
        panic!("a value is one");
    };
    let mut taken = 0;
    let end = connection.body(len_bytes, |bytes| {
        taken += bytes.len();
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    });
    assert!(matches!(end, Err(Trouble::Cut(Cut::TooLate))), "{end:?}");
    assert!(taken < answers.len() / 2, "{taken}");
}

#[test]
fn a_connection_with_an_answer_that_nobody_asked_for_is_not_used_again() {
    let (mut connection, _ending) = connection(b"+OK\r\n+OK\r\n", 1 << 20, Then::Waits);
    connection.command(&[b"SET", b"x", b"y"]);
    connection.settle(0).unwrap();
    assert!(!connection.is_quiet());
}

#[test]
fn a_connection_that_ends_within_an_answer_is_closed() {
    let answer = b"$3\r\nabc\r\n";
    for len in 0..answer.len() {
        let (mut connection, _ending) = connection(&answer[..len], 1 << 20, Then::Closes);
        connection.command(&[b"GET", b"x"]);
        let got = connection.value();
        assert!(matches!(got, Err(Trouble::Closed(_))), "{len}: {got:?}");
        assert!(!connection.is_quiet());
    }
}

/// As Redis does with a value that is longer than its `proto-max-bulk-len`, or with a client too many.
#[test]
fn what_a_server_says_before_it_closes_the_connection_is_the_trouble() {
    let (mut connection, _ending) = connection(
        b"-ERR Protocol error: invalid bulk length\r\n",
        1 << 20,
        Then::Closes,
    );
    let words = vec![0_u64; 4 << 20];
    let base = NonNull::new(words.as_ptr().cast_mut().cast()).unwrap();
    let len_bytes = words.len() as u64 * 8;
    // SAFETY: `words` outlives the connection's use of it, which only reads.
    let payload = unsafe { PayloadBytes::new(base, len_bytes) };
    let source = PayloadRange {
        offset_bytes: 0,
        len_bytes,
    };
    let Err(Trouble::Lost(sentence)) =
        connection.set("x", &payload, source, Duration::from_secs(1), None)
    else {
        panic!("a value went out that nobody takes");
    };
    assert_eq!(sentence, "ERR Protocol error: invalid bulk length");
}

#[test]
fn a_value_that_is_longer_than_its_destination_changes_nothing_behind_it() {
    // More than the buffer holds, so that it comes in several pieces.
    let len_bytes = CHUNK_BYTES + 24;
    let letters: Vec<u8> = (b'a'..=b'z').cycle().take(len_bytes as usize).collect();
    let answers = [
        format!("${len_bytes}\r\n").as_bytes(),
        &letters,
        b"\r\n+OK\r\n",
    ]
    .concat();
    let (mut connection, _ending) = connection(&answers, 1 << 20, Then::Waits);
    let mut bytes = [0_u8; 32];
    let base = NonNull::new(bytes.as_mut_ptr()).unwrap();
    // SAFETY: `bytes` outlives the connection's use of it, and is read only after it.
    let payload = unsafe { PayloadBytes::new(base, bytes.len() as u64) };
    let destination = PayloadRange {
        offset_bytes: 8,
        len_bytes: 8,
    };
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    connection.command(&[b"GET", b"x"]);
    connection.command(&[b"GET", b"y"]);
    let taken = connection.take(&payload, destination, &mut digest).unwrap();
    assert_eq!(taken, Some(len_bytes));
    connection.settle(0).unwrap();
    assert_eq!(&bytes[..24], b"\0\0\0\0\0\0\0\0abcdefgh\0\0\0\0\0\0\0\0");
    assert_eq!(
        digest.finalize(),
        checksum(CrcAlgorithm::Crc64Nvme, b"abcdefgh")
    );
}

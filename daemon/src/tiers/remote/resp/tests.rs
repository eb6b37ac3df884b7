use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::ptr::NonNull;
use std::thread::JoinHandle;

use super::*;
use crate::tiers::figures::FailureReason;

/// A server that takes one connection after the other, each for as many commands as it has answers, of one line a word.
fn server(connections: &'static [&'static [&'static str]]) -> RespSpec {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for answers in connections {
            let (stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut answers = answers.iter();
            // One command is a line with the number of its words, and two lines a word.
            while let Some(Ok(line)) = lines.next()
                && let Some(answer) = answers.next()
            {
                let words: usize = line[1..].parse().unwrap();
                lines.by_ref().take(2 * words).for_each(drop);
                (&stream).write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    spec(port)
}

fn spec(port: u16) -> RespSpec {
    RespSpec {
        place: RespPlace::Tcp {
            host: "127.0.0.1".to_owned(),
            port,
        },
        is_tls: false,
        username: None,
        password: None,
        prefix: String::new(),
        capacity_bytes: None,
    }
}

fn open(spec: &RespSpec) -> Resp {
    // SAFETY: nothing of it is read or written.
    let payload = unsafe { PayloadBytes::new(NonNull::dangling(), 0) };
    Resp::open(spec, Duration::from_secs(30), payload).unwrap()
}

const OPENING: [&str; 2] = ["+OK\r\n", "$12\r\nhostkv-probe\r\n"];

#[test]
fn what_was_asked_over_a_connection_that_was_just_closed_is_asked_once_more() {
    let resp = open(&server(&[&OPENING, &["$-1\r\n", "$-1\r\n"]]));
    // The first connection takes the command and is closed, the second answers.
    assert_eq!(resp.probe(), Ok(()));
    assert_eq!(resp.probe(), Ok(()));
}

#[test]
fn a_server_that_closes_every_connection_is_a_fault() {
    let resp = open(&server(&[&OPENING, &[], &[], &["$-1\r\n"]]));
    for _ in 0..2 {
        let fault = resp.probe().unwrap_err();
        assert!(fault.sentence.contains("closed"), "{fault:?}");
    }
    assert_eq!(resp.probe(), Ok(()));
}

#[test]
fn an_answer_that_is_no_resp_is_a_fault_in_one_line_and_the_connection_is_not_used_again() {
    let resp = open(&server(&[
        &[OPENING[0], OPENING[1], "what\r\n"],
        &["$-1\r\n"],
    ]));
    let fault = resp.probe().unwrap_err();
    assert!(!fault.sentence.contains('\n'), "{fault:?}");
    assert_eq!(resp.probe(), Ok(()));
}

/// A seal must not be there before its pieces.
#[test]
fn commands_go_out_in_their_order() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = spec(listener.local_addr().unwrap().port());
    let commands = 3 * LOOKUP_WINDOW;
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut names = Vec::new();
        while names.len() < commands {
            // Two words, of which the second is the last line.
            names.push(lines.by_ref().take(5).last().unwrap().unwrap());
            (&stream).write_all(b"$-1\r\n").unwrap();
        }
        names
    });
    let place = Server::of(&spec, None).unwrap();
    let names: Vec<String> = (0..commands).map(|number| number.to_string()).collect();
    let ending = Ending::new();
    let limit = ending.or_within(Duration::from_secs(30));
    let mut connection = Connection::open(&place, limit).unwrap();
    for name in &names {
        connection.command(&[b"GET", name.as_bytes()]);
    }
    connection.settle(0).unwrap();
    assert_eq!(server.join().unwrap(), names);
}

/// The words of the next command, if there is one.
fn words(stream: &mut impl BufRead) -> Option<Vec<Vec<u8>>> {
    let mut count = || -> Option<usize> {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        line.trim_end().get(1..)?.parse().ok()
    };
    let mut words = Vec::new();
    for _ in 0..count()? {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let mut word = vec![0; line[1..].trim_end().parse::<usize>().unwrap() + 2];
        stream.read_exact(&mut word).unwrap();
        word.truncate(word.len() - 2);
        words.push(word);
    }
    Some(words)
}

/// A server of one connection that answers a command by its words as `answer` says, and closes it where that says nothing; all
/// commands that came, in their order.
fn answering(
    answer: impl Fn(&[Vec<u8>]) -> Option<&'static str> + Send + 'static,
) -> (RespSpec, JoinHandle<Vec<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = spec(listener.local_addr().unwrap().port());
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut commands = BufReader::new(stream.try_clone().unwrap());
        let mut came = Vec::new();
        while let Some(words) = words(&mut commands)
            && let Some(answer) = answer(&words)
        {
            (&stream).write_all(answer.as_bytes()).unwrap();
            came.push(words);
        }
        came
    });
    (spec, server)
}

/// Stores an object of two pieces; its key and bytes, and what came of it.
fn put(spec: &RespSpec) -> (TierKey, Vec<u8>, Result<Put, Fault>) {
    let len_bytes = PIECE_BYTES + 24;
    let mut payload: Vec<u64> = (0..len_bytes / 8).collect();
    let bytes: Vec<u8> = payload.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let base = NonNull::new(payload.as_mut_ptr().cast()).unwrap();
    // SAFETY: `payload` outlives the tier.
    let payload_bytes = unsafe { PayloadBytes::new(base, len_bytes) };
    let resp = Resp::open(spec, Duration::from_secs(30), payload_bytes).unwrap();
    let key = TierKey::from_bytes([7; 32]);
    let object = StoreObject {
        key,
        source: PayloadRange {
            offset_bytes: 0,
            len_bytes,
        },
        sum: None,
    };
    let put = resp.put(&object);
    (key, bytes, put)
}

/// The words of a command but its value.
fn shape(words: &[Vec<u8>]) -> String {
    let is_set = words[0] == b"SET";
    let kept = words
        .iter()
        .enumerate()
        .filter(|(at, _)| !(is_set && *at == 2));
    let texts: Vec<&str> = kept
        .map(|(_, word)| str::from_utf8(word).unwrap())
        .collect();
    texts.join(" ")
}

/// Who finds a seal takes its pieces for whole; what is left of a store that was cut off is to go by itself.
#[test]
fn an_object_goes_out_bit_for_bit_to_expire_its_seal_behind_its_pieces_until_all_of_it_is_there() {
    let (spec, server) = answering(|words| {
        Some(match &words[0][..] {
            b"SET" => "+OK\r\n",
            b"EXISTS" => ":3\r\n",
            b"PERSIST" => ":1\r\n",
            _ => "$-1\r\n",
        })
    });
    let (key, bytes, put) = put(&spec);
    assert_eq!(put, Ok(Put::Stored));
    let came = server.join().unwrap();
    let path = key.to_string();
    let (first, second) = (piece_path(&path, 0), piece_path(&path, 1));
    let shapes: Vec<String> = came.iter().map(|words| shape(words)).collect();
    assert_eq!(
        shapes,
        [
            format!("SET {PROBE}"),
            format!("GET {PROBE}"),
            format!("GET {path}"),
            format!("SET {first} EX 90"),
            format!("SET {second} EX 90"),
            format!("SET {path} EX 90"),
            format!("PERSIST {first}"),
            format!("PERSIST {second}"),
            format!("PERSIST {path}"),
            format!("EXISTS {first} {second} {path}"),
        ]
    );
    assert!(
        [&came[3][2][..], &came[4][2]].concat() == bytes,
        "other bytes"
    );
    let seal = Seal::of(&came[5][2], &key, bytes.len() as u64).unwrap();
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&bytes);
    assert_eq!(seal.sum, Sum::of_checksum(digest.finalize()));
}

/// As Redis does that evicts what expires.
#[test]
fn an_object_of_which_a_part_was_evicted_on_the_way_is_removed_and_the_server_full() {
    let (spec, server) = answering(|words| {
        Some(match &words[0][..] {
            b"SET" => "+OK\r\n",
            b"EXISTS" => ":2\r\n",
            b"PERSIST" | b"DEL" => ":1\r\n",
            _ => "$-1\r\n",
        })
    });
    let (_, _, put) = put(&spec);
    assert_eq!(put.unwrap_err().reason, FailureReason::Full);
    let came = server.join().unwrap();
    assert_eq!(came.iter().filter(|words| words[0] == b"DEL").count(), 3);
}

#[test]
fn why_an_object_was_refused_is_told_also_when_what_was_stored_of_it_can_not_be_removed() {
    let (spec, server) = answering(|words| match &words[0][..] {
        b"SET" if words[1].ends_with(b".1") => Some("-OOM command not allowed\r\n"),
        b"SET" => Some("+OK\r\n"),
        b"DEL" => None,
        _ => Some("$-1\r\n"),
    });
    let (_, _, put) = put(&spec);
    assert_eq!(put, Err(Fault::full("OOM command not allowed")));
    assert!(
        server
            .join()
            .unwrap()
            .iter()
            .all(|words| words[0] != b"PERSIST")
    );
}

/// As Redis does where `AUTH` is another command.
#[test]
fn a_server_that_gives_the_words_of_a_login_back_lets_nobody_see_the_password() {
    let (mut spec, _server) = answering(|_| Some("-ERR unknown command, args: 'hunter2'\r\n"));
    spec.password = Some(Password::Text("hunter2".to_owned()));
    // SAFETY: nothing of it is read or written.
    let payload = unsafe { PayloadBytes::new(NonNull::dangling(), 0) };
    let opened = Resp::open(&spec, Duration::from_secs(30), payload);
    let sentence = opened.err().unwrap().sentence;
    assert!(sentence.contains("refuses the login (ERR)"), "{sentence}");
    assert!(!sentence.contains("hunter2"), "{sentence}");
}

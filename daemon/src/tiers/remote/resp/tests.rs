use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::ptr::NonNull;

use super::*;

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

/// Who finds a seal takes its pieces for whole; pieces whose store was cut off are to go by themselves.
#[test]
fn the_pieces_of_an_object_go_out_bit_for_bit_to_expire_until_its_seal_goes_out_behind_them() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = spec(listener.local_addr().unwrap().port());
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut commands = BufReader::new(stream.try_clone().unwrap());
        let mut came = Vec::new();
        while let Some(words) = words(&mut commands) {
            let is_set = words[0] == b"SET";
            (&stream)
                .write_all(if is_set { b"+OK\r\n" } else { b"$-1\r\n" })
                .unwrap();
            if words[0] != b"GET" {
                came.push(words);
            }
        }
        came
    });
    let len_bytes = PIECE_BYTES + 24;
    let mut payload: Vec<u64> = (0..len_bytes / 8).collect();
    let bytes: Vec<u8> = payload.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let base = NonNull::new(payload.as_mut_ptr().cast()).unwrap();
    // SAFETY: `payload` outlives the tier.
    let payload_bytes = unsafe { PayloadBytes::new(base, len_bytes) };
    let resp = Resp::open(&spec, Duration::from_secs(30), payload_bytes).unwrap();
    let key = TierKey::from_bytes([7; 32]);
    let object = StoreObject {
        key,
        source: PayloadRange {
            offset_bytes: 0,
            len_bytes,
        },
        sum: None,
    };
    assert_eq!(resp.put(&object), Ok(Put::Stored));
    drop(resp);
    let came = server.join().unwrap();
    let path = key.to_string();
    let (first, second) = (piece_path(&path, 0), piece_path(&path, 1));
    // With a value: its name, and what follows it; without one, its words.
    let text = |word: &Vec<u8>| String::from_utf8(word.clone()).unwrap();
    let shapes: Vec<String> = came
        .iter()
        .map(|words| {
            let is_value = |at: &usize| *at != 2;
            let kept = (0..words.len()).filter(is_value).map(|at| &words[at]);
            kept.map(text).collect::<Vec<_>>().join(" ")
        })
        .collect();
    assert_eq!(
        shapes,
        [
            format!("SET {PROBE}"),
            format!("SET {first} EX 90"),
            format!("SET {second} EX 90"),
            format!("PERSIST {first}"),
            format!("PERSIST {second}"),
            format!("SET {path}"),
        ]
    );
    assert!(
        [&came[1][2][..], &came[2][2]].concat() == bytes,
        "other bytes"
    );
    let seal = Seal::of(&came[5][2], &key, len_bytes).unwrap();
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&bytes);
    assert_eq!(seal.sum, Sum::of_checksum(digest.finalize()));
}

#[test]
fn the_parts_of_an_object_are_all_of_its_pieces_in_their_order() {
    for len_bytes in [1, PART_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES - 1] {
        let mut end = 0;
        for part in parts(len_bytes) {
            assert_eq!(part.number * PIECE_BYTES + part.begin, end);
            assert!(part.begin + part.len_bytes <= PIECE_BYTES);
            assert!((1..=PART_BYTES).contains(&part.len_bytes));
            end += part.len_bytes;
        }
        assert_eq!(end, len_bytes);
    }
}

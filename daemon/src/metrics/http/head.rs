//! The form of a request's head, checked before anything else sees the request.
//!
//! Pure functions on bytes, called by the acceptor thread each time bytes arrive. What passes is a
//! method and a path of plain ASCII; the client's headers are checked for form and go no further.

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Not the whole head yet, and nothing wrong so far.
    Incomplete,
    /// A request to answer. Bytes behind the head (a body, a second request) are never looked at.
    Complete(Request),
    /// Answer this and close.
    Refused(Refusal),
}

/// A checked request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// As the client wrote it: upper-case ASCII letters.
    pub(super) method: String,
    /// Begins with a slash, printable ASCII without blanks.
    pub(super) target: String,
}

/// An answer that needs neither tiny_http nor figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Code and reason, as on the status line.
    pub(super) status: &'static str,
    /// One sentence for the person behind the client.
    pub(super) sentence: &'static str,
}

impl Refusal {
    pub(super) const TOO_LARGE: Self = Self {
        status: "431 Request Header Fields Too Large",
        sentence: "The head of the request is larger than 8 KiB.",
    };
    pub(super) const TOO_SLOW: Self = Self {
        status: "408 Request Timeout",
        sentence: "The head of the request did not arrive within 5 seconds.",
    };
    pub(super) const NOT_HTTP: Self = Self {
        status: "400 Bad Request",
        sentence: "This is not an HTTP/1.1 request; the endpoint speaks plain HTTP, no TLS.",
    };
    pub(super) const BAD_HEADER: Self = Self {
        status: "400 Bad Request",
        sentence: "A header line of the request is malformed.",
    };
    pub(super) const VERSION: Self = Self {
        status: "505 HTTP Version Not Supported",
        sentence: "The endpoint speaks HTTP/1.0 and HTTP/1.1.",
    };
    pub(super) const NO_TURN: Self = Self {
        status: "503 Service Unavailable",
        sentence: "Too many scrapes are waiting; the turn of this one did not come in time.",
    };
    pub(super) const INNER: Self = Self {
        status: "503 Service Unavailable",
        sentence: "The metrics page failed and is being restarted; try again in a second.",
    };

    /// The whole answer, to a HEAD request without the body.
    pub(super) fn answer(self, is_head: bool) -> Vec<u8> {
        let Self { status, sentence } = self;
        let length = sentence.len() + 1;
        let mut answer = format!(
            "HTTP/1.1 {status}\r\nServer: hostkvd\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        if !is_head {
            answer.push_str(sentence);
            answer.push('\n');
        }
        answer.into_bytes()
    }
}

/// The longest method that anyone has registered has 17 letters.
const MAX_METHOD_BYTES: usize = 20;

/// Looks at all bytes that came in so far; at most `head_limit_bytes` belong to the head.
pub(super) fn parse(bytes: &[u8], head_limit_bytes: usize) -> Head {
    let within = &bytes[..bytes.len().min(head_limit_bytes)];
    if !begins_like_a_method(within) {
        return Head::Refused(Refusal::NOT_HTTP);
    }
    let mut lines = within.split_inclusive(|byte| *byte == b'\n');
    let request = match lines.next().and_then(whole_line).map(request_line) {
        Some(Ok(request)) => request,
        Some(Err(refusal)) => return Head::Refused(refusal),
        None => return unfinished(bytes.len(), head_limit_bytes),
    };
    for line in lines {
        match whole_line(line) {
            Some([]) => return Head::Complete(request),
            Some(line) if is_header(line) => {}
            Some(_) => return Head::Refused(Refusal::BAD_HEADER),
            None => break,
        }
    }
    unfinished(bytes.len(), head_limit_bytes)
}

fn unfinished(len_bytes: usize, head_limit_bytes: usize) -> Head {
    if len_bytes >= head_limit_bytes {
        Head::Refused(Refusal::TOO_LARGE)
    } else {
        Head::Incomplete
    }
}

/// Refuses what can never become a request at its first bytes, such as a TLS greeting.
fn begins_like_a_method(bytes: &[u8]) -> bool {
    let letters = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase())
        .count();
    letters <= MAX_METHOD_BYTES
        && match bytes.get(letters) {
            None => true,
            Some(byte) => letters > 0 && *byte == b' ',
        }
}

/// The line without its end, CR LF or LF; `None` without an end.
fn whole_line(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

fn request_line(line: &[u8]) -> Result<Request, Refusal> {
    let line = std::str::from_utf8(line).map_err(|_| Refusal::NOT_HTTP)?;
    let mut parts = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::NOT_HTTP);
    };
    match version {
        "HTTP/1.0" | "HTTP/1.1" => {}
        other if other.starts_with("HTTP/") => return Err(Refusal::VERSION),
        _ => return Err(Refusal::NOT_HTTP),
    }
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::NOT_HTTP);
    }
    Ok(Request {
        method: method.to_owned(),
        target: target.to_owned(),
    })
}

fn is_header(line: &[u8]) -> bool {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else {
        return false;
    };
    let (name, value) = line.split_at(colon);
    !name.is_empty()
        && name.iter().all(u8::is_ascii_graphic)
        && value
            .iter()
            .all(|byte| *byte == b'\t' || !byte.is_ascii_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 8 << 10;

    fn get(target: &str) -> Head {
        Head::Complete(Request {
            method: "GET".to_owned(),
            target: target.to_owned(),
        })
    }

    #[test]
    fn every_proper_prefix_of_a_head_is_incomplete() {
        let head = b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
        for len in 0..head.len() {
            assert_eq!(parse(&head[..len], LIMIT), Head::Incomplete, "{len}");
        }
        assert_eq!(parse(head, LIMIT), get("/metrics"));
        assert_eq!(parse(b"GET / HTTP/1.0\n\n", LIMIT), get("/"));
        assert_eq!(parse(b"GET / HTTP/1.1\r\n\r\nbody\x00", LIMIT), get("/"));
    }

    #[test]
    fn a_head_may_fill_its_limit_and_no_more() {
        let mut head = b"GET / HTTP/1.1\r\nA: ".to_vec();
        head.resize(LIMIT - 4, b'a');
        head.extend_from_slice(b"\r\n\r\n");
        assert_eq!(parse(&head, LIMIT), get("/"));
        head.insert(20, b'a');
        assert_eq!(parse(&head, LIMIT), Head::Refused(Refusal::TOO_LARGE));
    }

    #[test]
    fn what_is_no_request_is_refused_as_soon_as_that_is_certain() {
        for (bytes, refusal) in [
            (&b"\x16\x03\x01"[..], Refusal::NOT_HTTP),
            (b"get / HTTP/1.1", Refusal::NOT_HTTP),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", Refusal::NOT_HTTP),
            (b"GET /\r\n", Refusal::NOT_HTTP),
            (b"GET / extra HTTP/1.1\r\n", Refusal::NOT_HTTP),
            (b"GET http://a/ HTTP/1.1\r\n", Refusal::NOT_HTTP),
            (b"GET /\xff HTTP/1.1\r\n", Refusal::NOT_HTTP),
            (b"GET /\x00 HTTP/1.1\r\n", Refusal::NOT_HTTP),
            (b"PRI * HTTP/2.0\r\n\r\n", Refusal::VERSION),
            (b"GET / HTTP/1.1\r\nno colon\r\n", Refusal::BAD_HEADER),
            (b"GET / HTTP/1.1\r\n folded: a\r\n", Refusal::BAD_HEADER),
            (b"GET / HTTP/1.1\r\na: \x00\r\n", Refusal::BAD_HEADER),
            (b"GET / HTTP/1.1\r\na: b\rc\r\n", Refusal::BAD_HEADER),
        ] {
            assert_eq!(
                parse(bytes, LIMIT),
                Head::Refused(refusal),
                "{}",
                bytes.escape_ascii()
            );
        }
    }
}

//! The frame decoders of both sides: what the daemon reads from clients, and clients from the daemon.
//!
//! Any bytes are either refused or mean something that encodes to a frame of the same meaning. A request, which comes
//! from whoever may connect, even encodes to the very same bytes: there is one way to say a thing.

use hostkv_shm_protocol::wire::header::{FrameHeader, MessageType, flags};
use hostkv_shm_protocol::wire::hello::{Challenge, Hello, HelloPrefix, HelloReply};
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::Request;

/// Length of the frame's length field in bytes.
const LENGTH_BYTES: usize = 4;

/// Decodes the bytes as they are, and as a frame that says its true length.
pub fn run(data: &[u8]) {
    decode(data);
    if data.len() >= LENGTH_BYTES {
        let mut frame = data.to_vec();
        frame[..LENGTH_BYTES].copy_from_slice(&(data.len() as u32).to_le_bytes());
        decode(&frame);
    }
}

fn decode(frame: &[u8]) {
    let Ok((header, body)) = FrameHeader::decode(frame) else {
        return;
    };
    if let Ok(request) = Request::decode(&header, body.clone()) {
        let wants_reply = header.flags & flags::NO_REPLY == 0;
        assert_eq!(
            request.encode(header.request_id, wants_reply),
            frame,
            "{request:?} was sent in another way"
        );
    }
    if let Ok(reply) = Reply::decode(&header, body.clone()) {
        let again = reply.encode(header.request_id);
        let (header, body) = FrameHeader::decode(&again).unwrap();
        assert_eq!(Reply::decode(&header, body).as_ref(), Ok(&reply));
    }
    match header.message {
        MessageType::Challenge => {
            if let Ok(challenge) = Challenge::decode(body) {
                let again = challenge.encode();
                let (_, body) = FrameHeader::decode(&again).unwrap();
                assert_eq!(Challenge::decode(body), Ok(challenge));
            }
        }
        MessageType::Hello => {
            if let Ok(reply) = HelloReply::decode(body.clone()) {
                let again = reply.encode(header.request_id);
                let (_, body) = FrameHeader::decode(&again).unwrap();
                assert_eq!(HelloReply::decode(body).as_ref(), Ok(&reply));
            }
            let mut rest = body;
            if let Ok(prefix) = HelloPrefix::decode(&mut rest)
                && let Ok(hello) = Hello::decode_rest(prefix, rest)
            {
                let again = hello.encode(header.request_id);
                let (_, mut body) = FrameHeader::decode(&again).unwrap();
                let prefix = HelloPrefix::decode(&mut body).unwrap();
                assert_eq!(Hello::decode_rest(prefix, body).as_ref(), Ok(&hello));
            }
        }
        _ => {}
    }
}

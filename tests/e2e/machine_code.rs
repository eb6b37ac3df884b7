//! Streaming stores are fenced before the commit that shows them: read out of the library's machine code, because no test
//! that runs can see a fence that is missing.
#![cfg(target_arch = "x86_64")]

use std::collections::BTreeMap;
use std::process::Command;

use hostkv_tests::{Worker, skip};

/// The instructions of each function of the library, by demangled name.
fn functions() -> Option<BTreeMap<String, Vec<String>>> {
    let profile = Worker::program().parent().unwrap().to_owned();
    // Where cargo leaves it for a test, or for a build of its own.
    let places = ["deps/libhostkv.so", "libhostkv.so"];
    let library = places
        .iter()
        .map(|place| profile.join(place))
        .find(|path| path.exists())
        .expect("the library is built with these tests");
    let output = Command::new("objdump")
        .args(["--disassemble", "--no-show-raw-insn", "--demangle"])
        .arg(&library)
        .output();
    let Ok(output) = output else {
        skip("the look at the library's machine code: there is no objdump");
        return None;
    };
    assert!(output.status.success());
    let mut functions = BTreeMap::<String, Vec<String>>::new();
    let mut name = String::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(head) = line.strip_suffix(">:") {
            name = head.split_once('<').unwrap().1.to_owned();
        } else if let Some((_, instruction)) = line.split_once(":\t") {
            let entry = functions.entry(name.clone()).or_default();
            entry.push(instruction.trim().to_owned());
        }
    }
    Some(functions)
}

/// Whether this instruction is the fence, or calls the protocol's function that is.
fn is_fence(functions: &BTreeMap<String, Vec<String>>, instruction: &str) -> bool {
    if instruction.starts_with("sfence") {
        return true;
    }
    let called = instruction.starts_with("call") && instruction.contains("payload_store_fence");
    called
        && functions
            .iter()
            .filter(|(name, _)| name.contains("payload_store_fence"))
            .any(|(_, body)| body.iter().any(|one| one.starts_with("sfence")))
}

#[test]
fn every_function_that_streams_ends_with_the_fence() {
    let Some(functions) = functions() else {
        return;
    };
    let is_streaming = |one: &String| one.starts_with("vmovnt") || one.starts_with("movnt");
    let mut seen = Vec::new();
    for (name, body) in &functions {
        let Some(last) = body.iter().rposition(is_streaming) else {
            continue;
        };
        assert!(
            body[last..].iter().any(|one| is_fence(&functions, one)),
            "{name} streams and has no sfence behind its last streaming store"
        );
        seen.push(name.as_str());
    }
    for form in ["copy_avx2", "copy_avx512"] {
        assert!(seen.iter().any(|name| name.contains(form)), "{seen:?}");
    }
}

#[test]
fn a_commit_fences_before_it_sends() {
    let Some(functions) = functions() else {
        return;
    };
    // By the socket, with the next reserve, into the commit ring, and of granted extents by the socket.
    for sender in [
        "send_commit",
        "send_and_make",
        "push_commit",
        "send_granted",
    ] {
        let (_, body) = functions
            .iter()
            .find(|(name, _)| name.contains("Reservation") && name.contains(sender))
            .unwrap_or_else(|| panic!("there is no function {sender}"));
        let fence = body.iter().position(|one| is_fence(&functions, one));
        let first_call = body
            .iter()
            .position(|one| one.starts_with("call") && !is_fence(&functions, one));
        let fence = fence.unwrap_or_else(|| panic!("{sender} has no fence"));
        // Nothing is called before it, so nothing is sent.
        let first_call = first_call.expect("a commit calls what sends it");
        assert!(fence < first_call, "{sender}: {body:#?}");
    }
}

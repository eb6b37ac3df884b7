use super::types::*;
use super::{guard, handle, library};
use crate::error::Error;
use hostkv_shm_protocol::status::Status;
use std::ffi::{CStr, c_char};
use std::mem::{offset_of, size_of};
use std::ptr;

fn last_error() -> String {
    // SAFETY: the library's own text, copied before the next call.
    unsafe { CStr::from_ptr(library::hostkv_last_error()) }
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn every_status_has_the_same_number_and_name_in_c() {
    for status in Status::ALL {
        assert_eq!(hostkv_status::from(status) as i32, status.number());
        assert_eq!(
            library::status_name(status.number()).to_str().unwrap(),
            status.name()
        );
    }
    for number in [-6, -18, 1, i32::MIN, i32::MAX] {
        assert_eq!(library::status_name(number), c"UNKNOWN");
    }
}

#[test]
fn a_panic_becomes_internal_and_says_where_and_leaves_the_thread_usable() {
    extern "C" fn forced() -> hostkv_status {
        guard::status(|| panic!("forced {}", 7))
    }
    assert_eq!(forced(), hostkv_status::Internal);
    let message = last_error();
    assert!(message.contains("forced 7"), "{message}");
    assert!(message.contains("tests.rs:"), "{message}");
    assert_eq!(guard::value(-1, || panic!("a getter's")), -1);
    assert!(last_error().contains("a getter's"));
    assert_eq!(guard::status(|| Ok(())), hostkv_status::Ok);
}

#[test]
fn a_panic_prints_nothing() {
    const CHILD: &str = "HOSTKV_TEST_FORCED_PANIC";
    if std::env::var_os(CHILD).is_some() {
        assert_eq!(
            guard::status(|| panic!("seen by nobody")),
            hostkv_status::Internal
        );
        return;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "ffi::tests::a_panic_prints_nothing",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let printed = [child.stdout, child.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    assert!(child.status.success(), "{printed}");
    assert!(printed.contains("1 passed"), "{printed}");
    assert!(!printed.contains("seen by nobody"), "{printed}");
}

#[test]
fn the_last_error_is_the_threads_own_and_stays_until_its_next_failure() {
    let fail = |text: &'static str| guard::status(|| Err(Error::invalid(text)));
    assert_eq!(fail("first\0second"), hostkv_status::InvalidArgument);
    assert_eq!(last_error(), "first second");
    std::thread::spawn(move || {
        assert_eq!(last_error(), "");
        fail("of another thread");
        assert_eq!(last_error(), "of another thread");
    })
    .join()
    .unwrap();
    assert_eq!(guard::status(|| Ok(())), hostkv_status::Ok);
    assert_eq!(last_error(), "first second");
}

#[repr(C)]
struct NewerRequest {
    known: hostkv_request,
    unknown: [u64; 2],
}

fn newer_request() -> NewerRequest {
    NewerRequest {
        known: hostkv_request {
            struct_size: size_of::<NewerRequest>() as u32,
            flags: HOSTKV_ACQUIRE_ALL,
            request_id: c"id".as_ptr(),
            device: c"cuda:0".as_ptr(),
        },
        unknown: [0; 2],
    }
}

#[test]
fn a_struct_of_an_older_caller_gets_defaults_for_what_it_lacks() {
    let mut request = newer_request().known;
    let sizes = [
        offset_of!(hostkv_request, request_id),
        offset_of!(hostkv_request, device),
        size_of::<hostkv_request>(),
    ];
    for (size, texts) in sizes.into_iter().zip(0..) {
        request.struct_size = size as u32;
        // SAFETY: the struct is longer than its size says, and its texts are literals.
        let read = unsafe { handle::request(&request) }.unwrap();
        assert_eq!(read.flags, HOSTKV_ACQUIRE_ALL);
        assert_eq!(read.request_id, (texts >= 1).then_some("id"));
        assert_eq!(read.device, (texts >= 2).then_some("cuda:0"));
    }
}

#[test]
fn a_struct_size_that_no_version_has_is_refused_by_name() {
    let mut request = newer_request().known;
    for size in [0, 4, 7, 12, 20, 23, 25, 4104, u32::MAX] {
        request.struct_size = size;
        // SAFETY: sizes beyond the struct's own are refused before anything behind it is read.
        let error = unsafe { handle::request(&request) }.unwrap_err();
        assert_eq!(error.status, Status::InvalidArgument);
        assert!(
            error
                .message
                .contains(&format!("request.struct_size is {size};")),
            "{}",
            error.message
        );
    }
}

#[test]
fn a_struct_of_a_newer_caller_is_taken_unless_it_asks_for_what_is_not_known() {
    let mut request = newer_request();
    let read = |request: &NewerRequest| {
        // SAFETY: the struct has as many bytes as its size says, and the pointer may reach all of them.
        unsafe { handle::request(ptr::from_ref(request).cast()) }.map(|r| r.flags)
    };
    assert_eq!(read(&request), Ok(HOSTKV_ACQUIRE_ALL));
    request.unknown[1] = 1 << 63;
    let error = read(&request).unwrap_err();
    assert_eq!(error.status, Status::InvalidArgument);
    assert!(error.message.contains("byte 39"), "{}", error.message);
}

#[test]
fn an_output_struct_is_written_as_far_as_the_caller_knows_it() {
    let full = hostkv_stats {
        struct_size: 1,
        ..stats_of(7)
    };
    for size in [16_u32, 64, 128] {
        let mut stats = stats_of(9);
        stats.struct_size = size;
        // SAFETY: the struct is at least as long as its size says.
        unsafe { handle::versioned_out(&raw mut stats, "stats") }
            .unwrap()
            .write(&full);
        assert_eq!(stats.struct_size, size);
        assert_eq!(stats.capacity_bytes, 7);
        assert_eq!(stats.session_count, if size > 48 { 7 } else { 9 });
        assert_eq!(stats.l1_evicted_keys, if size > 120 { 7 } else { 9 });
    }
}

fn stats_of(figure: u64) -> hostkv_stats {
    hostkv_stats {
        struct_size: 0,
        reserved: 0,
        capacity_bytes: figure,
        used_bytes: figure,
        pinned_bytes: figure,
        reserved_bytes: figure,
        object_count: figure,
        session_count: figure,
        sm_read_requests: figure,
        sm_read_succeed_keys: figure,
        sm_read_failed_keys: figure,
        sm_write_requests: figure,
        sm_write_succeed_keys: figure,
        sm_write_failed_keys: figure,
        l1_read_keys: figure,
        l1_write_keys: figure,
        l1_evicted_keys: figure,
    }
}

#[test]
fn pointers_that_cannot_be_are_refused_by_name() {
    let number = 0_u64;
    let odd = ptr::from_ref(&number)
        .cast::<u8>()
        .wrapping_add(1)
        .cast::<u32>();
    // SAFETY: what is NULL, not aligned or too long is refused unread.
    unsafe {
        let of = |error: Error| (error.status, error.message);
        let (status, message) = of(handle::slice(odd, 1, "tokens").unwrap_err());
        assert_eq!(status, Status::InvalidArgument);
        assert!(message.starts_with("tokens is 0x"), "{message}");
        let (_, message) = of(handle::slice(ptr::null::<u32>(), 1, "tokens").unwrap_err());
        assert_eq!(message, "tokens is NULL; it must not be");
        let (_, message) =
            of(handle::slice(ptr::from_ref(&number), usize::MAX, "tokens").unwrap_err());
        assert!(message.contains("18446744073709551615"), "{message}");
        for count in [0, 1025, usize::MAX] {
            let (status, message) =
                of(handle::batch(ptr::from_ref(&number), count, "keys").unwrap_err());
            assert_eq!(status, Status::InvalidArgument);
            assert!(message.contains("1 to 1024 keys"), "{message}");
        }
        assert!(handle::out(odd.cast_mut(), "ret_count").is_err());
        assert!(handle::take(odd.cast_mut(), "session").is_err());
        assert!(
            handle::take(ptr::null_mut::<u32>(), "session")
                .unwrap()
                .is_none()
        );
    }
}

#[test]
fn a_text_that_is_not_utf8_is_refused_and_a_path_that_is_not_is_taken() {
    let bytes = c"ab\xff";
    // SAFETY: C literals.
    unsafe {
        let error = handle::text(bytes.as_ptr(), "config.client_name").unwrap_err();
        assert_eq!(error.status, Status::InvalidArgument);
        assert_eq!(
            error.message,
            "config.client_name is not UTF-8 at byte 2; give UTF-8 text"
        );
        assert_eq!(handle::text(ptr::null(), ""), Ok(None));
        assert!(handle::path(bytes.as_ptr()).is_some());
        assert!(handle::path(ptr::null::<c_char>()).is_none());
    }
}

#[test]
fn a_handle_given_is_lent_and_taken_back_as_the_same_value() {
    let handle = handle::give(String::from("pool"));
    // SAFETY: the handle is live until `take`, which is its last use.
    unsafe {
        assert_eq!(handle::lend(handle, "handle").unwrap(), "pool");
        assert_eq!(handle::lend_or_none(handle).unwrap(), "pool");
        assert_eq!(*handle::take(handle, "handle").unwrap().unwrap(), "pool");
        assert!(handle::lend(ptr::null::<String>(), "handle").is_err());
        assert!(handle::lend_or_none(ptr::null::<String>()).is_none());
    }
}

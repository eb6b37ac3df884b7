//! Is the kernel new enough?
//!
//! `main` asks once, before any segment is made. The oldest kernel is the first with MADV_COLLAPSE on shared
//! memory, on which the prefault rests.

use std::path::PathBuf;

use super::error::SegmentError;

/// Major and minor version of the oldest kernel the daemon starts on.
pub const OLDEST_KERNEL: (u32, u32) = (6, 1);

const RELEASE_FILE: &str = "/proc/sys/kernel/osrelease";

/// Refuses a kernel older than [`OLDEST_KERNEL`].
pub fn min_kernel_check() -> Result<(), SegmentError> {
    let release =
        std::fs::read_to_string(RELEASE_FILE).map_err(|error| SegmentError::KernelFile {
            path: PathBuf::from(RELEASE_FILE),
            reason: error.to_string(),
        })?;
    check_release(release.trim())
}

fn check_release(release: &str) -> Result<(), SegmentError> {
    match parse_release(release) {
        None => Err(SegmentError::KernelReleaseUnknown {
            release: release.to_string(),
        }),
        Some(version) if version < OLDEST_KERNEL => Err(SegmentError::KernelTooOld {
            release: release.to_string(),
        }),
        Some(_) => Ok(()),
    }
}

/// `6.18.44-distro` is (6, 18); a missing minor version counts as 0; what follows the digits does not matter.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = leading_number(release)?;
    let minor = match rest.strip_prefix('.') {
        Some(after_dot) => leading_number(after_dot)?.0,
        None => 0,
    };
    Some((major, minor))
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_all_forms_are_understood() {
        for (release, version) in [
            ("6.18.44-fc-v669", Some((6, 18))),
            ("6.1", Some((6, 1))),
            ("6.1-rc3", Some((6, 1))),
            ("6.10+", Some((6, 10))),
            ("7", Some((7, 0))),
            ("5.15.0-91-generic", Some((5, 15))),
            ("10.0.0", Some((10, 0))),
            ("", None),
            ("generic", None),
            ("6.x", None),
            (".6.1", None),
            ("-6.1", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(parse_release(release), version, "{release:?}");
        }
    }

    #[test]
    fn a_kernel_before_6_1_is_refused_with_its_name() {
        for release in ["6.0.19", "5.15.0-91-generic", "4.18.0-553.el8", "6"] {
            let error = check_release(release).expect_err("too old");
            let text = error.to_string();
            assert!(
                text.contains(release) && text.contains("too old") && text.contains("6.1"),
                "{text}"
            );
        }
        for release in ["6.1.0", "6.18.44", "7.0", "10.1"] {
            assert!(check_release(release).is_ok(), "{release}");
        }
        assert!(
            check_release("what")
                .expect_err("unknown")
                .to_string()
                .contains("\"what\"")
        );
    }

    #[test]
    fn the_kernel_of_this_machine_is_new_enough() {
        assert!(min_kernel_check().is_ok());
    }
}

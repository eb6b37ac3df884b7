//! Random bytes from the kernel: the instance id, the index's secret, the challenges.

use std::io;

use nix::errno::Errno;

/// `N` random bytes. Waits only while the machine boots and has gathered no randomness yet.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    const {
        assert!(
            N <= 256,
            "more than the kernel gives in one uninterrupted call"
        )
    };
    let mut bytes = [0; N];
    // SAFETY: the buffer has the length that is given.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    match Errno::result(got) {
        Ok(len) if len as usize == N => Ok(bytes),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        assert_ne!(random_bytes::<16>().unwrap(), random_bytes::<16>().unwrap());
    }
}

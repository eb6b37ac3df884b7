//! The liveness word: how every client sees the daemon's death without a system call.
//!
//! The loop's thread stores its thread id in `daemon_alive` of the control header and registers that word as a held
//! robust futex. When the thread dies, be it by SIGKILL, the kernel itself replaces the id by FUTEX_OWNER_DIED, through
//! the daemon's own mapping. A clean stop stores 0.
//!
//! ```text
//!   private memory                                     control segment
//!   head --next--> node --next--> head                 | daemon_alive |
//!        futex_offset = &daemon_alive - &node -------->
//! ```
//!
//! The list replaces the one that libc registered for the thread, so the loop's thread uses no robust mutex.

use std::ptr;

use nix::errno::Errno;

use hostkv_shm_protocol::control::header::{HeaderView, flags};
use hostkv_shm_protocol::sync::Ordering;

/// The kernel's `struct robust_list`.
#[repr(C)]
struct Node {
    next: *const Node,
}

/// The kernel's `struct robust_list_head`.
#[repr(C)]
struct Head {
    list: Node,
    futex_offset: libc::c_long,
    list_op_pending: *const Node,
}

/// The registration of the thread that made it.
pub struct AliveMark {
    header: HeaderView,
    thread_id: u32,
}

impl AliveMark {
    /// Marks the calling thread as the living loop. Where the kernel refuses the list the header says so, and clients
    /// look at the heartbeat instead.
    pub fn set(header: HeaderView) -> AliveMark {
        let thread_id = nix::unistd::gettid().as_raw() as u32;
        if let Err(errno) = register(&header) {
            log::warn!(
                "the kernel refuses a robust list ({}): clients notice a crash of the daemon by its heartbeat, up to 300 ms \
                 later, and read the clock for it",
                errno.desc()
            );
            // Relaxed: no client has the header before the socket listens.
            header
                .flags()
                .fetch_or(flags::NO_ROBUST_LIST, Ordering::Relaxed);
        }
        // Relaxed: as above.
        header.daemon_alive().store(thread_id, Ordering::Relaxed);
        AliveMark { header, thread_id }
    }

    /// What clients compare the word with.
    pub fn thread_id(&self) -> u32 {
        self.thread_id
    }

    /// Says that the daemon has ended cleanly. The kernel then finds no word that names this thread.
    pub fn clear(self) {
        // Release: whoever sees the end sees the state that was stored before it.
        self.header.daemon_alive().store(0, Ordering::Release);
    }
}

fn register(header: &HeaderView) -> nix::Result<()> {
    // The kernel reads both at the thread's death, so they live as long as the process.
    let node: &'static mut Node = Box::leak(Box::new(Node { next: ptr::null() }));
    let word = ptr::from_ref(header.daemon_alive()) as usize;
    let node_at = ptr::from_ref(node) as usize;
    let head: &'static mut Head = Box::leak(Box::new(Head {
        list: Node { next: node },
        futex_offset: word.wrapping_sub(node_at) as libc::c_long,
        list_op_pending: ptr::null(),
    }));
    node.next = &raw const head.list;
    // SAFETY: the kernel checks the length, keeps the address, and walks the list when this thread dies: head and node
    // are never freed or moved, and the word stays mapped because the control segment lives until the process ends.
    let got = unsafe {
        libc::syscall(
            libc::SYS_set_robust_list,
            ptr::from_ref(head),
            size_of::<Head>(),
        )
    };
    Errno::result(got).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hostkv_shm_protocol::control::header::ControlHeader;
    use hostkv_shm_protocol::view::View;

    fn header() -> HeaderView {
        let words: &'static mut [u64] = vec![0; size_of::<ControlHeader>() / 8].leak();
        // SAFETY: the words are leaked, aligned, and used through this view alone.
        let view = unsafe { View::new(words.as_ptr().cast(), size_of::<ControlHeader>() as u64) };
        HeaderView::new(view).unwrap()
    }

    fn alive(header: &HeaderView) -> u32 {
        header.daemon_alive().load(Ordering::Acquire)
    }

    #[test]
    fn the_kernel_marks_the_word_when_the_thread_dies_without_a_word() {
        const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
        let header = header();
        let id = std::thread::spawn(move || {
            let mark = AliveMark::set(header);
            assert_eq!(alive(&header), mark.thread_id());
            mark.thread_id()
        })
        .join()
        .unwrap();
        // The join sees the thread's end from its own futex, which the kernel wakes after it has walked the list.
        assert_eq!(alive(&header), FUTEX_OWNER_DIED, "thread {id}");
        assert_eq!(
            header.flags().load(Ordering::Relaxed) & flags::NO_ROBUST_LIST,
            0
        );
    }

    #[test]
    fn a_clean_end_leaves_zero() {
        let header = header();
        std::thread::spawn(move || AliveMark::set(header).clear())
            .join()
            .unwrap();
        assert_eq!(alive(&header), 0);
    }
}

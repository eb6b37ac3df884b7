//! Lists of entries without memory of their own for each member: two links a list and an entry, in an array by entry number.
//!
//! The entry table and the eviction orders own such arrays. An array serves any number of lists, as long as an entry is in at
//! most one of them; a list knows its two ends only. Every step is a fixed number of loads and stores.
//!
//! ```text
//!   list:  front ----> 7 <---> 2 <---> 9 <---- back          links[2] = { prev: 7, next: 9 }
//!          hottest                     coldest
//! ```

use hostkv_shm_protocol::id::EntryNumber;

/// A link to nobody.
pub(super) const NONE: u32 = u32::MAX;

/// An entry's neighbours in the list that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub(super) prev: u32,
    pub(super) next: u32,
}

impl Default for Link {
    fn default() -> Link {
        Link {
            prev: NONE,
            next: NONE,
        }
    }
}

/// A record that has a link in it.
pub trait Linked {
    /// The link.
    fn link(&mut self) -> &mut Link;
}

impl Linked for Link {
    fn link(&mut self) -> &mut Link {
        self
    }
}

/// The two ends of a list; `front` is the hottest.
#[derive(Debug, Clone, Copy)]
pub struct EntryList {
    front: u32,
    back: u32,
    len: u32,
}

impl Default for EntryList {
    fn default() -> Self {
        EntryList {
            front: NONE,
            back: NONE,
            len: 0,
        }
    }
}

impl EntryList {
    /// Number of entries in the list.
    pub fn count(&self) -> u32 {
        self.len
    }

    /// The coldest entry.
    pub fn back(&self) -> Option<EntryNumber> {
        (self.back != NONE).then_some(EntryNumber(self.back))
    }

    /// Puts an entry at the hot end.
    pub fn push_front<T: Linked>(&mut self, links: &mut [T], entry: EntryNumber) {
        *links[entry.index()].link() = Link {
            prev: NONE,
            next: self.front,
        };
        match self.front {
            NONE => self.back = entry.0,
            front => links[front as usize].link().prev = entry.0,
        }
        self.front = entry.0;
        self.len += 1;
    }

    /// Takes an entry, which is in this list, out of it.
    pub fn unlink<T: Linked>(&mut self, links: &mut [T], entry: EntryNumber) {
        let Link { prev, next } = *links[entry.index()].link();
        match prev {
            NONE => self.front = next,
            prev => links[prev as usize].link().next = next,
        }
        match next {
            NONE => self.back = prev,
            next => links[next as usize].link().prev = prev,
        }
        *links[entry.index()].link() = Link::default();
        self.len -= 1;
    }
}

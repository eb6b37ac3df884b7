//! Whether a client sends its requests one by one or several at a time, learned from what its socket held.
//!
//! The loop asks it after each packet. Most clients wait for a reply before they send again: to look for another packet
//! then costs a system call that finds nothing, a fifth of those of a request. One that sends several is read on.
//!
//! ```text
//!                 the second packet of a turn
//!   one by one ------------------------------> several
//!       ^                                         |
//!       +---- every 16th turn, unless there is a second packet again
//! ```

/// Turns after which a client that sends one by one is looked at for more.
const LOOK_EVERY: u8 = 16;

/// What is known of one client.
#[derive(Debug, Default)]
pub struct Pace {
    sends_several: bool,
    turns: u8,
}

impl Pace {
    /// Told after packet number `count` of a turn: whether to leave the look for another to epoll.
    pub fn comes_alone(&mut self, count: usize) -> bool {
        if count > 1 {
            self.sends_several = true;
            return false;
        }
        self.turns = (self.turns + 1) % LOOK_EVERY;
        if self.turns == 0 {
            self.sends_several = false;
            return false;
        }
        !self.sends_several
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_waits_for_replies_is_rarely_looked_at_for_more() {
        let mut pace = Pace::default();
        let looks = (0..160).filter(|_| !pace.comes_alone(1)).count();
        assert_eq!(looks, 10);
    }

    #[test]
    fn one_that_sends_several_is_read_on_until_it_no_longer_does() {
        let mut pace = Pace::default();
        // It is found out within 16 turns, and then read on in all of them.
        let found = (0..16).position(|_| !pace.comes_alone(1)).unwrap();
        assert!(found < 16 && !pace.comes_alone(2));
        for _ in 0..64 {
            assert!(!pace.comes_alone(1) && !pace.comes_alone(2));
        }
        // From now on its requests come alone.
        let looks = (0..64).filter(|_| !pace.comes_alone(1)).count();
        assert!(looks <= 16 + 3, "{looks}");
    }
}

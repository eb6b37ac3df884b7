//! The allocator checks itself: every node, link, bin and bitmap against what the allocator's story promises.
//!
//! Called by the daemon's own check on the loop thread, on request and not in normal service, since it reads the whole
//! node table. It trusts nothing that it reads: each link is checked before it is followed and each walk is bounded, so
//! a damaged table gives a sentence, never a panic or an endless walk.
//!
//! Four walks, and why together they are enough:
//!
//! 1. By address from the lowest node: offsets add up without gap or overlap to the capacity, no two holes touch.
//! 2. By bin: every listed node is a hole of the bin's sizes, and the bitmaps agree with the lists. The links back
//!    agree, so no hole is listed twice.
//! 3. The list of spare hole numbers: none of them stands for anything.
//! 4. By number: as many nodes stand for something as walk 1 met, so it met all of them, and walk 2, which met as many
//!    holes, met those same holes.

use super::Allocator;
use super::bins::{BIN_COUNT, bin_of};

/// What an audit counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audit {
    /// The sum of all extents.
    pub used_units: u32,
    /// The sum of all holes.
    pub free_units: u32,
    /// The size of the largest hole.
    pub largest_free_units: u32,
    /// How many extents there are.
    pub extents: u32,
    /// How many holes there are.
    pub holes: u32,
}

impl Allocator {
    /// Walks everything and returns what it counted.
    ///
    /// # Errors
    ///
    /// One sentence that names the first node or bin that breaks a promise. The allocator must not be used further.
    pub fn audit(&self) -> Result<Audit, String> {
        let audit = self.audit_addresses()?;
        self.audit_counters(&audit)?;
        self.audit_bins(audit.holes)?;
        let spare = self.audit_spare_holes()?;
        self.audit_numbers(&audit, spare)?;
        Ok(audit)
    }

    fn audit_addresses(&self) -> Result<Audit, String> {
        let mut audit = Audit {
            used_units: 0,
            free_units: 0,
            largest_free_units: 0,
            extents: 0,
            holes: 0,
        };
        let capacity = u64::from(self.capacity_units);
        let mut expected_offset = 0u64;
        let mut previous = None;
        let mut next = self.lowest;
        // Every step adds at least one unit, so the walk ends at the capacity at the latest.
        while let Some(number) = next {
            self.check_number(number, "the address list")?;
            let offset = u64::from(self.nodes.offset(number));
            let units = self.nodes.units(number);
            if units == 0 {
                return Err(format!("node {number} is in the address list with 0 units"));
            }
            if offset != expected_offset {
                return Err(format!(
                    "node {number} begins at unit {offset}, its left neighbour ends at {expected_offset}"
                ));
            }
            expected_offset += u64::from(units);
            if expected_offset > capacity {
                return Err(format!(
                    "node {number} ends at unit {expected_offset}, beyond the capacity of {capacity}"
                ));
            }
            if self.nodes.left(number) != previous {
                return Err(format!(
                    "node {number} names {:?} as its left neighbour, which is {previous:?}",
                    self.nodes.left(number)
                ));
            }
            // The sums fit, for together they are at most the capacity.
            if self.is_hole(number) {
                if previous.is_some_and(|previous| self.is_hole(previous)) {
                    return Err(format!(
                        "hole {number} touches hole {previous:?}; they should be one"
                    ));
                }
                audit.free_units += units;
                audit.largest_free_units = audit.largest_free_units.max(units);
                audit.holes += 1;
            } else {
                if self.nodes.bin_prev(number).is_some() || self.nodes.bin_next(number).is_some() {
                    return Err(format!("the extent of entry {number} has bin links"));
                }
                audit.used_units += units;
                audit.extents += 1;
            }
            previous = next;
            next = self.nodes.right(number);
        }
        if expected_offset != capacity {
            return Err(format!(
                "the address list ends at unit {expected_offset} of a capacity of {capacity}"
            ));
        }
        Ok(audit)
    }

    fn audit_counters(&self, audit: &Audit) -> Result<(), String> {
        for (name, counter, counted) in [
            ("free units", self.free_units, audit.free_units),
            ("extents", self.extent_count, audit.extents),
            ("holes", self.hole_count, audit.holes),
        ] {
            if counter != counted {
                return Err(format!(
                    "the counter of {name} is {counter}, the payload has {counted}"
                ));
            }
        }
        Ok(())
    }

    fn audit_bins(&self, holes: u32) -> Result<(), String> {
        let mut binned = 0;
        for bin in 0..BIN_COUNT {
            let head = self.bins.head(bin);
            let (first, second) = self.bins.bits(bin);
            if second != head.is_some() || first != self.bins.level_in_use(bin) {
                return Err(format!(
                    "the bitmaps of bin {bin} say {first} and {second}, its list begins with {head:?}"
                ));
            }
            let mut previous = None;
            let mut next = head;
            while let Some(number) = next {
                self.check_number(number, "a bin")?;
                let units = self.nodes.units(number);
                if !self.is_hole(number) || units == 0 {
                    return Err(format!("node {number} in bin {bin} is no hole"));
                }
                if bin_of(units) != bin {
                    return Err(format!(
                        "hole {number} of {units} units is in bin {bin}, not in bin {}",
                        bin_of(units)
                    ));
                }
                if self.nodes.bin_prev(number) != previous {
                    return Err(format!(
                        "hole {number} names {:?} as the one before it in bin {bin}, which is {previous:?}",
                        self.nodes.bin_prev(number)
                    ));
                }
                binned += 1;
                if binned > holes {
                    return Err(format!(
                        "the bins up to {bin} list more than the {holes} holes there are"
                    ));
                }
                previous = next;
                next = self.nodes.bin_next(number);
            }
        }
        if binned != holes {
            return Err(format!("the bins list {binned} of {holes} holes"));
        }
        Ok(())
    }

    /// Returns how many spare hole numbers there are.
    fn audit_spare_holes(&self) -> Result<u32, String> {
        if self.fresh_hole < self.entry_count || self.fresh_hole > self.nodes.count() {
            return Err(format!(
                "the next new hole number {} is not between {} and {}",
                self.fresh_hole,
                self.entry_count,
                self.nodes.count()
            ));
        }
        let numbers = self.fresh_hole - self.entry_count;
        let mut spare = 0;
        let mut next = self.spare_hole;
        while let Some(number) = next {
            self.check_number(number, "the spare hole numbers")?;
            if !self.is_hole(number) || number >= self.fresh_hole {
                return Err(format!(
                    "node {number} is among the spare hole numbers, which are {} to {}",
                    self.entry_count,
                    i64::from(self.fresh_hole) - 1
                ));
            }
            if self.nodes.units(number) != 0 {
                return Err(format!("hole number {number} is spare and in use"));
            }
            spare += 1;
            if spare > numbers {
                return Err(format!(
                    "the list of spare hole numbers is longer than the {numbers} numbers there are"
                ));
            }
            next = self.nodes.bin_next(number);
        }
        Ok(spare)
    }

    fn audit_numbers(&self, audit: &Audit, spare: u32) -> Result<(), String> {
        let mut extents = 0;
        for entry in 0..self.entry_count {
            if self.nodes.units(entry) != 0 {
                extents += 1;
            } else if !self.nodes.is_clear(entry) {
                return Err(format!(
                    "entry {entry} holds no extent but its node is not clear"
                ));
            }
        }
        let mut holes = 0;
        for number in self.entry_count..self.fresh_hole {
            if self.nodes.units(number) != 0 {
                holes += 1;
            }
        }
        for number in self.fresh_hole..self.nodes.count() {
            if !self.nodes.is_clear(number) {
                return Err(format!(
                    "hole number {number} was never given out but its node is not clear"
                ));
            }
        }
        if (extents, holes) != (audit.extents, audit.holes) {
            return Err(format!(
                "{extents} extents and {holes} holes have nodes, the address list has {} and {}",
                audit.extents, audit.holes
            ));
        }
        let numbers = self.fresh_hole - self.entry_count;
        if holes + spare != numbers {
            return Err(format!(
                "of {numbers} hole numbers given out {holes} are in use and {spare} spare; some are lost"
            ));
        }
        Ok(())
    }

    fn check_number(&self, number: u32, list: &str) -> Result<(), String> {
        if number < self.nodes.count() {
            return Ok(());
        }
        Err(format!(
            "{list} names node {number}, but there are {} nodes",
            self.nodes.count()
        ))
    }
}

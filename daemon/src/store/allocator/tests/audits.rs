//! The audit sees damage: each test breaks one promise of the allocator by hand.

use crate::store::allocator::Allocator;
use crate::store::allocator::bins::bin_of;
use crate::store::allocator::nodes::pack_link;

/// Entries 0, 2 and 4 hold extents of 10 units each; holes of 10 units lie at 10 and 30, one of 50 at the end. The node
/// numbers of the holes are 9, 10 and 8.
fn five_spans() -> Allocator {
    let mut allocator = Allocator::new(100, 8);
    for entry in 0..5 {
        assert_eq!(allocator.allocate(entry, 10), Some(entry * 10));
    }
    allocator.free(1);
    allocator.free(3);
    allocator
}

#[test]
fn an_audit_finds_every_damaged_word_of_a_node_in_use() {
    let sound = five_spans();
    sound.audit().expect("a sound allocator");
    let numbers = (0..sound.nodes.count()).filter(|&number| sound.nodes.units(number) > 0);
    for number in numbers {
        for word in 0..6 {
            for damage in [1, 3, 0x8000_0000, u32::MAX] {
                let mut allocator = five_spans();
                *allocator.nodes.word_mut(number, word) ^= damage;
                let verdict = allocator.audit();
                assert!(
                    verdict.is_err(),
                    "node {number} word {word} xor {damage:#x} went unseen"
                );
            }
        }
    }
}

#[test]
fn an_audit_finds_damage_outside_the_spans() {
    type Damage = fn(&mut Allocator);
    let damages: [(&str, Damage); 10] = [
        ("a bit of the first bitmap", |allocator| {
            *allocator.bins.first_mut() ^= 2
        }),
        ("a lost hole", |allocator| {
            *allocator.bins.head_mut(bin_of(10)) = 0
        }),
        ("a hole in a second bin", |allocator| {
            let hole = allocator.bins.head(bin_of(10));
            *allocator.bins.head_mut(bin_of(11)) = pack_link(hole);
        }),
        ("an extent in a bin", |allocator| {
            *allocator.bins.head_mut(bin_of(10)) = pack_link(Some(0))
        }),
        ("an extent nobody can reach", |allocator| {
            *allocator.nodes.word_mut(7, 1) = 5
        }),
        ("a hole number never given out", |allocator| {
            let last = allocator.nodes.count() - 1;
            *allocator.nodes.word_mut(last, 0) = 5;
        }),
        ("free units", |allocator| allocator.free_units += 1),
        ("the hole count", |allocator| allocator.hole_count -= 1),
        ("the lowest node", |allocator| {
            allocator.lowest = Some(u32::MAX - 1)
        }),
        ("a spare hole in use", |allocator| {
            allocator.spare_hole = allocator.bins.head(bin_of(10))
        }),
    ];
    for (name, damage) in damages {
        let mut allocator = five_spans();
        damage(&mut allocator);
        assert!(allocator.audit().is_err(), "unseen: {name}");
    }
}

#[test]
fn an_audit_finds_holes_that_were_not_joined() {
    // Two holes made by hand where one of 50 units was.
    let mut allocator = five_spans();
    let tail = allocator.nodes.right(4).expect("the hole at the end");
    allocator.bins.remove(&mut allocator.nodes, tail);
    let second = allocator.take_hole_number();
    allocator.place(tail, 50, 20, Some(4), None);
    allocator.place(second, 70, 30, Some(tail), None);
    allocator.bins.push(&mut allocator.nodes, tail);
    allocator.bins.push(&mut allocator.nodes, second);
    let verdict = allocator.audit().expect_err("two holes touch");
    assert!(verdict.contains("touches"), "{verdict}");
}

//! What is not what was stored is a miss, counted, and gone: the next store puts it there again.

use super::*;
use hostkv_daemon::tiers::figures::FailureReason;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

const LEN: u64 = 300_000;

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, at).unwrap();
}

#[test]
fn a_damaged_or_foreign_file_is_a_miss_and_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    let mut pool = Pool::open(&[fs_spec(base, "")]);
    let cut = |len: u64| {
        move |path: &Path| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(len).unwrap();
        }
    };
    let other = file_of(base, 2);
    type Damage<'a> = Box<dyn Fn(&Path) + 'a>;
    let damages: Vec<(&str, Damage)> = vec![
        ("magic", Box::new(|path| flip(path, 0))),
        ("format version", Box::new(|path| flip(path, 8))),
        ("key", Box::new(|path| flip(path, 20))),
        ("length", Box::new(|path| flip(path, 48))),
        ("sum", Box::new(|path| flip(path, 56))),
        ("sum of the seal", Box::new(|path| flip(path, 127))),
        ("first byte", Box::new(|path| flip(path, 4096))),
        ("a byte", Box::new(|path| flip(path, 4096 + LEN / 2))),
        ("last byte", Box::new(|path| flip(path, 4096 + LEN - 1))),
        ("cut at the end", Box::new(cut(4096 + LEN - 1))),
        ("cut to the seal", Box::new(cut(4096))),
        ("emptied", Box::new(cut(0))),
        ("longer", Box::new(cut(4096 + LEN + 1))),
        (
            "another object of this length",
            Box::new(move |path| {
                fs::copy(&other, path).unwrap();
            }),
        ),
    ];
    assert!(pool.store(2, range(0, LEN)).has(0));
    for (count, (what, damage)) in (1..).zip(&damages) {
        let path = file_of(base, 1);
        assert!(pool.store(1, range(0, LEN)).has(0), "{what}");
        assert_eq!(
            pool.load(1, 0, range(LEN + 64 - LEN % 64, LEN)),
            Some(0),
            "{what}"
        );
        damage(&path);
        assert_eq!(pool.load(1, 0, range(0, LEN)), None, "{what}");
        assert!(!path.exists(), "{what}");
        assert_eq!(pool.look_up(&[1]), [None], "{what}");
        let failures = pool.figures(0).loads.failures;
        assert_eq!(failures.get(FailureReason::Damaged), count, "{what}");
    }
    assert_eq!(pool.load(2, 0, range(0, LEN)), Some(0));
    // An object of another length than the load expects.
    assert_eq!(pool.load(2, 0, range(0, LEN - 1)), None);
}

#[test]
fn what_lies_beside_the_objects_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    drop(Pool::open(&[fs_spec(base, "")]));
    let strange = base.join("v1/00/README");
    fs::write(&strange, "mine").unwrap();
    let spec = fs_spec(base, r#", "max_capacity_gb": 0.001"#);
    let mut pool = Pool::open(&[spec]);
    for number in 0..20 {
        assert!(pool.store(number, range(0, 200_000)).has(0));
    }
    assert_eq!(fs::read(&strange).unwrap(), b"mine");
}

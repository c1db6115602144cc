//! What the fuzz targets do (`fuzz/`), with bytes that are the same in every run: so that the targets keep up with the
//! code, and as far as that goes, its first lines of defence. `scripts/fuzz` looks further.

#[path = "../fuzz/src/lib.rs"]
pub mod targets;

use crate::support::pattern;

/// Runs a target with `count` inputs of different lengths; `LARDER_FUZZ_FACTOR` makes it so many times more.
fn feed(count: u64, run: impl Fn(&[u8])) {
    let factor = std::env::var("LARDER_FUZZ_FACTOR").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1);
    for i in 0..count * factor {
        run(&pattern((i * 7 % 200) as usize, i + 1));
    }
}

#[test]
fn headers_take_any_bytes() {
    feed(2000, targets::header::run);
    feed(2000, targets::segment_header::run);
    let fields = |version: u64, store: &str| {
        format!(
            "{{\"magic\":\"larder-store\",\"version\":{version},\"features\":[],\"store\":\"{store}\",\"created\":1}}"
        )
    };
    targets::header::run(fields(1, "00000000000000000000000000000007").as_bytes());
    targets::header::run(fields(1, "no store id").as_bytes());
    targets::header::run(fields(2, "").as_bytes());
}

#[test]
fn whatever_is_printed_can_be_shown() {
    feed(5000, targets::printable::run);
}

#[test]
fn chunk_maps_take_any_bytes() {
    feed(20_000, targets::chunk_map::run);
}

#[test]
fn damaged_segments_give_what_was_written_or_nothing() {
    feed(100, targets::seal_page::run);
}

#[test]
fn damaged_databases_are_errors() {
    feed(20, |data| {
        // Every kind of damage, to a closed and to a crashed store.
        for mode in [0, 1, 2, 3, 4, 5, 0x84] {
            targets::database::run(&[&[mode], data].concat());
        }
    });
}

#[test]
fn damaged_encrypted_stores_give_what_was_written_or_nothing() {
    feed(12, |data| {
        for mode in [0, 1, 2, 3, 4, 5, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85] {
            targets::encrypted::run(&[&[mode], data].concat());
        }
    });
}

#[test]
fn objects_of_remotes_take_any_bytes() {
    feed(5000, targets::remote::run);
    // Bodies that are understood further than random ones: of every kind, cut and changed here and there.
    feed(300, |data| {
        for mut body in crate::remotes::sealed_bodies() {
            let (at, value) =
                (data.first().map_or(0, |b| usize::from(*b) * 7 % body.len()), data.get(1).map_or(0, |b| *b));
            body[at] ^= value;
            body.truncate(body.len() - data.len().min(body.len()) / 2 * usize::from(value % 2));
            targets::remote::run(&body);
        }
    });
}

/// Damage that was not survived once.
mod regressions {
    use super::targets::database::{build, damage, survive};
    use super::targets::memory::MemoryDir;
    use larder::fs::{Caller, Fs, FsError, FsOptions, Kind, NewNode, ROOT_INO, RenameMode};
    use larder::open_store::{OpenStore, StoreOptions};
    use std::sync::Arc;

    fn changed(sql: &str) {
        let mut files = build::closed().clone();
        damage::with_database(&mut files, |database| database.execute_batch(sql).unwrap());
        survive(&files, true);
    }

    #[test]
    fn numbers_to_go_on_with_that_are_too_large() {
        for number in [i64::MIN, -1, 0, i64::MAX - 1, i64::MAX] {
            changed(&format!("UPDATE store SET next_segment = {number}"));
            changed(&format!("UPDATE store SET next_ino = {number}"));
        }
    }

    #[test]
    fn a_shared_range_outside_of_its_segment() {
        changed("UPDATE OR REPLACE share SET first = 16384 + first");
        changed("UPDATE share SET count = 4294967295");
        changed("UPDATE OR REPLACE share SET first = 4294967295");
    }

    #[test]
    fn a_chunk_where_no_file_reaches() {
        changed("UPDATE chunk SET idx = -1 WHERE idx = 0");
        changed("UPDATE chunk SET idx = 9223372036854775807 WHERE idx = 1");
    }

    #[test]
    fn an_inode_with_more_blocks_than_a_file_can_have() {
        changed("UPDATE inode SET blocks = 9223372036854775807 WHERE ino > 3");
    }

    #[test]
    fn chunks_with_extents_that_are_also_reserved_as_a_whole() {
        // Chunks 0 to 15, 1 to 3, and all of the group.
        for map in ["02000F", "020102", "0200FF1F"] {
            let reserve = format!("UPDATE chunk SET map = X'{map}' WHERE idx >= 4294967296");
            let mut files = build::closed().clone();
            damage::with_database(&mut files, |database| {
                assert_eq!(database.execute(&reserve, ()).unwrap(), 1);
            });
            survive(&files, true);
            // The same with so many blocks that all of them can be taken away.
            changed(&format!(
                "{reserve}; UPDATE inode SET blocks = 2000000 WHERE blocks > 256;
                 UPDATE volume SET used_blocks = 3000000, size_limit = NULL"
            ));
        }
    }

    #[test]
    fn directories_that_are_each_others_parents() {
        let mut files = build::closed().clone();
        damage::with_database(&mut files, |database| {
            let sql = "UPDATE inode SET parent = 3 WHERE ino = 2; UPDATE inode SET parent = 2 WHERE ino = 3";
            database.execute_batch(sql).unwrap();
        });
        survive(&files, true);
        let dir = MemoryDir::with_files(&files);
        let store = OpenStore::open(dir, None, StoreOptions::default()).unwrap();
        let volume = store.meta().volumes().unwrap()[0].id;
        let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
        let node = NewNode { kind: Kind::Directory, permissions: 0o755, umask: 0, rdev: 0, target: None };
        fs.make(ROOT_INO, b"other", &node, Caller::ROOT).unwrap();
        // Looking for the way from there to the root must come to an end.
        let moved = fs.rename((ROOT_INO, b"other"), (3, b"other"), RenameMode::Replace);
        assert_eq!(moved, Err(FsError::Io));
        store.close().unwrap();
    }
}

//! Kinds of damage. Each returns whether the result has seals and checksums that fit.

use super::super::Input;
use super::super::memory::MemoryDir;
use super::Files;
use larder::backing::Dir;
use larder::meta::MetaFiles;
use rusqlite::types::Value;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128_with_seed;

const PAGE: usize = 4096;
const SEAL: usize = 16;
const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// Changes of rows in one input.
const ROW_CHANGES: usize = 8;

const TABLES: &[(&str, &[&str], &[&str])] = &[
    ("store", &["one"], &["id", "name_key", "next_ino", "next_segment", "next_gen", "next_volume"]),
    ("generation", &["gen"], &["gen", "parent", "created"]),
    (
        "volume",
        &["id"],
        &[
            "id",
            "name",
            "head",
            "size_limit",
            "inode_limit",
            "used_blocks",
            "used_inodes",
            "created",
            "meta_limit",
            "used_meta",
        ],
    ),
    ("label", &["volume", "key"], &["volume", "key", "value"]),
    (
        "inode",
        &["ino", "gen"],
        &[
            "ino", "gen", "mode", "nlink", "uid", "gid", "rdev", "size", "blocks", "atime", "atime_ns",
            "mtime", "ctime", "btime_ns", "parent", "xattrs", "target",
        ],
    ),
    ("dentry", &["parent", "hash", "name", "gen"], &["parent", "hash", "name", "gen", "ino", "kind"]),
    ("xattr", &["ino", "name", "gen"], &["ino", "name", "gen", "value"]),
    ("chunk", &["ino", "idx", "gen"], &["ino", "idx", "gen", "map"]),
    ("orphan", &["volume", "ino"], &["volume", "ino"]),
    ("segment", &["id"], &["id", "live", "tail", "full"]),
    ("share", &["segment", "first"], &["segment", "first", "count", "refs"]),
    ("freed", &["id"], &["id", "runs"]),
];

/// Numbers that are the ends of something.
const NUMBERS: &[i64] = &[
    i64::MIN,
    i64::MIN + 1,
    -1,
    0,
    1,
    2,
    255,
    256,
    16_383,
    16_384,
    16_385,
    i32::MAX as i64,
    u32::MAX as i64,
    u32::MAX as i64 + 1,
    1 << 32,
    (1 << 44) - 1,
    1 << 44,
    1 << 52,
    (1 << 55) + 1,
    i64::MAX - 1,
    i64::MAX,
];

/// Bytes of the database.
pub fn pages(files: &mut Files, input: &mut Input<'_>, reseal: bool) -> bool {
    let Some(bytes) = files.get_mut("meta.db") else { return true };
    input.edit(bytes);
    if reseal {
        for (number, page) in bytes.chunks_exact_mut(PAGE).enumerate() {
            let seal = xxh3_128_with_seed(&page[..PAGE - SEAL], number as u64 + 1);
            page[PAGE - SEAL..].copy_from_slice(&seal.to_le_bytes());
        }
    }
    reseal
}

/// Any bytes in place of the database, behind the header of a real one.
pub fn replace(files: &mut Files, input: &mut Input<'_>) -> bool {
    let Some(bytes) = files.get_mut("meta.db") else { return true };
    bytes.truncate((input.number(2) as usize).min(bytes.len()));
    bytes.extend_from_slice(input.rest());
    let wanted = bytes.len().next_multiple_of(PAGE);
    bytes.resize(wanted, 0);
    for (number, page) in bytes.chunks_exact_mut(PAGE).enumerate() {
        let seal = xxh3_128_with_seed(&page[..PAGE - SEAL], number as u64 + 1);
        page[PAGE - SEAL..].copy_from_slice(&seal.to_le_bytes());
    }
    true
}

/// Bytes of the WAL; see <https://www.sqlite.org/fileformat2.html#walformat>.
pub fn wal(files: &mut Files, input: &mut Input<'_>, fix_checksums: bool) -> bool {
    let Some(bytes) = files.get_mut("meta.db-wal") else { return true };
    let len = input.number(3) as usize;
    if len % 2 == 1 && len / 2 < bytes.len() {
        bytes.truncate(len / 2);
    }
    input.edit(bytes);
    if fix_checksums && bytes.len() >= WAL_HEADER {
        let big_endian = bytes[3] & 1 == 1;
        let mut sums = checksum(big_endian, (0, 0), &bytes[..24]);
        put(&mut bytes[24..32], sums);
        let salt: [u8; 8] = bytes[16..24].try_into().unwrap_or_default();
        for frame in bytes[WAL_HEADER..].chunks_exact_mut(FRAME_HEADER + PAGE) {
            frame[8..16].copy_from_slice(&salt);
            sums = checksum(big_endian, sums, &frame[..8]);
            sums = checksum(big_endian, sums, &frame[FRAME_HEADER..]);
            put(&mut frame[16..24], sums);
        }
    }
    fix_checksums
}

fn put(place: &mut [u8], sums: (u32, u32)) {
    place[..4].copy_from_slice(&sums.0.to_be_bytes());
    place[4..].copy_from_slice(&sums.1.to_be_bytes());
}

fn checksum(big_endian: bool, (mut one, mut two): (u32, u32), bytes: &[u8]) -> (u32, u32) {
    let word = |bytes: &[u8]| {
        let bytes: [u8; 4] = bytes.try_into().unwrap_or_default();
        if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    for pair in bytes.chunks_exact(8) {
        one = one.wrapping_add(word(&pair[..4])).wrapping_add(two);
        two = two.wrapping_add(word(&pair[4..])).wrapping_add(one);
    }
    (one, two)
}

/// Rows that SQLite takes and the store cannot have written.
pub fn rows(files: &mut Files, input: &mut Input<'_>) -> bool {
    with_database(files, |database| {
        for _ in 0..ROW_CHANGES {
            if input.is_empty() {
                break;
            }
            // What SQLite does not take changes nothing.
            let _ = change_row(database, input);
        }
    });
    true
}

/// Changes the database of a store as SQL does, with every seal in place afterwards.
pub fn with_database(files: &mut Files, change: impl FnOnce(&rusqlite::Connection)) {
    let dir = MemoryDir::with_files(files);
    let backing: Arc<dyn Dir> = dir.clone();
    let meta = MetaFiles::new(backing, false).expect("SQLite takes the VFS");
    let database = meta.connect(false).expect("the store is whole");
    change(&database);
    drop(database);
    *files = dir.files();
}

fn change_row(database: &rusqlite::Connection, input: &mut Input<'_>) -> rusqlite::Result<()> {
    let (table, keys, columns) = TABLES[input.byte() as usize % TABLES.len()];
    let column = columns[input.byte() as usize % columns.len()];
    let row = i64::from(input.byte());
    let keys = keys.join(", ");
    let found = format!("(SELECT {keys} FROM {table} LIMIT 1 OFFSET ?1 % (SELECT count(*) FROM {table}))");
    let place = format!("WHERE ({keys}) = {found}");
    let value = match input.byte() % 8 {
        0 => {
            database.execute(&format!("DELETE FROM {table} {place}"), [row])?;
            return Ok(());
        }
        1 => Value::Null,
        2 => Value::Integer(NUMBERS[input.byte() as usize % NUMBERS.len()]),
        3 => Value::Integer(input.number(8) as i64),
        4 => Value::Integer(i64::from(input.byte() as i8)),
        5 => {
            let len = input.byte() as usize;
            Value::Blob(input.bytes(len).to_vec())
        }
        6 => {
            let len = input.byte() as usize;
            Value::Text(String::from_utf8_lossy(input.bytes(len)).into_owned())
        }
        _ => {
            let old = database
                .query_row(&format!("SELECT {column} FROM {table} {place}"), [row], |row| row.get(0))?;
            match old {
                Value::Integer(old) => Value::Integer(old.wrapping_add(i64::from(input.byte() as i8))),
                Value::Blob(mut old) => {
                    let count = (input.byte() % 4) as usize * 4 + 4;
                    Input::new(input.bytes(count)).edit(&mut old);
                    Value::Blob(old)
                }
                other => other,
            }
        }
    };
    database.execute(&format!("UPDATE OR REPLACE {table} SET {column} = ?2 {place}"), (row, value))?;
    Ok(())
}

//! What the fuzz targets do (`fuzz/`), with bytes that are the same in every run: so that the targets keep up with the
//! code, and as far as that goes, its first lines of defence. `scripts/fuzz` looks further.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use crate::support::pattern;

/// Runs a target with `count` inputs of different lengths.
fn feed(count: u64, run: impl Fn(&[u8])) {
    for i in 0..count {
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
fn chunk_maps_take_any_bytes() {
    feed(20_000, targets::chunk_map::run);
}

#[test]
fn damaged_segments_give_what_was_written_or_nothing() {
    feed(100, targets::seal_page::run);
}

#[test]
fn damaged_databases_are_errors() {
    feed(300, |data| {
        // Every kind of damage, to a closed and to a crashed store.
        for mode in [0, 1, 2, 3, 4, 5, 0x84] {
            targets::database::run(&[&[mode], data].concat());
        }
    });
}

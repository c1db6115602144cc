//! The header of a segment: any bytes, and any fields with a checksum that fits them.

use larder::store::{HeaderState, SEGMENT_HEADER_BYTES, SegmentHeader, StoreId};
use xxhash_rust::xxh3::xxh3_128;

pub fn run(data: &[u8]) {
    let header = SegmentHeader { store: StoreId(7), segment: 3, key_epoch: 0 };
    let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
    let count = data.len().min(bytes.len());
    bytes[..count].copy_from_slice(&data[..count]);
    verify(&header, &bytes);
    let sum = xxh3_128(&bytes[..64]).to_le_bytes();
    bytes[64..80].copy_from_slice(&sum);
    verify(&header, &bytes);
}

fn verify(header: &SegmentHeader, bytes: &[u8; SEGMENT_HEADER_BYTES]) {
    assert_eq!(header.verify(bytes) == HeaderState::Good, *bytes == header.encode());
}

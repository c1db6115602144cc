//! Objects of a remote: any bytes, and any body behind a head and a checksum that fit it, as the owner of a plain store's remote can make
//! them.

use super::Input;
use bytes::Bytes;
use larder::crypto::Keys;
use larder::remote::{
    LeaseKind, ObjectSeal, PartRef, PieceHash, RemoteSealer, names, open_header, open_store_object,
    part_range, split_blocks,
};
use larder::store::{BlockAddr, StoreId};
use xxhash_rust::xxh3::xxh3_128;

const STORE: StoreId = StoreId(7);

pub fn run(data: &[u8]) {
    open_all(&Bytes::copy_from_slice(data), 0);
    let mut input = Input::new(data);
    let (kind, number, body) = (input.byte() % 8, input.number(2), input.rest());
    open_all(&object(kind, number, body), number);
    blocks(body);
}

/// An object whose checksum fits.
fn object(kind: u8, number: u64, body: &[u8]) -> Bytes {
    let mut out = b"LARDREM\0".to_vec();
    out.extend(1u32.to_le_bytes());
    out.extend([kind, 0, 0, 0]);
    out.extend(STORE.0.to_be_bytes());
    out.extend(number.to_le_bytes());
    out.extend((body.len() as u64).to_le_bytes());
    let seal = xxh3_128(&[&out, body].concat()).to_le_bytes();
    out.extend([0; 32]);
    out.extend(seal);
    out.extend(body);
    out.into()
}

fn open_all(bytes: &Bytes, number: u64) {
    let sealer = RemoteSealer::new(STORE, &Keys::Plain, "file:///fuzz");
    if let Ok(record) = sealer.open_record(number, bytes.clone()) {
        // What was understood can be written, and is understood again.
        let sealed = sealer.seal_record(number, &record.head, &record.contents).expect("it is plain");
        let again = sealer.open_record(number, sealed.bytes).expect("it was just made");
        assert_eq!((again.head, again.contents), (record.head, record.contents));
    }
    let body = bytes.get(96..).unwrap_or_default();
    let hash: PieceHash = sealer.piece_hash(body);
    if let Ok(piece) = sealer.open_piece(&hash, bytes.clone()) {
        assert_eq!(piece.to_body(), body);
    }
    let seal: ObjectSeal = bytes.get(80..96).and_then(|seal| seal.first_chunk()).copied().unwrap_or_default();
    let part = PartRef { segment: number, first: 0, count: 1, random: 0, key_epoch: 0, seal };
    let _ = sealer.open_part(&part, bytes.clone());
    if let Ok(alive) = sealer.open_alive(&names::alive(larder::remote::OwnerId(0), 0), bytes.clone()) {
        assert!(matches!(alive.lease, LeaseKind::None | LeaseKind::Strict));
    }
    let _ = open_store_object("file:///fuzz", bytes);
    let _ = open_header("file:///fuzz", STORE, number, bytes);
    // Nothing that is not encrypted is taken for something of an encrypted store; there are no keys here to try more.
}

fn blocks(body: &[u8]) {
    let mut input = Input::new(body);
    let start = BlockAddr { segment: input.number(8), index: input.number(4) as u32 };
    let bytes = Bytes::copy_from_slice(input.rest());
    assert!(split_blocks(start, &bytes).len() <= bytes.len() / 4112);
    let part =
        PartRef { segment: 1, first: start.index, count: u32::MAX, random: 0, key_epoch: 0, seal: [0; 16] };
    let range = part_range(&part, start.index.wrapping_add(1), 3);
    assert!(range.start <= range.end);
}

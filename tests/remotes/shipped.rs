//! A store in a remote, as somebody would ship it who has one.

use super::sealed::{STORE, keyring, owner, sealer};
use crate::support::scratch;
use larder::backing::OsDir;
use larder::crypto::Keys;
use larder::remote::{
    Clock, Commit, Contents, HeaderRef, Image, LeaseKind, LiveBlocks, Log, Objects, PartRef, Piece, PieceRef,
    Seen, Steal, StoreObject, claim, names, put_header,
};
use larder::store::{BlockAddr, Header, Sealer};
use std::sync::Arc;

/// Ships two parts and an image in 4 records.
pub fn ship(objects: &Arc<dyn Objects>, keys: &Keys, clock: &dyn Clock) -> (Log, Vec<PartRef>) {
    let own = scratch();
    let keyring = keys.is_encrypted().then(|| keyring().0);
    Header::new(STORE, 5, keyring).create(&OsDir::new(own.path())).unwrap();
    let json = std::fs::read(own.path().join("header.json")).unwrap();
    let header = put_header(&**objects, &sealer(STORE, keys, &**objects), 1, &json).unwrap();
    ship_with(objects, keys, header, clock)
}

/// The same, with this version of the header.
pub fn ship_with(
    objects: &Arc<dyn Objects>,
    keys: &Keys,
    header: HeaderRef,
    clock: &dyn Clock,
) -> (Log, Vec<PartRef>) {
    let header = Some(header);
    let sealer = sealer(STORE, keys, &**objects);
    let store = StoreObject::new(STORE, 1_700_000_000, keys.is_encrypted());
    objects.put_new(names::STORE, sealer.seal_store(&store).unwrap().bytes).unwrap();
    let me = owner("a", LeaseKind::None);
    let mut log = Log::open(Arc::clone(objects), sealer.clone(), Seen::Nothing).unwrap();
    claim(&mut log, &me, Steal::No, clock, &mut |_| true).unwrap();
    let parts: Vec<PartRef> = (1..=2).map(|segment| put_part(&**objects, &sealer, keys, segment)).collect();
    let mut append = |contents| {
        log.append(&me, contents, header, clock.wall()).unwrap();
    };
    append(Contents::Commit(Box::new(Commit { parts: vec![parts[0]], ..Commit::default() })));
    let live = LiveBlocks { part: parts[0], from: 3, count: 5 };
    let table = Piece::Parts(vec![live]).to_body();
    let hash = sealer.piece_hash(&table);
    objects.put_new(&names::piece(&hash), sealer.seal_piece(&table).unwrap().bytes).unwrap();
    let tables = vec![PieceRef { index: 0, hash, bytes: table.len() as u32 }];
    append(Contents::Image(Box::new(Image { tables, ..Image::default() })));
    append(Contents::Commit(Box::new(Commit { parts: vec![parts[1]], ..Commit::default() })));
    (log, parts)
}

/// A part with blocks 3 to 7 of a segment.
fn put_part(
    objects: &dyn Objects,
    sealer: &larder::remote::RemoteSealer,
    keys: &Keys,
    segment: u64,
) -> PartRef {
    let key_epoch = keys.is_encrypted().into();
    let mut part = PartRef { segment, first: 3, count: 5, random: segment, key_epoch, seal: [0; 16] };
    let head = sealer.seal_part(&part).unwrap();
    part.seal = head.seal;
    let mut bytes = head.bytes.to_vec();
    for index in 3..8 {
        let mut stored = vec![index as u8; 4096];
        let seal = match keys.newest() {
            Some(keys) => keys.seal_block(segment, index, &[index as u8; 4096], &mut stored).unwrap(),
            None => Sealer::Checksum.checksum(BlockAddr { segment, index }, &stored).unwrap(),
        };
        bytes.extend(seal);
        bytes.extend(stored);
    }
    objects.put_new(&names::part(&part), bytes.into()).unwrap();
    part
}

//! What is in a remote's objects: as it was written, or an error, whatever somebody has done to the bytes.

use crate::support::pattern;
use bytes::Bytes;
use larder::crypto::{Keyring, Keys, Secret};
use larder::remote::{
    Alive, Blocks, Claim, Commit, Contents, HeaderRef, Image, InRecord, LeaseKind, Life, LiveBlocks,
    ObjectSeal, Objects, Owner, OwnerId, PART_BLOCKS_AT, Page, PartRef, Piece, PieceRef, Record, RecordHead,
    RedoTail, RemoteError, RemoteSealer, Result, SegmentState, StoreObject, When, names, open_header,
    open_store_object, part_range, split_blocks,
};
use larder::store::{BlockAddr, Header, Run, StoreId};

pub const STORE: StoreId = StoreId(0x1234_5678_9abc_def0_1122_3344_5566_7788);

/// What opens [`keyring`].
pub const KEY_FILE: [u8; 32] = [1; 32];

/// The key slots of an encrypted store, and its keys.
pub fn keyring() -> (Keyring, Keys) {
    let (id, secret) = (STORE.0.to_be_bytes(), Secret::KeyFile(KEY_FILE.to_vec().into()));
    let keyring = Keyring::create(&id, std::slice::from_ref(&secret), None).unwrap();
    let unlocked = keyring.unlock(&id, &secret).unwrap();
    let keys = Keys::new(keyring.subkeys(&id, &unlocked).unwrap()).unwrap();
    (keyring, keys)
}

/// The keys of an encrypted store.
pub fn keys() -> Keys {
    keyring().1
}

pub fn sealer(store: StoreId, keys: &Keys, objects: &dyn Objects) -> RemoteSealer {
    RemoteSealer::new(store, keys, objects.place())
}

pub fn owner(host: &str, lease: LeaseKind) -> Owner {
    Owner { id: OwnerId::random().unwrap(), host: host.into(), lease }
}

fn page(salt: u64) -> Bytes {
    pattern(4048, salt).into()
}

pub fn part() -> PartRef {
    PartRef { segment: 7, first: 256, count: 3, random: 0xabcd, key_epoch: 0, seal: [0; 16] }
}

/// A commit with something of each kind in it.
pub fn commit() -> Commit {
    let start = BlockAddr { segment: 9, index: 5 };
    Commit {
        pages: 300,
        page_bytes: 4048,
        redo_epoch: 17,
        changed: vec![Page { number: 1, contents: page(1) }, Page { number: 300, contents: page(2) }],
        pieces: vec![PieceRef { index: 1, hash: hash(3), bytes: 1000 }],
        segments: vec![
            SegmentState { segment: 9, tail: 7, key_epoch: 1 },
            SegmentState { segment: 3, tail: 0, key_epoch: 1 },
        ],
        blocks: vec![Blocks { start, seals: vec![[1; 16], [2; 16]], stored: pattern(8192, 4).into() }],
        parts: vec![part()],
        freed: vec![Run::new(start, 2)],
        redo: vec![RedoTail { epoch: 4, offset: 4096, bytes: pattern(300, 5).into() }],
    }
}

fn hash(salt: u64) -> larder::remote::PieceHash {
    larder::remote::PieceHash(*pattern(32, salt).first_chunk().unwrap())
}

pub fn head(number: u64, contents: &Contents) -> RecordHead {
    RecordHead {
        before: [9; 16],
        owner: OwnerId(77),
        nonce: [3; 16],
        time: When { seconds: 1_700_000_000, nanoseconds: 5 },
        claim: match contents {
            Contents::Claim(_) => number,
            Contents::Goodbye => 0,
            _ => 1,
        },
        image: if matches!(contents, Contents::Image(_)) { number } else { 2 },
        header: HeaderRef { number: 1, hash: [8; 32] },
    }
}

pub fn all_contents() -> [Contents; 4] {
    let claim = Claim {
        host: "näme".into(),
        lease: LeaseKind::Strict,
        from: Some(OwnerId(5)),
        before: 1,
        sign: 4,
        features: vec!["remote-1".into()],
    };
    let image = Image {
        pages: 257,
        database: vec![
            PieceRef { index: 0, hash: hash(1), bytes: 9 },
            PieceRef { index: 1, hash: hash(2), bytes: 8 },
        ],
        tables: vec![PieceRef { index: 0, hash: hash(3), bytes: 7 }],
        redo_epoch: 12,
    };
    [
        Contents::Claim(claim),
        Contents::Commit(Box::new(commit())),
        Contents::Goodbye,
        Contents::Image(Box::new(image)),
    ]
}

fn pieces() -> [Piece; 4] {
    [
        Piece::Pages { first: 257, page_bytes: 4080, contents: pattern(3 * 4080, 6).into() },
        Piece::Segments(vec![SegmentState { segment: 1, tail: 2, key_epoch: 0 }]),
        Piece::Parts(vec![
            LiveBlocks { part: part(), from: 256, count: 3 },
            LiveBlocks { part: PartRef { random: 1, ..part() }, from: 257, count: 1 },
        ]),
        Piece::InRecords(vec![InRecord {
            record: 5,
            blocks: Run::new(BlockAddr { segment: 1, index: 0 }, 4),
            key_epoch: 3,
        }]),
    ]
}

fn both() -> [RemoteSealer; 2] {
    [Keys::Plain, keys()].map(|keys| RemoteSealer::new(STORE, &keys, "s3://b"))
}

/// Opens what one of these made, whatever it is; a text of what it says.
type Opener<'a> = Box<dyn Fn(Bytes) -> Result<String> + 'a>;

/// Every kind of object, with who opens it.
fn every_object(sealer: &RemoteSealer) -> Vec<(Bytes, ObjectSeal, Opener<'_>)> {
    let mut all: Vec<(Bytes, ObjectSeal, Opener<'_>)> = Vec::new();
    for contents in all_contents() {
        let sealed = sealer.seal_record(6, &head(6, &contents), &contents).unwrap();
        let expected = Record { number: 6, seal: sealed.seal, head: head(6, &contents), contents };
        assert_eq!(sealer.open_record(6, sealed.bytes.clone()).unwrap(), expected);
        all.push((
            sealed.bytes,
            sealed.seal,
            Box::new(|bytes| sealer.open_record(6, bytes).map(|r| format!("{r:?}"))),
        ));
    }
    for piece in pieces() {
        let body = piece.to_body();
        let (name, sealed) = (sealer.piece_hash(&body), sealer.seal_piece(&body).unwrap());
        assert_eq!(sealer.open_piece(&name, sealed.bytes.clone()).unwrap(), piece);
        all.push((
            sealed.bytes,
            sealed.seal,
            Box::new(move |bytes| sealer.open_piece(&name, bytes).map(|p| format!("{p:?}"))),
        ));
    }
    let sealed = sealer.seal_part(&part()).unwrap();
    let named = PartRef { seal: sealed.seal, ..part() };
    assert_eq!(sealed.bytes.len() as u64, PART_BLOCKS_AT);
    all.push((
        sealed.bytes,
        sealed.seal,
        Box::new(move |bytes| sealer.open_part(&named, bytes).map(|()| "part".into())),
    ));
    let alive = Alive {
        owner: OwnerId(5),
        sign: 6,
        counter: 7,
        lease: LeaseKind::Strict,
        period: 10,
        life: Life::Over,
    };
    let sealed = sealer.seal_alive(&alive).unwrap();
    all.push((
        sealed.bytes,
        sealed.seal,
        Box::new(move |bytes| {
            let opened = sealer.open_alive(&names::alive(OwnerId(5), 6), bytes)?;
            assert_eq!(opened, alive);
            Ok("alive".into())
        }),
    ));
    let store = StoreObject::new(STORE, 1_700_000_000, sealer.keys().is_encrypted());
    let sealed = sealer.seal_store(&store).unwrap();
    all.push((
        sealed.bytes,
        sealed.seal,
        Box::new(move |bytes| {
            assert_eq!(open_store_object("s3://b", &bytes)?, store);
            Ok("store".into())
        }),
    ));
    let tmp = tempfile::tempdir().unwrap();
    let dir = larder::backing::OsDir::new(tmp.path());
    let header = Header::new(STORE, 5, None);
    header.create(&dir).unwrap();
    let json = std::fs::read(tmp.path().join("header.json")).unwrap();
    let sealed = sealer.seal_header(3, &json).unwrap();
    all.push((
        sealed.bytes,
        sealed.seal,
        Box::new(move |bytes| {
            let (found, opened) = open_header("s3://b", STORE, 3, &bytes)?;
            assert!(found == json && opened == header);
            Ok("header".into())
        }),
    ));
    all
}

#[test]
fn what_was_sealed_opens_and_nothing_else_does() {
    for sealer in both() {
        for (bytes, seal, open) in every_object(&sealer) {
            let whole = open(bytes.clone()).unwrap();
            assert_eq!(bytes[80..96], seal);
            for cut in (0..bytes.len()).step_by(1 + bytes.len() / 300) {
                assert!(
                    matches!(open(bytes.slice(..cut)), Err(RemoteError::Damaged { .. })),
                    "{whole} cut at {cut}"
                );
            }
            for bit in (0..bytes.len() * 8).step_by(1 + bytes.len() / 100) {
                let mut bad = bytes.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                let opened = open(bad.into());
                assert!(
                    matches!(opened, Err(RemoteError::Damaged { .. } | RemoteError::Newer { .. })),
                    "bit {bit}: {opened:?}"
                );
            }
            let longer = [&bytes[..], b"x"].concat();
            // Behind the head of a part there is more.
            assert!(open(longer.into()).is_err() || whole == "part");
        }
    }
}

/// Every object is what it is only at its own place, in its own store, and as encrypted as the store is.
#[test]
fn an_object_at_the_place_of_another_is_found_out() {
    for sealer in both() {
        let all = every_object(&sealer);
        for (i, (bytes, ..)) in all.iter().enumerate() {
            for (j, (.., open)) in all.iter().enumerate() {
                // All records here are record 6.
                let same = i == j || i < 4 && j < 4;
                assert_eq!(open(bytes.clone()).is_ok(), same, "{i} as {j}");
            }
        }
        let contents = Contents::Goodbye;
        let sealed = sealer.seal_record(6, &head(6, &contents), &contents).unwrap().bytes;
        assert!(sealer.open_record(7, sealed.clone()).unwrap_err().to_string().contains("it is record 6"));
        let other = RemoteSealer::new(StoreId(5), sealer.keys(), "s3://b");
        assert!(other.open_record(6, sealed.clone()).unwrap_err().to_string().contains("of the store"));
        for another in both() {
            assert_eq!(
                another.open_record(6, sealed.clone()).is_ok(),
                !another.keys().is_encrypted() && !sealer.keys().is_encrypted()
            );
        }
    }
}

#[test]
fn what_is_encrypted_shows_nothing_and_never_the_same() {
    let [plain, encrypted] = both();
    let contents = Contents::Commit(Box::new(commit()));
    let seal = |sealer: &RemoteSealer| sealer.seal_record(6, &head(6, &contents), &contents).unwrap().bytes;
    let shows = |bytes: &Bytes| bytes.windows(100).any(|window| window == &page(1)[..100]);
    assert!(shows(&seal(&plain)) && !shows(&seal(&encrypted)));
    assert_eq!(seal(&plain), seal(&plain));
    assert_ne!(seal(&encrypted), seal(&encrypted));
    // Lengths tell less.
    assert_eq!(seal(&encrypted).len() % 256, 96);
    // Names of pieces are a secret's, and the same for the same contents.
    let body = pieces()[0].to_body();
    assert_ne!(plain.piece_hash(&body), encrypted.piece_hash(&body));
    assert_eq!(encrypted.piece_hash(&body), encrypted.piece_hash(&body));
}

#[test]
fn a_newer_format_is_not_called_damage() {
    let [sealer, _] = both();
    let mut store = StoreObject::new(STORE, 1, false);
    store.features.push("remote-9".into());
    let newer = open_store_object("s3://b", &sealer.seal_store(&store).unwrap().bytes);
    assert!(matches!(&newer, Err(RemoteError::Newer { what, .. }) if what.contains("remote-9")), "{newer:?}");
    let contents = Contents::Claim(Claim {
        host: "a".into(),
        lease: LeaseKind::None,
        from: None,
        before: 0,
        sign: 0,
        features: vec!["x".into()],
    });
    let sealed = sealer.seal_record(6, &head(6, &contents), &contents).unwrap().bytes;
    assert!(matches!(sealer.open_record(6, sealed.clone()), Err(RemoteError::Newer { .. })));
    let mut version = sealed.to_vec();
    version[8] = 2;
    let newer = sealer.open_record(6, version.into());
    assert!(
        matches!(&newer, Err(RemoteError::Newer { what, .. }) if what.contains("version 2")),
        "{newer:?}"
    );
}

#[test]
fn blocks_of_a_part_are_where_they_are_said_to_be() {
    let (mut bytes, named) = (vec![0; 128], part());
    for i in 0..3u8 {
        bytes.extend([i; 16]);
        bytes.extend([i + 100; 4096]);
    }
    assert_eq!(bytes.len() as u64, larder::remote::part_bytes(3));
    let bytes = Bytes::from(bytes);
    let range = part_range(&named, 257, 2);
    let start = BlockAddr { segment: 7, index: 257 };
    let blocks = split_blocks(start, &bytes.slice(range.start as usize..range.end as usize));
    assert_eq!(blocks.len(), 2);
    for (i, block) in blocks.iter().enumerate() {
        let expected = i as u8 + 1;
        assert_eq!((block.addr, block.seal), (start.plus(i as u32), [expected; 16]));
        assert!(block.stored.len() == 4096 && block.stored.iter().all(|b| *b == expected + 100));
    }
    // What is cut off is not there.
    assert_eq!(split_blocks(start, &bytes.slice(128..128 + 4111)).len(), 0);
    assert_eq!(split_blocks(BlockAddr { segment: 7, index: u32::MAX }, &bytes.slice(128..)).len(), 1);
    assert_eq!(names::part(&named), "data/0000000000000007/0100-0003-000000000000abcd");
}

/// A reader is asked for no more memory than there are bytes, whatever they say.
#[test]
fn counts_that_nothing_holds_are_refused() {
    let [sealer, _] = both();
    let contents = Contents::Commit(Box::default());
    let body_at = 96 + 16 + 16 + 16 + 12 + 8 + 8 + 40 + 1;
    for list in 0..7 {
        let sealed = sealer.seal_record(6, &head(6, &contents), &contents).unwrap().bytes;
        let mut bad = sealed.to_vec();
        let at = body_at + 16 + list * 4;
        bad[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        // As somebody would who can make seals: the owner of a plain store's remote.
        let resealed = reseal(&bad);
        let opened = sealer.open_record(6, resealed);
        assert!(
            matches!(&opened, Err(RemoteError::Damaged { what, .. }) if what.contains("longer than what holds it")),
            "{list}: {opened:?}"
        );
    }
}

/// Gives a plain object the checksum of what is in it.
pub fn reseal(object: &[u8]) -> Bytes {
    let mut out = object.to_vec();
    let sum = xxhash_rust::xxh3::xxh3_128(&[&object[..48], &object[96..]].concat());
    out[80..96].copy_from_slice(&sum.to_le_bytes());
    out.into()
}

/// For each object of a plain store, its kind, its number (2 bytes), and its body.
pub fn bodies() -> Vec<Vec<u8>> {
    let [plain, _] = both();
    every_object(&plain)
        .iter()
        .map(|(bytes, ..)| [&bytes[12..13], &bytes[32..34], &bytes[96..]].concat())
        .collect()
}

//! Looking at every byte of a store for the keys that it was sealed with, and trying keys on all of it.

use larder::backing::{Dir, OpenMode, read_padded};
use larder::crypto::{EpochKeys, Keys};
use larder::store::{
    BLOCK_BYTES, Header, SEAL_BYTES, SEGMENT_BLOCKS, data_offset, seal_offset, segment_len, segment_of_name,
};

const ENVELOPE: usize = 48;
const PAGE: usize = 4096;
/// The header and each frame of the WAL, with their envelopes.
const WAL_HEADER: usize = 32 + ENVELOPE;
const FRAME: usize = 24 + PAGE + ENVELOPE;
/// Records of the redo log begin at multiples of this.
const RECORD_STEP: usize = 256;

/// Something sealed, and how it says which keys it was sealed with.
pub enum Sealed<'a> {
    /// A page or a frame: its bytes with the envelope, and what is bound to it.
    Metadata { bytes: &'a [u8], aad: Vec<u8> },
    /// A block with its seal.
    Block { segment: u64, index: u32, epoch: u32, block: &'a [u8], seal: &'a [u8] },
    /// What may be a record of the redo log.
    Record { bytes: &'a [u8] },
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().unwrap())
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

impl Sealed<'_> {
    /// The key epoch that it names.
    pub fn epoch(&self) -> u32 {
        match self {
            Self::Metadata { bytes, .. } => word(&bytes[bytes.len() - ENVELOPE..]),
            Self::Block { epoch, .. } => *epoch,
            Self::Record { bytes } => word(&bytes[44..]),
        }
    }

    /// Whether it opens with these keys, whatever epoch it names.
    fn opens(&self, keys: &Keys, epoch: &EpochKeys) -> bool {
        match self {
            Self::Metadata { bytes, aad } => {
                let (body, envelope) = bytes.split_at(bytes.len() - ENVELOPE);
                let (mut body, mut envelope) = (body.to_vec(), envelope.to_vec());
                envelope[..4].copy_from_slice(&epoch.epoch().to_le_bytes());
                keys.open_metadata(aad, &mut body, &envelope)
            }
            Self::Block { segment, index, block, seal, .. } => {
                epoch.open_block(*segment, *index, &mut block.to_vec(), seal)
            }
            Self::Record { bytes } => {
                let length = word(&bytes[28..]) as usize;
                let Some(body) = bytes.get(48..48 + length) else { return false };
                let mut aad = bytes[16..48].to_vec();
                aad[28..].copy_from_slice(&epoch.epoch().to_le_bytes());
                let nonce = bytes[16..28].try_into().unwrap();
                // With the epoch that the record names bound to it, and with that of the keys.
                [&bytes[16..48], &aad].into_iter().any(|aad| {
                    let session = bytes[32..44].try_into().unwrap();
                    epoch.redo().open_as(session, nonce, aad, &mut body.to_vec(), &bytes[..16])
                })
            }
        }
    }
}

fn read(dir: &dyn Dir, name: &str) -> Vec<u8> {
    let Ok(file) = dir.open(name, OpenMode::Read) else { return Vec::new() };
    let mut bytes = vec![0; file.len().unwrap() as usize];
    read_padded(&*file, &mut bytes, 0).unwrap();
    bytes
}

/// Calls `each` with everything in a store that may be sealed.
pub fn each_sealed(dir: &dyn Dir, mut each: impl FnMut(&str, Sealed<'_>)) {
    let database = read(dir, "meta.db");
    for (number, bytes) in (1u64..).zip(database.chunks_exact(PAGE)).filter(|(_, page)| !is_zero(page)) {
        let aad = [b"larder page", &number.to_le_bytes()[..]].concat();
        each("meta.db", Sealed::Metadata { bytes, aad });
    }
    let wal = read(dir, "meta.db-wal");
    let slots =
        wal.get(..WAL_HEADER).into_iter().chain(wal.get(WAL_HEADER..).unwrap_or(&[]).chunks_exact(FRAME));
    for (number, bytes) in (0u64..).zip(slots).filter(|(_, slot)| !is_zero(slot)) {
        let aad = [b"larder frame", &number.to_le_bytes()[..]].concat();
        each("meta.db-wal", Sealed::Metadata { bytes, aad });
    }
    for name in ["redo.0", "redo.1"] {
        let log = read(dir, name);
        for at in (0..log.len().saturating_sub(RECORD_STEP - 1)).step_by(RECORD_STEP) {
            each(name, Sealed::Record { bytes: &log[at..] });
        }
    }
    for name in dir.list("segments").unwrap() {
        let path = format!("segments/{name}");
        let segment = segment_of_name(&name).unwrap_or_else(|| panic!("{path} is left"));
        let bytes = read(dir, &path);
        // In an open store, segments come and go after they were listed.
        if (bytes.len() as u64) < segment_len(0) {
            continue;
        }
        let epoch = word(&bytes[40..]);
        for index in (0..SEGMENT_BLOCKS).take_while(|index| segment_len(*index + 1) <= bytes.len() as u64) {
            let block = &bytes[data_offset(index) as usize..][..BLOCK_BYTES];
            let seal = &bytes[seal_offset(index) as usize..][..SEAL_BYTES];
            if !is_zero(block) {
                each(&path, Sealed::Block { segment, index, epoch, block, seal });
            }
        }
        // Also a segment without blocks says whose it is.
        let empty =
            Sealed::Block { segment, index: 0, epoch, block: &[0; BLOCK_BYTES], seal: &[0; SEAL_BYTES] };
        each(&path, empty);
    }
}

/// There is one key epoch left, and nothing names another.
#[track_caller]
pub fn must_be_one(dir: &dyn Dir) {
    let epochs = Header::read(dir).unwrap().epochs();
    assert_eq!(epochs.len(), 1, "{epochs:?}");
    let mut end_of_log = (String::new(), 0);
    each_sealed(dir, |name, sealed| {
        if let Sealed::Record { bytes } = &sealed {
            // Only what lies where a record begins is one.
            let is_next = end_of_log.0 != name || end_of_log.1 == bytes.len();
            if !is_next || is_zero(&bytes[..48]) {
                return;
            }
            end_of_log = (name.to_owned(), bytes.len() - 48 - word(&bytes[28..]) as usize);
        }
        assert_eq!(sealed.epoch(), epochs[0], "{name}");
    });
}

/// How many of the sealed things in a store open with these keys.
pub fn count_opened(dir: &dyn Dir, keys: &Keys) -> usize {
    let mut opened = 0;
    for epoch in keys.all() {
        each_sealed(dir, |_, sealed| opened += usize::from(sealed.opens(keys, &epoch)));
    }
    opened
}

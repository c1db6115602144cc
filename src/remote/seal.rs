//! Sealing a remote's objects, and opening them: the only way from bytes of the network to what they mean.

use super::bytes::{Malformed, Reader};
use super::error::{RemoteError, Result};
use super::format::{Alive, ObjectSeal, Piece, PieceHash, Record, RecordHead, StoreObject};
use super::format::{
    BEING_REMOVED, Contents, PART_BLOCKS_AT, PartRef, REMOVAL_ASKED, record_body, record_of_body,
};
use super::names;
use crate::crypto::{ENVELOPE_BYTES, EpochKeys, HashKey, Keys};
use crate::store::{Header, HeaderError, StoreId};
use bytes::{Bytes, BytesMut};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use xxhash_rust::xxh3::Xxh3;

/// Bytes before the body of an object.
pub const SEALED_HEAD_BYTES: usize = 96;
const MAGIC: [u8; 8] = *b"LARDREM\0";
const VERSION: u32 = 1;
/// Where the envelope begins: what is before it is bound to the body by it.
const ENVELOPE_AT: usize = SEALED_HEAD_BYTES - ENVELOPE_BYTES;
const TAG: std::ops::Range<usize> = SEALED_HEAD_BYTES - 16..SEALED_HEAD_BYTES;

/// Kinds of objects, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Store = 1,
    Header = 2,
    Record = 3,
    Part = 4,
    Piece = 5,
    Alive = 6,
}

impl Kind {
    /// Whether an encrypted store has it in the clear: what has to be read in order to have the keys.
    fn is_public(self) -> bool {
        matches!(self, Self::Store | Self::Header)
    }
}

/// An object as it is written, and the seal that others name it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// All of the object; of a part, its head.
    pub bytes: Bytes,
    /// Its seal.
    pub seal: ObjectSeal,
}

/// Seals and opens the objects of one store.
#[derive(Clone, Debug)]
pub struct RemoteSealer {
    store: StoreId,
    keys: Keys,
    place: Arc<str>,
    /// See [`RemoteSealer::seal_up_to`]; clones share it.
    up_to: Arc<AtomicU32>,
}

/// What an object says of itself before it is opened.
struct Opened {
    number: u64,
    seal: ObjectSeal,
    body: Bytes,
    keys: Option<Arc<EpochKeys>>,
}

fn fixed(kind: Kind, encrypted: bool, store: StoreId, number: u64, len: usize) -> [u8; ENVELOPE_AT] {
    let mut fixed = [0; ENVELOPE_AT];
    fixed[..8].copy_from_slice(&MAGIC);
    fixed[8..12].copy_from_slice(&VERSION.to_le_bytes());
    fixed[12] = kind as u8;
    fixed[13] = encrypted.into();
    fixed[16..32].copy_from_slice(&store.0.to_be_bytes());
    fixed[32..40].copy_from_slice(&number.to_le_bytes());
    fixed[40..48].copy_from_slice(&(len as u64).to_le_bytes());
    fixed
}

/// The seal of an object in its first [`SEALED_HEAD_BYTES`]; `None` where there are fewer.
pub(super) fn seal_in_head(bytes: &[u8]) -> Option<ObjectSeal> {
    bytes.get(TAG)?.first_chunk().copied()
}

/// The length of a record, by what its first [`SEALED_HEAD_BYTES`] say; `None` where they are not those of the record of this number.
pub(super) fn record_bytes(head: &[u8], number: u64) -> Option<u64> {
    let u64_at = |at: usize| head.get(at..at + 8)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let is_record = head.starts_with(&MAGIC) && head.get(12) == Some(&(Kind::Record as u8));
    let is_it = is_record && u64_at(32) == Some(number);
    u64_at(40).filter(|_| is_it)?.checked_add(SEALED_HEAD_BYTES as u64)
}

fn checksum(fixed: &[u8], body: &[u8]) -> ObjectSeal {
    let mut hash = Xxh3::new();
    hash.update(fixed);
    hash.update(body);
    hash.digest128().to_le_bytes()
}

impl RemoteSealer {
    /// The sealer of a store; `place` is the URL of its remote, for messages.
    pub fn new(store: StoreId, keys: &Keys, place: &str) -> Self {
        Self { store, keys: keys.clone(), place: place.into(), up_to: Arc::new(AtomicU32::new(u32::MAX)) }
    }

    /// The store's id.
    pub fn store(&self) -> StoreId {
        self.store
    }

    /// The keys of the store.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// URL of the remote.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// From now on, nothing is sealed with keys of later epochs than this one: the header that records name has none of them, and whoever
    /// attaches the store then would not, either. Keys come into use at any time.
    pub(super) fn seal_up_to(&self, epoch: u32) {
        self.up_to.store(epoch, Ordering::Release);
    }

    /// What seals: the newest of these keys counts.
    fn sealing(&self) -> Keys {
        let up_to = self.up_to.load(Ordering::Acquire);
        let epochs = self.keys.epochs();
        let some: Vec<u32> = epochs.iter().copied().filter(|epoch| *epoch <= up_to).collect();
        if some.is_empty() || some.len() == epochs.len() { self.keys.clone() } else { self.keys.only(&some) }
    }

    /// The epoch that objects are sealed in; 0 in a plain store.
    pub(super) fn sealing_epoch(&self) -> u32 {
        self.sealing().newest().map_or(0, |keys| keys.epoch())
    }

    fn seal(&self, kind: Kind, number: u64, body: &[u8]) -> Result<Sealed> {
        let encrypted = self.keys.is_encrypted() && !kind.is_public();
        let fixed = fixed(kind, encrypted, self.store, number, body.len());
        let mut out = Vec::with_capacity(SEALED_HEAD_BYTES + body.len());
        out.extend_from_slice(&fixed);
        out.resize(SEALED_HEAD_BYTES, 0);
        out.extend_from_slice(body);
        if encrypted {
            let sealed = self.sealing().seal_remote(&fixed, &mut out[SEALED_HEAD_BYTES..]);
            let envelope = match sealed {
                Ok(Some(envelope)) => envelope,
                Ok(None) => {
                    return Err(RemoteError::Secret { place: self.place.to_string(), encrypted: true });
                }
                Err(e) => return Err(RemoteError::host("cannot encrypt", &e.into())),
            };
            out[ENVELOPE_AT..SEALED_HEAD_BYTES].copy_from_slice(&envelope);
        } else {
            out[TAG].copy_from_slice(&checksum(&fixed, body));
        }
        let seal = out[TAG].first_chunk().copied().unwrap_or_default();
        Ok(Sealed { bytes: out.into(), seal })
    }

    fn damaged(&self, name: &str, what: impl Into<String>) -> RemoteError {
        RemoteError::damaged(&self.place, name, what)
    }

    fn understood<T>(&self, name: &str, read: std::result::Result<T, Malformed>) -> Result<T> {
        read.map_err(|Malformed(what)| self.damaged(name, what))
    }

    fn open(&self, kind: Kind, name: &str, bytes: Bytes) -> Result<Opened> {
        let opened = open_head(&self.place, kind, name, &bytes)?;
        if opened.store != self.store {
            return Err(self.damaged(name, format!("it is of the store {}", opened.store)));
        }
        let encrypted = self.keys.is_encrypted() && !kind.is_public();
        if opened.encrypted != encrypted {
            let what = if encrypted { "it is not encrypted" } else { "it is encrypted" };
            return Err(self.damaged(name, what));
        }
        if !encrypted {
            return Ok(Opened {
                number: opened.number,
                seal: opened.seal,
                body: plain(&self.place, name, &bytes)?,
                keys: None,
            });
        }
        let mut body = bytes;
        let head = body.split_to(SEALED_HEAD_BYTES).to_vec();
        // In place, where nobody else has the bytes: there can be many.
        let mut body = body.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let opened_by = self.keys.open_remote(&head[..ENVELOPE_AT], &mut body, &head[ENVELOPE_AT..]);
        let Some(keys) = opened_by else {
            return Err(self.damaged(name, "it does not decrypt with the keys of the store"));
        };
        Ok(Opened { number: opened.number, seal: opened.seal, body: body.freeze(), keys: Some(keys) })
    }

    /// The object [`names::STORE`].
    ///
    /// # Errors
    /// When the cipher refuses, as all that seal.
    pub fn seal_store(&self, store: &StoreObject) -> Result<Sealed> {
        self.seal(Kind::Store, 0, &store.to_body())
    }

    /// A version of `header.json`, as its bytes are in the file. It is readable by everybody: it has to be read to have the keys, which
    /// are wrapped in it.
    ///
    /// # Errors
    /// As [`RemoteSealer::seal_store`].
    pub fn seal_header(&self, number: u64, json: &[u8]) -> Result<Sealed> {
        self.seal(Kind::Header, number, json)
    }

    /// A record behind the one whose seal its head names.
    ///
    /// # Errors
    /// As [`RemoteSealer::seal_store`].
    pub fn seal_record(&self, number: u64, head: &RecordHead, contents: &Contents) -> Result<Sealed> {
        self.seal(Kind::Record, number, &record_body(head, contents))
    }

    /// Opens record `number`.
    ///
    /// # Errors
    /// [`RemoteError::Damaged`] or [`RemoteError::Newer`], as all that open.
    pub fn open_record(&self, number: u64, bytes: Bytes) -> Result<Record> {
        let name = names::record(number);
        let opened = self.open(Kind::Record, &name, bytes)?;
        if opened.number != number {
            return Err(self.damaged(&name, format!("it is record {}", opened.number)));
        }
        let record = self.understood(&name, record_of_body(number, opened.seal, opened.body))?;
        if let Contents::Claim(claim) = &record.contents
            && let Some(feature) = StoreObject::unknown_feature(&claim.features)
        {
            return Err(newer(&self.place, &name, feature));
        }
        Ok(record)
    }

    /// The head of a part: it is as long as [`PART_BLOCKS_AT`], and the blocks follow, each behind its seal. Its seal goes into
    /// [`PartRef::seal`].
    ///
    /// # Errors
    /// As [`RemoteSealer::seal_store`].
    pub fn seal_part(&self, part: &PartRef) -> Result<Sealed> {
        self.seal(Kind::Part, part.segment, &part.to_body())
    }

    /// Opens the head of a part and sees that it is the one of `part`.
    ///
    /// # Errors
    /// As [`RemoteSealer::open_record`].
    pub fn open_part(&self, part: &PartRef, head: Bytes) -> Result<()> {
        let name = names::part(part);
        if head.len() < PART_BLOCKS_AT as usize {
            return Err(self.damaged(&name, "it ends too early"));
        }
        let opened = self.open(Kind::Part, &name, head.slice(..PART_BLOCKS_AT as usize))?;
        let found = self.understood(&name, PartRef::from_body(opened.number, opened.seal, opened.body))?;
        if found == *part { Ok(()) } else { Err(self.damaged(&name, "it is another part")) }
    }

    /// What a piece is named by.
    pub fn piece_hash(&self, body: &[u8]) -> PieceHash {
        let named = self.sealing().newest().map(|keys| keys.remote_name(body));
        PieceHash(named.unwrap_or_else(|| self.plain_name(body)))
    }

    /// In a plain store the key is no secret: it makes names of a store its own, and equal contents with equal names hard to find.
    fn plain_name(&self, body: &[u8]) -> [u8; 32] {
        HashKey::new(&self.store.0.to_be_bytes()).hash(body)
    }

    /// A piece, from its body ([`Piece::to_body`]).
    ///
    /// # Errors
    /// As [`RemoteSealer::seal_store`].
    pub fn seal_piece(&self, body: &[u8]) -> Result<Sealed> {
        self.seal(Kind::Piece, 0, body)
    }

    /// Opens the piece of this name, which is in it what it is named by.
    ///
    /// # Errors
    /// As [`RemoteSealer::open_record`].
    pub fn open_piece(&self, hash: &PieceHash, bytes: Bytes) -> Result<Piece> {
        let name = names::piece(hash);
        let opened = self.open(Kind::Piece, &name, bytes)?;
        let found = match &opened.keys {
            Some(keys) => keys.remote_name(&opened.body),
            None => self.plain_name(&opened.body),
        };
        if found != hash.0 {
            return Err(self.damaged(&name, "it is another piece"));
        }
        self.understood(&name, Piece::from_body(opened.body))
    }

    /// A sign of life.
    ///
    /// # Errors
    /// As [`RemoteSealer::seal_store`].
    pub fn seal_alive(&self, alive: &Alive) -> Result<Sealed> {
        self.seal(Kind::Alive, alive.counter, &alive.to_body())
    }

    /// Opens the sign of life of that name.
    ///
    /// # Errors
    /// As [`RemoteSealer::open_record`].
    pub fn open_alive(&self, name: &str, bytes: Bytes) -> Result<Alive> {
        let opened = self.open(Kind::Alive, name, bytes)?;
        let alive = self.understood(name, Alive::from_body(opened.body))?;
        if names::alive(alive.owner, alive.sign) == name {
            Ok(alive)
        } else {
            Err(self.damaged(name, "it is another owner's"))
        }
    }
}

struct Head {
    store: StoreId,
    encrypted: bool,
    number: u64,
    seal: ObjectSeal,
}

fn newer(place: &str, name: &str, feature: &str) -> RemoteError {
    let what = format!("the remote needs the feature {feature:?}, which this program lacks");
    RemoteError::Newer { place: place.into(), name: name.into(), what }
}

/// Reads what stands before the body. Nothing of it is sure until the seal has opened.
fn open_head(place: &str, kind: Kind, name: &str, bytes: &Bytes) -> Result<Head> {
    let damaged = |what: &str| RemoteError::damaged(place, name, what);
    let mut from = Reader::new(bytes.clone());
    let early = |_| damaged("it ends too early");
    if from.array::<8>().map_err(early)? != MAGIC {
        return Err(damaged("it is not an object of larder's"));
    }
    let version = from.u32().map_err(early)?;
    if version > VERSION {
        let what =
            format!("it has format version {version}, and this program knows versions up to {VERSION}");
        return Err(RemoteError::Newer { place: place.into(), name: name.into(), what });
    }
    if from.u8().map_err(early)? != kind as u8 {
        return Err(damaged("it is an object of another kind"));
    }
    let encrypted = match from.u8().map_err(early)? {
        0 => false,
        1 => true,
        _ => return Err(damaged("it does not say whether it is encrypted")),
    };
    let zero = from.u16().map_err(early)?;
    let store = StoreId(u128::from_be_bytes(from.array().map_err(early)?));
    let (number, len) = (from.u64().map_err(early)?, from.u64().map_err(early)?);
    let envelope = from.bytes(ENVELOPE_BYTES).map_err(early)?;
    if version == 0 || zero != 0 || from.left() as u64 != len {
        return Err(damaged("its length is not what it says"));
    }
    let seal = envelope.last_chunk().copied().unwrap_or_default();
    Ok(Head { store, encrypted, number, seal })
}

/// The body of an object that is not encrypted, which has been through [`open_head`].
fn plain(place: &str, name: &str, bytes: &Bytes) -> Result<Bytes> {
    let body = bytes.slice(SEALED_HEAD_BYTES..);
    let rest = &bytes[ENVELOPE_AT..TAG.start];
    let fits = checksum(&bytes[..ENVELOPE_AT], &body)[..] == bytes[TAG] && rest.iter().all(|b| *b == 0);
    if fits {
        Ok(body)
    } else {
        Err(RemoteError::damaged(place, name, "its checksum does not match its contents"))
    }
}

/// Opens the object [`names::STORE`], whatever store it is of.
///
/// # Errors
/// [`RemoteError::Damaged`] or [`RemoteError::Newer`].
pub fn open_store_object(place: &str, bytes: &Bytes) -> Result<StoreObject> {
    match open_asked_store_object(place, bytes)? {
        (store, false) => Ok(store),
        (_, true) => Err(RemoteError::BeingRemoved { place: place.into() }),
    }
}

/// The same, also of a store of which somebody looks whether it may be removed; and whether it is one ([`REMOVAL_ASKED`]).
pub(super) fn open_asked_store_object(place: &str, bytes: &Bytes) -> Result<(StoreObject, bool)> {
    let head = open_head(place, Kind::Store, names::STORE, bytes)?;
    let body = plain(place, names::STORE, bytes)?;
    let read = StoreObject::from_body(head.store, body);
    let mut store = read.map_err(|Malformed(what)| RemoteError::damaged(place, names::STORE, what))?;
    let is_asked = store.features.iter().any(|name| name == REMOVAL_ASKED);
    store.features.retain(|name| name != REMOVAL_ASKED);
    match StoreObject::unknown_feature(&store.features) {
        Some(BEING_REMOVED) => Err(RemoteError::BeingRemoved { place: place.into() }),
        Some(feature) => Err(newer(place, names::STORE, feature)),
        None => Ok((store, is_asked)),
    }
}

/// Opens version `number` of the header of the store `id`: the bytes of the file, and what they say. No keys are needed.
///
/// # Errors
/// As [`open_store_object`].
pub fn open_header(place: &str, id: StoreId, number: u64, bytes: &Bytes) -> Result<(Bytes, Header)> {
    let name = names::header(number);
    let damaged = |what: String| RemoteError::damaged(place, &name, what);
    let head = open_head(place, Kind::Header, &name, bytes)?;
    let json = plain(place, &name, bytes)?;
    if head.store != id || head.number != number {
        return Err(damaged(format!("it is version {} of the header of store {}", head.number, head.store)));
    }
    let header = Header::parse(&json, Path::new("header.json")).map_err(|e| match e {
        HeaderError::Unsupported { what, .. } => {
            RemoteError::Newer { place: place.into(), name: name.clone(), what }
        }
        e => damaged(e.to_string()),
    })?;
    if header.store == id {
        Ok((json, header))
    } else {
        Err(damaged(format!("it is of the store {}", header.store)))
    }
}

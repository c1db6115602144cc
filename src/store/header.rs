//! `header.json`: what a store is, readable before anything else of it is opened.

use super::feature::Feature;
use super::id::StoreId;
use crate::backing::{Dir, OpenMode, read_padded};
use crate::crypto::{Keyring, Keys};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

/// Name of the header file in its store.
pub const HEADER_NAME: &str = "header.json";
const MAGIC: &str = "larder-store";
/// The newest format this program writes and reads.
const FORMAT_VERSION: u32 = 1;
/// Where a new header is written before it takes the place of the old one.
const NEW_NAME: &str = "header.json.new";
/// A header is a few hundred bytes; more than this is not one.
const MAX_HEADER_BYTES: u64 = 64 * 1024;

/// The header of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Identity of the store, repeated in `meta.db` and in every segment.
    pub store: StoreId,
    /// When the store was made, in seconds since 1970.
    pub created: u64,
    /// What a reader must know: [`Feature::Encryption`] exactly if there is a keyring, [`Feature::RemoteHistory`] exactly if there is a
    /// history.
    pub features: BTreeSet<Feature>,
    /// Of an encrypted store.
    pub keyring: Option<Keyring>,
    /// For how long what was needed stays in the store's remote, in seconds; `None`: as usual.
    pub history: Option<u64>,
}

/// Why a header cannot be used.
#[derive(Debug, Error)]
pub enum HeaderError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The header's path.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The bytes are not a header, or not the header that was written.
    #[error("{}: {what}", path.display())]
    Damaged {
        /// The header's path.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The store was written by a newer program, or needs a feature that this one lacks.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The header's path.
        path: PathBuf,
        /// What this program does not know.
        what: String,
    },
    /// The store is encrypted, and there are no keys.
    #[error("{}: the store is encrypted, and no secret was given to open it with", path.display())]
    Locked {
        /// The header's path.
        path: PathBuf,
    },
    /// The keys are not those of the header: it was replaced after it had been opened.
    #[error("{}: the keys of the store were changed just now; try again", path.display())]
    Stale {
        /// The header's path.
        path: PathBuf,
    },
    /// There are keys, and the store is not encrypted.
    #[error("{}: the store is not encrypted, and a secret was given to open it with", path.display())]
    NotEncrypted {
        /// The header's path.
        path: PathBuf,
    },
}

/// The file as it stands; fields in this order, the checksum over all that goes before it.
#[derive(Serialize, Deserialize)]
struct Document {
    #[serde(flatten)]
    body: Body,
    checksum: String,
}

#[derive(Serialize, Deserialize)]
struct Body {
    magic: String,
    version: u32,
    /// Names of format features a reader must know.
    features: Vec<String>,
    store: String,
    created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encryption: Option<Keyring>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    history: Option<u64>,
}

/// Only what decides whether the rest may be read at all.
#[derive(Deserialize)]
struct Preamble {
    magic: String,
    version: u32,
    #[serde(default)]
    features: Vec<String>,
}

fn checksum(body: &Body) -> Result<String, serde_json::Error> {
    Ok(format!("{:032x}", xxh3_128(&serde_json::to_vec(body)?)))
}

fn truncated(e: &serde_json::Error) -> String {
    format!("the store header is truncated or damaged ({e})")
}

/// The bytes of the header's file.
fn read_bytes(dir: &dyn Dir) -> Result<Vec<u8>, HeaderError> {
    let path = dir.path(HEADER_NAME);
    let io = |source| HeaderError::Io { path: path.clone(), source };
    let file = dir.open(HEADER_NAME, OpenMode::Read).map_err(io)?;
    let len = file.len().map_err(io)?;
    if len > MAX_HEADER_BYTES {
        let what = format!("{len} bytes is too long for a store header");
        return Err(HeaderError::Damaged { path, what });
    }
    let mut bytes = vec![0u8; len as usize];
    read_padded(&*file, &mut bytes, 0).map_err(io)?;
    Ok(bytes)
}

impl Header {
    /// The names of the features that the store in `dir` has, whether this program knows them or not. Nothing else of the header is
    /// looked at.
    ///
    /// # Errors
    /// When there is no header in which they could be found.
    pub fn feature_names(dir: &dyn Dir) -> Result<Vec<String>, HeaderError> {
        let bytes = read_bytes(dir)?;
        let damaged = |what: String| HeaderError::Damaged { path: dir.path(HEADER_NAME), what };
        let preamble: Preamble = serde_json::from_slice(&bytes).map_err(|e| damaged(truncated(&e)))?;
        Ok(preamble.features)
    }

    /// Reads and verifies the header of the store in `dir`.
    ///
    /// # Errors
    /// See [`HeaderError`]; a newer format is told from damage.
    pub fn read(dir: &dyn Dir) -> Result<Self, HeaderError> {
        Self::parse(&read_bytes(dir)?, &dir.path(HEADER_NAME))
    }

    /// Verifies the bytes of a header; `path` is what messages call it.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, HeaderError> {
        let path = path.to_path_buf();
        let damaged = |what: String| HeaderError::Damaged { path: path.clone(), what };
        let preamble: Preamble = serde_json::from_slice(bytes).map_err(|e| damaged(truncated(&e)))?;
        if preamble.magic != MAGIC {
            return Err(damaged(format!("not a store header: magic is {:?}", preamble.magic)));
        }
        if preamble.version > FORMAT_VERSION {
            return Err(HeaderError::Unsupported {
                path,
                what: format!(
                    "the store has format version {}, this program supports versions up to {FORMAT_VERSION}; use a \
                     newer larder",
                    preamble.version
                ),
            });
        }
        if let Some(feature) = preamble.features.iter().find(|name| Feature::named(name).is_none()) {
            return Err(HeaderError::Unsupported {
                path,
                what: format!(
                    "the store needs the feature {feature:?}, which this program lacks; use a newer larder"
                ),
            });
        }
        let document: Document = serde_json::from_slice(bytes).map_err(|e| damaged(truncated(&e)))?;
        let expected = checksum(&document.body).map_err(|e| damaged(e.to_string()))?;
        if document.checksum != expected {
            return Err(damaged("the checksum of the store header does not match its contents".into()));
        }
        let store = document
            .body
            .store
            .parse()
            .map_err(|()| damaged(format!("{:?} is not a store id", document.body.store)))?;
        let Body { created, encryption, history, features, .. } = document.body;
        let features: BTreeSet<Feature> = features.iter().filter_map(|name| Feature::named(name)).collect();
        if encryption.is_some() != features.contains(&Feature::Encryption) {
            return Err(damaged("the store header contradicts itself about encryption".into()));
        }
        if history.is_some() != features.contains(&Feature::RemoteHistory) {
            return Err(damaged(
                "the store header contradicts itself about the history of its remote".into(),
            ));
        }
        Ok(Self { store, created, features, keyring: encryption, history })
    }

    /// Reads and verifies the header of the store in `dir`, and gives its bytes with it, as they are in the file.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn read_with_bytes(dir: &dyn Dir) -> Result<(Self, Vec<u8>), HeaderError> {
        let bytes = read_bytes(dir)?;
        Ok((Self::parse(&bytes, &dir.path(HEADER_NAME))?, bytes))
    }

    /// The header of a new store, with all that this program gives one.
    pub fn new(store: StoreId, created: u64, keyring: Option<Keyring>) -> Self {
        let encryption = keyring.iter().map(|_| Feature::Encryption);
        let features = encryption.chain(Feature::CURRENT).collect();
        Self { store, created, features, keyring, history: None }
    }

    /// For so many seconds, what was needed stays in the store's remote; `None`: as usual. Whether that is something else than before.
    pub fn keep_history(&mut self, seconds: Option<u64>) -> bool {
        match seconds {
            Some(_) => self.features.insert(Feature::RemoteHistory),
            None => self.features.remove(&Feature::RemoteHistory),
        };
        std::mem::replace(&mut self.history, seconds) != seconds
    }

    /// The store has a remote, in which what was needed stays for so many seconds, or as usual. Whether that is new.
    pub fn has_remote(&mut self, history: Option<u64>) -> bool {
        self.features.insert(Feature::Remote) | self.keep_history(history)
    }

    /// Whether a program of an earlier version wrote the store, which has to get [`Feature::CURRENT`] before it is changed.
    pub fn is_older(&self) -> bool {
        Feature::CURRENT.iter().any(|feature| !self.features.contains(feature))
    }

    /// Adds [`Feature::CURRENT`]. Programs of earlier versions refuse the store as soon as this header is in its place.
    pub fn bring_up_to_date(&mut self) {
        self.features.extend(Feature::CURRENT);
    }

    /// The key epochs of an encrypted store, ascending.
    pub fn epochs(&self) -> Vec<u32> {
        self.keyring.as_ref().map(Keyring::epochs).unwrap_or_default()
    }

    /// Whether `keys` are those that this store has.
    ///
    /// # Errors
    /// [`HeaderError::Locked`], [`HeaderError::NotEncrypted`] or [`HeaderError::Stale`].
    pub fn check_keys(&self, dir: &dyn Dir, keys: &Keys) -> Result<(), HeaderError> {
        let path = || dir.path(HEADER_NAME);
        match (self.keyring.is_some(), keys.is_encrypted()) {
            (true, false) => Err(HeaderError::Locked { path: path() }),
            // An enemy who puts a plain store in the place of an encrypted one must not get what is written to it.
            (false, true) => Err(HeaderError::NotEncrypted { path: path() }),
            (false, false) => Ok(()),
            (true, true) => {
                let (named, there) = (self.epochs(), keys.epochs());
                // What is sealed with keys that no header holds is lost with the process.
                let fit = named.last() == there.last() && named.iter().all(|epoch| there.contains(epoch));
                if fit { Ok(()) } else { Err(HeaderError::Stale { path: path() }) }
            }
        }
    }

    /// Whether `keys` are those of this store but for the epochs that were begun last.
    pub fn lacks_newest(&self, keys: &Keys) -> bool {
        let (named, mut there) = (self.epochs(), keys.epochs());
        there.retain(|epoch| named.contains(epoch));
        !there.is_empty() && there.len() < named.len() && named.starts_with(&there)
    }

    /// Writes the header of a new store and makes it durable.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn create(&self, dir: &dyn Dir) -> Result<(), HeaderError> {
        self.write(dir, HEADER_NAME, OpenMode::CreateNew)?;
        dir.sync("").map_err(|source| HeaderError::Io { path: dir.path(HEADER_NAME), source })
    }

    /// Puts this header in the place of the one that is there: whole or not at all, whatever happens.
    ///
    /// # Errors
    /// When it cannot be written; the old one is still there then.
    pub fn replace(&self, dir: &dyn Dir) -> Result<(), HeaderError> {
        self.prepare(dir)?;
        Self::put_in_place(dir)
    }

    /// Writes this header beside the one that is there, durably, for [`Header::put_in_place`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn prepare(&self, dir: &dyn Dir) -> Result<(), HeaderError> {
        self.write(dir, NEW_NAME, OpenMode::Create)
    }

    /// Puts the header that was prepared in the place of the one that is there.
    ///
    /// # Errors
    /// As rename(2) and fsync(2).
    pub fn put_in_place(dir: &dyn Dir) -> Result<(), HeaderError> {
        dir.rename(NEW_NAME, HEADER_NAME)
            .and_then(|()| dir.sync(""))
            .map_err(|source| HeaderError::Io { path: dir.path(HEADER_NAME), source })
    }

    fn write(&self, dir: &dyn Dir, name: &str, mode: OpenMode) -> Result<(), HeaderError> {
        let path = dir.path(name);
        let io = |source| HeaderError::Io { path: path.clone(), source };
        let body = Body {
            magic: MAGIC.into(),
            version: FORMAT_VERSION,
            features: self.features.iter().map(|feature| feature.name().to_owned()).collect(),
            store: self.store.to_string(),
            created: self.created,
            encryption: self.keyring.clone(),
            history: self.history,
        };
        let json = |e: serde_json::Error| HeaderError::Damaged { path: path.clone(), what: e.to_string() };
        let checksum = checksum(&body).map_err(json)?;
        let mut text = serde_json::to_vec_pretty(&Document { body, checksum }).map_err(json)?;
        text.push(b'\n');
        let file = dir.open(name, mode).map_err(io)?;
        file.set_len(0).map_err(io)?;
        file.write_at(&[io::IoSlice::new(&text)], 0).map_err(io)?;
        file.sync().map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::OsDir;
    use crate::crypto::Secret;

    fn with_header(edit: impl FnOnce(String) -> Vec<u8>) -> Result<Header, HeaderError> {
        let tmp = tempfile::tempdir().unwrap();
        let dir = OsDir::new(tmp.path());
        Header::new(StoreId(42), 1_700_000_000, None).create(&dir).unwrap();
        let path = tmp.path().join(HEADER_NAME);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, edit(text)).unwrap();
        Header::read(&dir)
    }

    #[test]
    fn what_was_written_is_read() {
        let header = with_header(String::into_bytes).unwrap();
        assert_eq!(header, Header::new(StoreId(42), 1_700_000_000, None));
    }

    #[test]
    fn a_header_with_keys_is_replaced_whole() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = OsDir::new(tmp.path());
        let secret = Secret::KeyFile(vec![1; 32].into());
        let keyring = || Keyring::create(&[1; 16], std::slice::from_ref(&secret), None).unwrap();
        let mut header = Header::new(StoreId(42), 1, Some(keyring()));
        header.create(&dir).unwrap();
        assert_eq!(Header::read(&dir).unwrap(), header);
        // What an interrupted replacement left is longer.
        std::fs::write(tmp.path().join(NEW_NAME), vec![b'x'; 100_000]).unwrap();
        header.keyring = Some(keyring());
        header.replace(&dir).unwrap();
        assert_eq!(Header::read(&dir).unwrap(), header);
        assert!(matches!(header.check_keys(&dir, &Keys::Plain), Err(HeaderError::Locked { .. })));
        let text = std::fs::read_to_string(tmp.path().join(HEADER_NAME)).unwrap();
        std::fs::write(tmp.path().join(HEADER_NAME), text.replace("\"encryption\",", "")).unwrap();
        assert!(matches!(Header::read(&dir), Err(HeaderError::Damaged { .. })));
    }

    #[test]
    fn a_header_that_keeps_a_history_names_it_and_a_program_that_lacks_it_refuses_the_store() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = OsDir::new(tmp.path());
        let mut header = Header::new(StoreId(42), 1, None);
        header.create(&dir).unwrap();
        assert!(!header.keep_history(None) && header.keep_history(Some(7200)));
        assert!(!header.keep_history(Some(7200)));
        header.replace(&dir).unwrap();
        assert_eq!(Header::read(&dir).unwrap(), header);
        let text = std::fs::read_to_string(tmp.path().join(HEADER_NAME)).unwrap();
        assert!(text.contains("\"remote-history\"") && text.contains("\"history\": 7200"), "{text}");
        for (what, by) in [("\"remote-history\"", "\"holds\""), ("\"history\": 7200,", ""), ("7200", "7201")]
        {
            std::fs::write(tmp.path().join(HEADER_NAME), text.replace(what, by)).unwrap();
            assert!(matches!(Header::read(&dir), Err(HeaderError::Damaged { .. })), "{what}");
        }
        assert!(header.keep_history(None));
        header.replace(&dir).unwrap();
        assert_eq!(Header::read(&dir).unwrap(), Header::new(StoreId(42), 1, None));
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_found() {
        let len = {
            let mut len = 0;
            with_header(|t| {
                len = t.len();
                t.into_bytes()
            })
            .unwrap();
            len
        };
        for cut in 0..len - 1 {
            let result = with_header(|t| t.as_bytes()[..cut].to_vec());
            assert!(matches!(result, Err(HeaderError::Damaged { .. })), "cut at {cut}: {result:?}");
        }
        for at in 0..len {
            let result = with_header(|t| {
                let mut bytes = t.into_bytes();
                bytes[at] ^= 1;
                bytes
            });
            // White space between tokens carries nothing; everything else must be missed.
            if let Ok(header) = result {
                assert_eq!(header.store, StoreId(42), "bit flipped at {at}");
            }
        }
    }

    #[test]
    fn an_older_store_is_read_and_brought_up_to_date() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = OsDir::new(tmp.path());
        let mut old = Header::new(StoreId(42), 1, None);
        old.features.clear();
        old.create(&dir).unwrap();
        let mut header = Header::read(&dir).unwrap();
        assert_eq!(header, old);
        assert!(header.is_older());
        header.bring_up_to_date();
        header.replace(&dir).unwrap();
        let header = Header::read(&dir).unwrap();
        assert_eq!(header, Header::new(StoreId(42), 1, None));
        assert!(!header.is_older());
    }

    #[test]
    fn a_newer_version_and_an_unknown_feature_are_not_called_damage() {
        let newer = with_header(|t| t.replace("\"version\": 1", "\"version\": 2").into_bytes());
        assert!(matches!(&newer, Err(HeaderError::Unsupported { what, .. }) if what.contains("version 2")));
        let feature = with_header(|t| t.replace("\"metadata-limits\"", "\"x\"").into_bytes());
        assert!(matches!(&feature, Err(HeaderError::Unsupported { what, .. }) if what.contains("\"x\"")));
    }
}

//! The keys that a process has which works with an encrypted store.

use super::cipher::{Cipher, CipherError, Tag};
use super::derive::{Domain, derive};
use super::hash::{Hash, HashKey};
use super::key::{KEY_BYTES, Key};
use super::nonce::{NONCE_BYTES, Nonce};
use super::session::{ENVELOPE_BYTES, SessionKey};
use parking_lot::RwLock;
use std::io::{self, Read};
use std::sync::Arc;
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of one epoch's keys as they are passed on.
const PASSED_BYTES: usize = 4 + 3 * KEY_BYTES;
/// More epochs than any store has.
const EPOCHS_MAX: usize = 64;

/// The keys that were not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the keys of the store did not arrive whole")]
pub struct KeysError;

/// The keys of one epoch, one for each purpose: all that a server is given. The master key cannot be had from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subkeys {
    epoch: u32,
    data: Key,
    metadata: Key,
    redo: Key,
}

impl Subkeys {
    pub(super) fn derive(epoch: u32, key: &Key, store: &[u8; 16]) -> Result<Self, CipherError> {
        let derive = |domain| derive(key.bytes(), store, domain);
        Ok(Self {
            epoch,
            data: derive(Domain::Data)?,
            metadata: derive(Domain::Metadata)?,
            redo: derive(Domain::RedoLog)?,
        })
    }

    /// The number of the epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The keys as bytes, for a pipe to the process that is to use them.
    pub fn to_bytes(all: &[Self]) -> Zeroizing<Vec<u8>> {
        // Of this size from the start: growing would leave copies behind.
        let mut out = Zeroizing::new(Vec::with_capacity(all.len() * PASSED_BYTES));
        for keys in all {
            out.extend_from_slice(&keys.epoch.to_le_bytes());
            for key in [&keys.data, &keys.metadata, &keys.redo] {
                out.extend_from_slice(key.bytes());
            }
        }
        out
    }

    /// What [`Subkeys::to_bytes`] made, which may be nothing.
    ///
    /// # Errors
    /// When the bytes are no keys.
    pub fn from_bytes(bytes: &[u8]) -> Result<Vec<Self>, KeysError> {
        if !bytes.len().is_multiple_of(PASSED_BYTES) {
            return Err(KeysError);
        }
        let one = |bytes: &[u8]| {
            let mut keys =
                bytes[4..].chunks_exact(KEY_BYTES).map(|key| key.first_chunk().map(Key::from_bytes));
            Some(Self {
                epoch: u32::from_le_bytes(*bytes.first_chunk()?),
                data: keys.next()??,
                metadata: keys.next()??,
                redo: keys.next()??,
            })
        };
        bytes.chunks_exact(PASSED_BYTES).map(one).collect::<Option<_>>().ok_or(KeysError)
    }

    /// Reads keys from a pipe to its end.
    ///
    /// # Errors
    /// As read(2), or when the bytes are no keys.
    pub fn read_from(from: impl Read) -> io::Result<Vec<Self>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(EPOCHS_MAX * PASSED_BYTES));
        from.take((EPOCHS_MAX * PASSED_BYTES) as u64).read_to_end(&mut bytes)?;
        Self::from_bytes(&bytes).map_err(io::Error::other)
    }
}

/// The ciphers of one epoch.
#[derive(Debug)]
pub struct EpochKeys {
    epoch: u32,
    data: Cipher,
    metadata: SessionKey,
    redo: SessionKey,
    remote: SessionKey,
    remote_names: HashKey,
}

fn block_nonce(segment: u64, index: u32) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[..8].copy_from_slice(&segment.to_le_bytes());
    nonce[8..].copy_from_slice(&index.to_le_bytes());
    nonce
}

impl EpochKeys {
    fn new(keys: Subkeys) -> io::Result<Self> {
        let epoch = keys.epoch;
        // They follow from a key that a server has anyway, so that it needs to be given no others.
        let remote = derive(keys.metadata.bytes(), &[], Domain::Remote)?;
        let remote_names = derive(keys.metadata.bytes(), &[], Domain::RemoteNames)?;
        Ok(Self {
            epoch,
            data: Cipher::new(&keys.data)?,
            metadata: SessionKey::new(keys.metadata, epoch)?,
            redo: SessionKey::new(keys.redo, epoch)?,
            remote: SessionKey::new(remote, epoch)?,
            remote_names: HashKey::new(remote_names.bytes()),
        })
    }

    /// Its number, from 1 on.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Encrypts a block into `out`. The address is the nonce: the caller writes each address once.
    ///
    /// # Errors
    /// When the cipher refuses.
    pub fn seal_block(
        &self,
        segment: u64,
        index: u32,
        block: &[u8],
        out: &mut [u8],
    ) -> Result<Tag, CipherError> {
        self.data.seal_into(Nonce::once(block_nonce(segment, index)), &[], block, out)
    }

    /// Decrypts a block in place, if it was sealed at this address; if not, it holds zeros.
    #[must_use]
    pub fn open_block(&self, segment: u64, index: u32, block: &mut [u8], seal: &[u8]) -> bool {
        self.data.open(block_nonce(segment, index), &[], block, seal)
    }

    /// The name in a remote of something with these bytes: the same for the same bytes, and it tells nothing of them.
    pub fn remote_name(&self, bytes: &[u8]) -> Hash {
        self.remote_names.hash(bytes)
    }

    /// The key of the redo log.
    pub fn redo(&self) -> &SessionKey {
        &self.redo
    }
}

/// The keys of a store: none, or those of every epoch that something is still sealed in. Clones share them: what is added
/// to one is known to all.
#[derive(Clone, Debug, Default)]
pub enum Keys {
    /// The store is not encrypted.
    #[default]
    Plain,
    /// It is.
    Encrypted(Arc<Epochs>),
}

/// The keys of epochs, in ascending order, at least one.
#[derive(Debug)]
pub struct Epochs(RwLock<Vec<Arc<EpochKeys>>>);

fn ciphers(mut subkeys: Vec<Subkeys>) -> io::Result<Vec<Arc<EpochKeys>>> {
    subkeys.sort_by_key(|keys| keys.epoch);
    subkeys.into_iter().map(|keys| EpochKeys::new(keys).map(Arc::new)).collect()
}

impl Keys {
    /// Keys ready for use.
    ///
    /// # Errors
    /// When there are none, or the operating system has no randomness to give.
    pub fn new(subkeys: Vec<Subkeys>) -> io::Result<Self> {
        let keys = ciphers(subkeys)?;
        if keys.is_empty() {
            return Err(io::Error::other(KeysError));
        }
        Ok(Self::Encrypted(Arc::new(Epochs(RwLock::new(keys)))))
    }

    /// Whether there are keys.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Encrypted(_))
    }

    /// The keys of all epochs, in ascending order.
    pub fn all(&self) -> Vec<Arc<EpochKeys>> {
        match self {
            Self::Plain => Vec::new(),
            Self::Encrypted(epochs) => epochs.0.read().clone(),
        }
    }

    /// The numbers of all epochs, ascending.
    pub fn epochs(&self) -> Vec<u32> {
        self.all().iter().map(|keys| keys.epoch).collect()
    }

    /// The keys that new things are sealed with.
    pub fn newest(&self) -> Option<Arc<EpochKeys>> {
        match self {
            Self::Plain => None,
            Self::Encrypted(epochs) => epochs.0.read().last().cloned(),
        }
    }

    /// The keys of an epoch.
    pub fn of_epoch(&self, epoch: u64) -> Option<Arc<EpochKeys>> {
        match self {
            Self::Plain => None,
            Self::Encrypted(epochs) => {
                epochs.0.read().iter().find(|keys| u64::from(keys.epoch) == epoch).cloned()
            }
        }
    }

    /// Adds the keys of epochs that are newer than all there are: from now on, the newest seals. The caller sees to it that
    /// the store's header holds them.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn add(&self, subkeys: Vec<Subkeys>) -> io::Result<()> {
        let Self::Encrypted(epochs) = self else { return Ok(()) };
        let mut all = epochs.0.write();
        let newest = all.last().map_or(0, |keys| keys.epoch);
        let newer = subkeys.into_iter().filter(|keys| keys.epoch > newest).collect();
        all.extend(ciphers(newer)?);
        Ok(())
    }

    /// Forgets the keys of epochs that are not in `kept`.
    pub fn retain(&self, kept: &[u32]) {
        if let Self::Encrypted(epochs) = self {
            epochs.0.write().retain(|keys| kept.contains(&keys.epoch));
        }
    }

    /// Those of these epochs alone; clones do not share them.
    #[must_use]
    pub fn only(&self, epochs: &[u32]) -> Self {
        match self {
            Self::Plain => Self::Plain,
            Self::Encrypted(_) => {
                let some = self.all().into_iter().filter(|keys| epochs.contains(&keys.epoch)).collect();
                Self::Encrypted(Arc::new(Epochs(RwLock::new(some))))
            }
        }
    }

    /// Encrypts something of the metadata in place, bound to `aad`; `None` in a plain store.
    ///
    /// # Errors
    /// When the cipher refuses.
    pub fn seal_metadata(
        &self,
        aad: &[u8],
        buf: &mut [u8],
    ) -> Result<Option<[u8; ENVELOPE_BYTES]>, CipherError> {
        self.newest().map(|keys| keys.metadata.seal(aad, buf)).transpose()
    }

    /// Encrypts something of the metadata in place as it was when it got this envelope, if it did; if not, it holds zeros.
    #[must_use]
    pub fn seal_metadata_again(&self, aad: &[u8], buf: &mut [u8], envelope: &[u8]) -> bool {
        let keys = SessionKey::epoch_of(envelope).and_then(|epoch| self.of_epoch(epoch.into()));
        match keys {
            Some(keys) => keys.metadata.seal_again(aad, buf, envelope),
            None => {
                buf.fill(0);
                false
            }
        }
    }

    /// Decrypts something of the metadata in place, if it was sealed with this envelope and `aad`.
    #[must_use]
    pub fn open_metadata(&self, aad: &[u8], buf: &mut [u8], envelope: &[u8]) -> bool {
        let keys = SessionKey::epoch_of(envelope).and_then(|epoch| self.of_epoch(epoch.into()));
        match keys {
            Some(keys) => keys.metadata.open(aad, buf, envelope),
            None => {
                buf.fill(0);
                false
            }
        }
    }

    /// Encrypts an object of a remote in place, bound to `aad`; `None` in a plain store.
    ///
    /// # Errors
    /// When the cipher refuses.
    pub fn seal_remote(
        &self,
        aad: &[u8],
        buf: &mut [u8],
    ) -> Result<Option<[u8; ENVELOPE_BYTES]>, CipherError> {
        self.newest().map(|keys| keys.remote.seal(aad, buf)).transpose()
    }

    /// Decrypts an object of a remote in place, if it was sealed with this envelope and `aad`; with which keys.
    pub fn open_remote(&self, aad: &[u8], buf: &mut [u8], envelope: &[u8]) -> Option<Arc<EpochKeys>> {
        let keys = SessionKey::epoch_of(envelope).and_then(|epoch| self.of_epoch(epoch.into()))?;
        keys.remote.open(aad, buf, envelope).then_some(keys)
    }

    /// Whether an envelope says that its message was sealed with the newest keys.
    pub fn is_newest(&self, envelope: &[u8]) -> bool {
        SessionKey::epoch_of(envelope) == self.newest().map(|keys| keys.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subkeys(epoch: u32, key: u8) -> Subkeys {
        Subkeys::derive(epoch, &Key::from_bytes(&[key; 32]), &[7; 16]).unwrap()
    }

    #[test]
    fn keys_arrive_whole_or_not_at_all() {
        let all = [subkeys(1, 1), subkeys(2, 2)];
        let bytes = Subkeys::to_bytes(&all);
        assert_eq!(Subkeys::read_from(&bytes[..]).unwrap(), all);
        for cut in 0..bytes.len() {
            let read = Subkeys::from_bytes(&bytes[..cut]);
            assert_eq!(read.is_ok(), cut == 0 || cut == PASSED_BYTES, "{cut}");
        }
    }

    #[test]
    fn each_epoch_opens_what_it_sealed() {
        let old = Keys::new(vec![subkeys(1, 1)]).unwrap();
        let both = Keys::new(vec![subkeys(2, 2), subkeys(1, 1)]).unwrap();
        let mut page = [5; 64];
        let envelope = old.seal_metadata(b"x", &mut page).unwrap().unwrap();
        assert!(both.open_metadata(b"x", &mut page, &envelope) && page == [5; 64]);
        let envelope = both.seal_metadata(b"x", &mut page).unwrap().unwrap();
        assert!(!old.open_metadata(b"x", &mut page.clone(), &envelope));
        assert_eq!(both.newest().unwrap().epoch(), 2);
        let mut block = [0; 64];
        let seal = both.newest().unwrap().seal_block(3, 4, &[9; 64], &mut block).unwrap();
        assert!(!both.of_epoch(1).unwrap().open_block(3, 4, &mut block.clone(), &seal));
        assert!(!both.of_epoch(2).unwrap().open_block(4, 3, &mut block.clone(), &seal));
        assert!(both.of_epoch(2).unwrap().open_block(3, 4, &mut block, &seal) && block == [9; 64]);
    }

    #[test]
    fn keys_come_and_go_for_all_who_share_them() {
        let keys = Keys::new(vec![subkeys(1, 1)]).unwrap();
        let shared = keys.clone();
        let mut page = [5; 64];
        let old = keys.seal_metadata(b"x", &mut page).unwrap().unwrap();
        // What is known already stays as it is: its numbers count on.
        keys.add(vec![subkeys(1, 9), subkeys(3, 3), subkeys(2, 2)]).unwrap();
        assert_eq!(shared.epochs(), [1, 2, 3]);
        assert!(shared.open_metadata(b"x", &mut page, &old) && page == [5; 64]);
        let new = shared.seal_metadata(b"x", &mut page).unwrap().unwrap();
        assert!(keys.is_newest(&new) && !keys.is_newest(&old));
        keys.retain(&[3]);
        assert!(!shared.open_metadata(b"x", &mut page.clone(), &old));
        assert!(shared.open_metadata(b"x", &mut page, &new) && page == [5; 64]);
        assert_eq!(shared.epochs(), [3]);
    }
}

//! Nonces for messages that are written again and again, by processes that know nothing of each other.
//!
//! A nonce must not come back after a crash, nor when the store is brought back from a backup and used again. So it is not
//! counted on from anything on disk. Each process draws a random session, derives a key of its own from it, and numbers its
//! messages under that key from 0 on. Both are stored beside the message.

use super::cipher::{Cipher, CipherError, TAG_BYTES, Tag};
use super::derive::{Domain, derive};
use super::key::{Key, random};
use super::nonce::{NONCE_BYTES, Nonce};
use lru::LruCache;
use parking_lot::Mutex;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Random bytes in a session.
pub const SESSION_BYTES: usize = 12;
/// What names the key under which a process sealed.
pub type Session = [u8; SESSION_BYTES];

/// Bytes of an envelope: all that is needed beside the key to open a message.
///
/// ```text
/// 0 key epoch u32    4 session (12 bytes)    16 number u64    24 zero    32 tag (16 bytes)    little-endian
/// ```
/// The nonce is 4 zero bytes and the number.
pub const ENVELOPE_BYTES: usize = 48;
const TAG_AT: usize = 32;

/// Derived keys of other sessions that are kept.
const OTHERS: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// A key from which each process derives its own.
#[derive(Debug)]
pub struct SessionKey {
    key: Key,
    epoch: u32,
    session: Session,
    own: Cipher,
    next: AtomicU64,
    others: Mutex<LruCache<Session, Arc<Cipher>>>,
}

fn numbered(number: u64) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    nonce
}

impl SessionKey {
    /// The key of an epoch, with a session of this process.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub(super) fn new(key: Key, epoch: u32) -> io::Result<Self> {
        let mut session = Session::default();
        random(&mut session)?;
        let own = Cipher::new(&derive(key.bytes(), &session, Domain::Session)?)?;
        Ok(Self {
            key,
            epoch,
            session,
            own,
            next: AtomicU64::new(0),
            others: Mutex::new(LruCache::new(OTHERS)),
        })
    }

    /// This process's session, for [`SessionKey::seal_as`].
    pub fn session(&self) -> Session {
        self.session
    }

    /// The key epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Encrypts `buf` in place and returns its envelope.
    ///
    /// # Errors
    /// When the cipher refuses.
    pub fn seal(&self, aad: &[u8], buf: &mut [u8]) -> Result<[u8; ENVELOPE_BYTES], CipherError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let tag = self.own.seal(Nonce::once(numbered(number)), aad, buf)?;
        let mut envelope = [0; ENVELOPE_BYTES];
        envelope[..4].copy_from_slice(&self.epoch.to_le_bytes());
        envelope[4..16].copy_from_slice(&self.session);
        envelope[16..24].copy_from_slice(&number.to_le_bytes());
        envelope[TAG_AT..].copy_from_slice(&tag);
        Ok(envelope)
    }

    /// The key epoch that an envelope names; `None` for one that is cut off.
    pub fn epoch_of(envelope: &[u8]) -> Option<u32> {
        envelope.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// The session, the number and the tag of an envelope of this key.
    fn parts<'a>(&self, envelope: &'a [u8]) -> Option<(Session, u64, &'a [u8])> {
        let envelope: &[u8; ENVELOPE_BYTES] = envelope.try_into().ok()?;
        let session: &Session = envelope[4..16].first_chunk()?;
        let number = u64::from_le_bytes(*envelope[16..24].first_chunk()?);
        let whole = Self::epoch_of(envelope) == Some(self.epoch) && envelope[24..TAG_AT] == [0; 8];
        whole.then_some((*session, number, &envelope[TAG_AT..]))
    }

    /// Encrypts `buf` in place as it was when it got this envelope, if it did; if not, it holds zeros.
    #[must_use]
    pub fn seal_again(&self, aad: &[u8], buf: &mut [u8], envelope: &[u8]) -> bool {
        let mut again = |session: Session, number, tag| match session == self.session {
            true => Some(self.own.seal_again(numbered(number), aad, buf, tag)),
            false => Some(self.other(session).ok()?.seal_again(numbered(number), aad, buf, tag)),
        };
        let is_it = self.parts(envelope).and_then(|(session, number, tag)| again(session, number, tag));
        if is_it.is_none() {
            buf.fill(0);
        }
        is_it == Some(true)
    }

    /// Decrypts `buf` in place, if it is what was sealed with this envelope; if not, it holds zeros.
    #[must_use]
    pub fn open(&self, aad: &[u8], buf: &mut [u8], envelope: &[u8]) -> bool {
        match self.parts(envelope) {
            Some((session, number, tag)) => self.open_as(session, numbered(number), aad, buf, tag),
            None => {
                buf.fill(0);
                false
            }
        }
    }

    /// Encrypts `buf` in place under this process's session, with a nonce of the caller's. Not to be mixed with
    /// [`SessionKey::seal`] on one key.
    ///
    /// # Errors
    /// When the cipher refuses.
    pub fn seal_as(&self, nonce: Nonce, aad: &[u8], buf: &mut [u8]) -> Result<Tag, CipherError> {
        self.own.seal(nonce, aad, buf)
    }

    /// Decrypts what [`SessionKey::seal_as`] sealed in some session.
    #[must_use]
    pub fn open_as(
        &self,
        session: Session,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        buf: &mut [u8],
        tag: &[u8],
    ) -> bool {
        debug_assert_eq!(tag.len(), TAG_BYTES);
        if session == self.session {
            return self.own.open(nonce, aad, buf, tag);
        }
        match self.other(session) {
            Ok(cipher) => cipher.open(nonce, aad, buf, tag),
            Err(_) => {
                buf.fill(0);
                false
            }
        }
    }

    fn other(&self, session: Session) -> Result<Arc<Cipher>, CipherError> {
        if let Some(cipher) = self.others.lock().get(&session) {
            return Ok(Arc::clone(cipher));
        }
        let cipher = Arc::new(Cipher::new(&derive(self.key.bytes(), &session, Domain::Session)?)?);
        self.others.lock().put(session, Arc::clone(&cipher));
        Ok(cipher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(key: u8) -> SessionKey {
        SessionKey::new(Key::from_bytes(&[key; 32]), 1).unwrap()
    }

    #[test]
    fn every_process_opens_what_any_other_sealed() {
        let (one, two) = (process(1), process(1));
        assert_ne!(one.session(), two.session());
        let mut envelopes = Vec::new();
        for message in 0..100u8 {
            let mut buf = [message; 50];
            let envelope = if message % 2 == 0 { &one } else { &two }.seal(b"at", &mut buf).unwrap();
            for reader in [&one, &two, &process(1)] {
                let mut read = buf;
                assert!(reader.open(b"at", &mut read, &envelope) && read == [message; 50]);
            }
            envelopes.push((envelope[4..24].to_vec(), buf));
        }
        envelopes.sort();
        envelopes.dedup_by(|a, b| a.0 == b.0);
        assert_eq!(envelopes.len(), 100, "a nonce was used twice");
    }

    #[test]
    fn every_bit_of_an_envelope_counts() {
        let key = process(1);
        let mut sealed = [9; 50];
        let envelope = key.seal(b"at", &mut sealed).unwrap();
        for bit in 0..ENVELOPE_BYTES * 8 {
            let mut bad = envelope;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.open(b"at", &mut sealed.clone(), &bad), "bit {bit}");
        }
        assert!(!key.open(b"at", &mut sealed.clone(), &envelope[1..]));
        assert!(!key.open(b"elsewhere", &mut sealed.clone(), &envelope));
        assert!(!process(2).open(b"at", &mut sealed.clone(), &envelope));
        assert!(!key.open(b"at", &mut [0; 50], &[0; ENVELOPE_BYTES]));
    }
}

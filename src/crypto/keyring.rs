//! What the header of an encrypted store holds: key slots, and the keys of epochs.
//!
//! Any slot opens to the *master key*. The master key wraps the random key of each *epoch*, from which the keys are derived
//! that seal things. A store begins with epoch 1. Sealing under a new key begins a new epoch and keeps the old one as long
//! as something is sealed under it.

use super::derive::{Domain, derive};
use super::key::{Key, to_hex};
use super::keys::Subkeys;
use super::recovery::RecoveryKey;
use super::slot::{KEY_FILE, KdfCost, KeySlot, RECOVERY, Secret, unwrap, wrap};
use serde::{Deserialize, Serialize};
use std::io;
use thiserror::Error;

/// The cipher of the only format there is.
const CIPHER: &str = "aes-256-gcm";
/// As many slots as LUKS has: each costs half a second when a passphrase is tried.
const SLOTS_MAX: usize = 8;
const EPOCHS_MAX: usize = 64;

/// The part of a header that is about keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyring {
    /// What everything is sealed with.
    cipher: String,
    epochs: Vec<WrappedEpoch>,
    slots: Vec<KeySlot>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WrappedEpoch {
    epoch: u32,
    key: String,
}

/// What a kind of secret is called in a message.
fn called(kind: &str) -> &str {
    match kind {
        KEY_FILE => "key file",
        RECOVERY => "recovery key",
        other => other,
    }
}

/// Why keys could not be had or changed. The messages are about the store, which they call "it": whoever knows its name puts that in front.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// No slot opens with this secret.
    #[error("{0}")]
    Wrong(String),
    /// The keyring is damaged, or asks for what cannot be.
    #[error("{0}")]
    Damaged(String),
    /// What was asked for cannot be done.
    #[error("{0}")]
    Refused(String),
    /// The system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A keyring that a secret has opened: holds the master key.
#[derive(Debug)]
pub struct Unlocked {
    master: Key,
    /// The slot that opened.
    pub slot: u32,
}

fn epoch_aad(store: &[u8; 16], epoch: u32) -> Vec<u8> {
    format!("larder 1 epoch\n{}\n{epoch}", to_hex(store)).into_bytes()
}

impl Keyring {
    /// The keyring of a new store, with a slot for each secret.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn create(store: &[u8; 16], secrets: &[Secret], cost: Option<KdfCost>) -> Result<Self, KeyringError> {
        Self::create_unlocked(store, secrets, cost).map(|(keyring, _)| keyring)
    }

    /// As [`Keyring::create`], and opened already.
    ///
    /// # Errors
    /// As [`Keyring::create`].
    pub fn create_unlocked(
        store: &[u8; 16],
        secrets: &[Secret],
        cost: Option<KdfCost>,
    ) -> Result<(Self, Unlocked), KeyringError> {
        let unlocked = Unlocked { master: Key::random()?, slot: 0 };
        let with = unlocked.epochs_key(store)?;
        let key = wrap(&with, &epoch_aad(store, 1), &Key::random()?)?;
        let mut keyring =
            Self { cipher: CIPHER.into(), epochs: vec![WrappedEpoch { epoch: 1, key }], slots: Vec::new() };
        for secret in secrets {
            keyring.add(store, &unlocked, secret, cost)?;
        }
        Ok((keyring, unlocked))
    }

    /// The slots.
    pub fn slots(&self) -> &[KeySlot] {
        &self.slots
    }

    /// The epochs that it holds the keys of, ascending. More than one: what is sealed in the older ones is being sealed
    /// again in the newest.
    pub fn epochs(&self) -> Vec<u32> {
        let mut epochs: Vec<u32> = self.epochs.iter().map(|wrapped| wrapped.epoch).collect();
        epochs.sort_unstable();
        epochs
    }

    /// Begins a new epoch, with a random key; returns its number.
    ///
    /// # Errors
    /// When there are as many as there can be, or the operating system has no randomness to give.
    pub fn begin_epoch(&mut self, store: &[u8; 16], unlocked: &Unlocked) -> Result<u32, KeyringError> {
        let epoch = self.epochs().last().copied().unwrap_or(0).checked_add(1);
        let Some(epoch) = epoch.filter(|_| self.epochs.len() < EPOCHS_MAX) else {
            return Err(KeyringError::Refused(
                "too many re-encryptions are unfinished; finish them first with `larder key reencrypt`"
                    .into(),
            ));
        };
        let key = wrap(&unlocked.epochs_key(store)?, &epoch_aad(store, epoch), &Key::random()?)?;
        self.epochs.push(WrappedEpoch { epoch, key });
        Ok(epoch)
    }

    /// Forgets the keys of all epochs before `first`.
    pub fn end_epochs_before(&mut self, first: u32) {
        self.epochs.retain(|wrapped| wrapped.epoch >= first);
    }

    /// Gives the store a new master key. Only the slot that `secret` opened is left, since the others' secrets are not known;
    /// it keeps its number.
    ///
    /// # Errors
    /// When an epoch's key does not unwrap, or the operating system has no randomness to give.
    pub fn renew_master(
        &mut self,
        store: &[u8; 16],
        unlocked: &Unlocked,
        secret: &Secret,
        cost: Option<KdfCost>,
    ) -> Result<Unlocked, KeyringError> {
        let (old, new) =
            (unlocked.epochs_key(store)?, Unlocked { master: Key::random()?, slot: unlocked.slot });
        let with = new.epochs_key(store)?;
        for wrapped in &mut self.epochs {
            let aad = epoch_aad(store, wrapped.epoch);
            let key = unwrap(&old, &aad, &wrapped.key).ok_or_else(|| {
                KeyringError::Damaged(format!("the key of epoch {} is damaged", wrapped.epoch))
            })?;
            wrapped.key = wrap(&with, &aad, &key)?;
        }
        let kind = self.slots.iter().find(|slot| slot.id == unlocked.slot).map(|slot| slot.kind.clone());
        let recovery = secret.as_recovery();
        let secret = [Some(secret), recovery.as_ref()]
            .into_iter()
            .flatten()
            .find(|secret| kind.as_deref() == Some(secret.kind()))
            .ok_or_else(|| KeyringError::Refused("the secret does not open any of its key slots".into()))?;
        self.slots = vec![KeySlot::new(unlocked.slot, secret, &new.master, store, cost)?];
        Ok(new)
    }

    fn check(&self) -> Result<(), KeyringError> {
        let damaged = |what: String| Err(KeyringError::Damaged(what));
        if self.cipher != CIPHER {
            return damaged(format!("unknown cipher {:?}", self.cipher));
        }
        if self.slots.len() > SLOTS_MAX || self.epochs.len() > EPOCHS_MAX {
            return damaged(format!("{} key slots and {} epochs", self.slots.len(), self.epochs.len()));
        }
        if self.slots.is_empty() || self.epochs.is_empty() {
            return damaged("it has no key slot, or no epoch".into());
        }
        Ok(())
    }

    /// Tries a secret on every slot of its kind. A passphrase may be a recovery key too. All are tried, whichever opens.
    ///
    /// # Errors
    /// [`KeyringError::Wrong`] when none opens, or what is wrong with the slots.
    pub fn unlock(&self, store: &[u8; 16], secret: &Secret) -> Result<Unlocked, KeyringError> {
        self.unlock_except(store, secret, None)
    }

    /// As [`Keyring::unlock`], without one of the slots.
    ///
    /// # Errors
    /// As [`Keyring::unlock`].
    pub fn unlock_except(
        &self,
        store: &[u8; 16],
        secret: &Secret,
        except: Option<u32>,
    ) -> Result<Unlocked, KeyringError> {
        self.check()?;
        let recovery = secret.as_recovery();
        let mut fault = None;
        let mut unlocked = None;
        let mut tried = 0;
        for slot in self.slots.iter().filter(|slot| Some(slot.id) != except) {
            if let Some(what) = slot.fault() {
                fault = Some(what);
                continue;
            }
            let Some(secret) = [Some(secret), recovery.as_ref()]
                .into_iter()
                .flatten()
                .find(|secret| secret.kind() == slot.kind)
            else {
                continue;
            };
            tried += 1;
            if let Some(master) = slot.open(secret, store) {
                unlocked = Some(Unlocked { master, slot: slot.id });
            }
        }
        match (unlocked, fault) {
            (Some(unlocked), _) => Ok(unlocked),
            (None, Some(fault)) => Err(KeyringError::Damaged(fault)),
            (None, None) if tried == 0 => {
                let mut kinds: Vec<&str> = self.slots.iter().map(|slot| called(&slot.kind)).collect();
                kinds.sort_unstable();
                kinds.dedup();
                Err(KeyringError::Wrong(format!(
                    "it has no key slot for a {}; it has: {}",
                    called(secret.kind()),
                    kinds.join(", ")
                )))
            }
            (None, None) => Err(KeyringError::Wrong(format!(
                "the {} does not open any of its key slots",
                called(secret.kind())
            ))),
        }
    }

    /// The keys that seal things.
    ///
    /// # Errors
    /// When an epoch's key does not unwrap.
    pub fn subkeys(&self, store: &[u8; 16], unlocked: &Unlocked) -> Result<Vec<Subkeys>, KeyringError> {
        let with = unlocked.epochs_key(store)?;
        let subkeys = |wrapped: &WrappedEpoch| {
            let key = unwrap(&with, &epoch_aad(store, wrapped.epoch), &wrapped.key).ok_or_else(|| {
                KeyringError::Damaged(format!("the key of epoch {} is damaged", wrapped.epoch))
            })?;
            Ok(Subkeys::derive(wrapped.epoch, &key, store).map_err(io::Error::from)?)
        };
        self.epochs.iter().map(subkeys).collect()
    }

    /// Adds a slot; returns its number.
    ///
    /// # Errors
    /// When there are as many as there can be.
    pub fn add(
        &mut self,
        store: &[u8; 16],
        unlocked: &Unlocked,
        secret: &Secret,
        cost: Option<KdfCost>,
    ) -> Result<u32, KeyringError> {
        if self.slots.len() >= SLOTS_MAX {
            return Err(KeyringError::Refused(format!(
                "it has {SLOTS_MAX} key slots, the most there can be; remove one first"
            )));
        }
        let taken = |id: &u32| self.slots.iter().all(|slot| slot.id != *id);
        let id = (0..=SLOTS_MAX as u32).find(taken).unwrap_or(u32::MAX);
        self.slots.push(KeySlot::new(id, secret, &unlocked.master, store, cost)?);
        self.slots.sort_by_key(|slot| slot.id);
        Ok(id)
    }

    /// Removes a slot.
    ///
    /// # Errors
    /// When there is no such slot, or no other.
    pub fn remove(&mut self, id: u32) -> Result<(), KeyringError> {
        if self.slots.iter().all(|slot| slot.id != id) {
            return Err(KeyringError::Refused(format!("it has no key slot {id}")));
        }
        if self.slots.len() == 1 {
            return Err(KeyringError::Refused(format!(
                "key slot {id} is its only one, and without it nothing could ever be read again; add another with `larder key add` first"
            )));
        }
        self.slots.retain(|slot| slot.id != id);
        Ok(())
    }

    /// Replaces the slot that opened by one for another secret. It keeps its number.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn replace(
        &mut self,
        store: &[u8; 16],
        unlocked: &Unlocked,
        secret: &Secret,
        cost: Option<KdfCost>,
    ) -> Result<(), KeyringError> {
        let new = KeySlot::new(unlocked.slot, secret, &unlocked.master, store, cost)?;
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == unlocked.slot) {
            *slot = new;
        }
        Ok(())
    }

    /// A new recovery key, and the secret that it is.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn recovery_secret() -> io::Result<(RecoveryKey, Secret)> {
        let key = RecoveryKey::random()?;
        Ok((key.clone(), Secret::Recovery(key)))
    }
}

impl Unlocked {
    fn epochs_key(&self, store: &[u8; 16]) -> io::Result<Key> {
        Ok(derive(self.master.bytes(), store, Domain::Epochs)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    const STORE: [u8; 16] = [4; 16];
    const CHEAP: Option<KdfCost> = Some(KdfCost { memory_kib: 64, passes: 1, lanes: 1 });

    fn passphrase(text: &str) -> Secret {
        Secret::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
    }

    fn key_file(byte: u8) -> Secret {
        Secret::KeyFile(Zeroizing::new(vec![byte; 64]))
    }

    fn keyring() -> Keyring {
        Keyring::create(&STORE, &[passphrase("one"), key_file(1)], CHEAP).unwrap()
    }

    #[test]
    fn every_secret_leads_to_the_same_keys_and_no_other_does() {
        let mut keyring = keyring();
        let keys = |keyring: &Keyring, secret: &Secret| {
            keyring.unlock(&STORE, secret).and_then(|unlocked| keyring.subkeys(&STORE, &unlocked))
        };
        let expected = keys(&keyring, &passphrase("one")).unwrap();
        assert_eq!(keys(&keyring, &key_file(1)).unwrap(), expected);
        let unlocked = keyring.unlock(&STORE, &key_file(1)).unwrap();
        assert_eq!(unlocked.slot, 1);
        let (recovery, secret) = Keyring::recovery_secret().unwrap();
        assert_eq!(keyring.add(&STORE, &unlocked, &secret, CHEAP).unwrap(), 2);
        // It is asked for as a passphrase.
        assert_eq!(keys(&keyring, &passphrase(&recovery.text())).unwrap(), expected);
        for wrong in [passphrase("two"), passphrase(""), key_file(2)] {
            assert!(matches!(keys(&keyring, &wrong), Err(KeyringError::Wrong(_))), "{wrong:?}");
        }
        keyring.replace(&STORE, &unlocked, &key_file(3), CHEAP).unwrap();
        assert!(matches!(keys(&keyring, &key_file(1)), Err(KeyringError::Wrong(_))));
        assert_eq!(keys(&keyring, &key_file(3)).unwrap(), expected);
        // Another store's id is another store's keys.
        assert!(keyring.unlock(&[5; 16], &key_file(3)).is_err());
    }

    #[test]
    fn a_wrong_secret_costs_what_the_right_one_does() {
        let mut keyring = keyring();
        let unlocked = keyring.unlock(&STORE, &passphrase("one")).unwrap();
        for more in ["two", "three"] {
            keyring.add(&STORE, &unlocked, &passphrase(more), CHEAP).unwrap();
        }
        let work = |secret: &str| {
            let before = super::super::derive::STRETCHED.get();
            let opened = keyring.unlock(&STORE, &passphrase(secret)).is_ok();
            (super::super::derive::STRETCHED.get() - before, opened)
        };
        assert_eq!(["one", "two", "three"].map(work), [(3, true); 3]);
        assert_eq!(["four", ""].map(work), [(3, false); 2]);
    }

    #[test]
    fn the_last_slot_stays() {
        let mut keyring = keyring();
        assert!(matches!(keyring.remove(7), Err(KeyringError::Refused(_))));
        keyring.remove(0).unwrap();
        assert!(keyring.unlock(&STORE, &passphrase("one")).is_err());
        assert!(matches!(keyring.remove(1), Err(KeyringError::Refused(_))));
        let unlocked = keyring.unlock(&STORE, &key_file(1)).unwrap();
        for id in [0, 2, 3, 4, 5, 6, 7] {
            assert_eq!(keyring.add(&STORE, &unlocked, &key_file(9), None).unwrap(), id);
        }
        assert!(matches!(keyring.add(&STORE, &unlocked, &key_file(9), None), Err(KeyringError::Refused(_))));
        assert!(matches!(keyring.unlock_except(&STORE, &key_file(1), Some(1)), Err(KeyringError::Wrong(_))));
    }

    #[test]
    fn epochs_begin_and_end() {
        let mut keyring = keyring();
        let unlocked = keyring.unlock(&STORE, &key_file(1)).unwrap();
        let first = keyring.subkeys(&STORE, &unlocked).unwrap();
        assert_eq!(keyring.begin_epoch(&STORE, &unlocked).unwrap(), 2);
        let both = keyring.subkeys(&STORE, &unlocked).unwrap();
        assert!(both[0] == first[0] && both[1] != first[0]);
        keyring.end_epochs_before(2);
        assert_eq!(keyring.epochs(), [2]);
        assert_eq!(keyring.subkeys(&STORE, &unlocked).unwrap(), both[1..]);
        // Numbers are not used again.
        assert_eq!(keyring.begin_epoch(&STORE, &unlocked).unwrap(), 3);
        for _ in 2..EPOCHS_MAX {
            keyring.begin_epoch(&STORE, &unlocked).unwrap();
        }
        assert!(matches!(keyring.begin_epoch(&STORE, &unlocked), Err(KeyringError::Refused(_))));
    }

    #[test]
    fn a_new_master_key_leaves_one_slot_and_the_old_one_opens_nothing() {
        let mut keyring = keyring();
        let old = keyring.unlock(&STORE, &passphrase("one")).unwrap();
        let (recovery, secret) = Keyring::recovery_secret().unwrap();
        keyring.add(&STORE, &old, &secret, CHEAP).unwrap();
        let keys = keyring.subkeys(&STORE, &old).unwrap();
        for (secret, slot) in [(passphrase("one"), 0), (key_file(1), 1), (passphrase(&recovery.text()), 2)] {
            let mut renewed = keyring.clone();
            let unlocked = renewed.unlock(&STORE, &secret).unwrap();
            let new = renewed.renew_master(&STORE, &unlocked, &secret, CHEAP).unwrap();
            assert_eq!(renewed.subkeys(&STORE, &new).unwrap(), keys);
            assert!(matches!(renewed.subkeys(&STORE, &old), Err(KeyringError::Damaged(_))));
            assert_eq!(renewed.slots().iter().map(|slot| slot.id).collect::<Vec<_>>(), [slot]);
            assert_eq!(renewed.slots()[0].kind, keyring.slots()[slot as usize].kind);
            assert_eq!(renewed.unlock(&STORE, &secret).unwrap().slot, slot);
        }
    }

    #[test]
    fn hostile_and_damaged_slots_are_refused_before_any_work() {
        let json = serde_json::to_string(&keyring()).unwrap();
        for (from, to, says) in [
            ("\"argon2id\"", "\"scrypt\"", "unknown key derivation"),
            ("\"memory_kib\":64", "\"memory_kib\":4294967295", "no version of larder writes"),
            ("\"passes\":1", "\"passes\":4294967295", "no version of larder writes"),
            ("\"lanes\":1", "\"lanes\":0", "impossible"),
            ("\"memory_kib\":64", "\"memory_kib\":1", "impossible"),
            ("\"memory_kib\":64,", "", "missing"),
            ("\"passphrase\"", "\"fingerprint\"", "unknown kind"),
            ("\"salt\":\"", "\"salt\":\"00", "damaged"),
            ("aes-256-gcm", "rot13", "unknown cipher"),
        ] {
            let bad: Keyring = serde_json::from_str(&json.replacen(from, to, 1)).unwrap();
            match bad.unlock(&STORE, &passphrase("one")) {
                Err(KeyringError::Damaged(what)) => assert!(what.contains(says), "{what}"),
                other => panic!("{to}: {other:?}"),
            }
        }
        // The other slot opens all the same.
        let bad: Keyring = serde_json::from_str(&json.replacen("argon2id", "scrypt", 1)).unwrap();
        assert!(bad.unlock(&STORE, &key_file(1)).is_ok());
    }
}

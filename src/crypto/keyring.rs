//! What the header of an encrypted store holds: key slots, and the keys of epochs.
//!
//! Any slot opens to the *master key*. The master key wraps the random key of each *epoch*, from which the keys are derived
//! that seal things. A store begins with epoch 1. Sealing under a new key begins a new epoch and keeps the old one as long
//! as something is sealed under it.

use super::derive::{Domain, derive};
use super::key::{Key, to_hex};
use super::keys::Subkeys;
use super::recovery::RecoveryKey;
use super::slot::{KdfCost, KeySlot, Secret, unwrap, wrap};
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

/// Why keys could not be had or changed.
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
        let recovery = match secret {
            Secret::Passphrase(text) => {
                std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).map(Secret::Recovery)
            }
            _ => None,
        };
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
                let kinds: Vec<&str> = self.slots.iter().map(|slot| slot.kind.as_str()).collect();
                Err(KeyringError::Wrong(format!(
                    "no key slot takes a {}; there are: {}",
                    secret.kind(),
                    kinds.join(", ")
                )))
            }
            (None, None) => Err(KeyringError::Wrong(format!("the {} is wrong", secret.kind()))),
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
                "there are {SLOTS_MAX} key slots already; remove one first"
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
            return Err(KeyringError::Refused(format!("there is no key slot {id}")));
        }
        if self.slots.len() == 1 {
            return Err(KeyringError::Refused(format!(
                "key slot {id} is the last one: without it nothing in the store can be read again"
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
    fn hostile_and_damaged_slots_are_refused_before_any_work() {
        let json = serde_json::to_string(&keyring()).unwrap();
        for (from, to, says) in [
            ("\"argon2id\"", "\"scrypt\"", "unknown key derivation"),
            ("\"memory_kib\":64", "\"memory_kib\":4294967295", "no larder writes"),
            ("\"passes\":1", "\"passes\":4294967295", "no larder writes"),
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

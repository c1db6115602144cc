//! Asking the server of a store, or finding out here what it would say if none runs.

use super::leftover::finish_removals;
use super::look::{server_within, store_of};
use super::secret::Secrets;
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::server::Client;
use crate::store::StoreId;
use crate::volume::{Result, VolumeError};
use std::time::{Duration, Instant};

/// How long a server that is starting or ending is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long one that hangs is waited for by what cannot simply be tried again later: until it is replaced, where that can be done.
const REPLACEMENT: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(50);

/// Whom to ask, and with what to open the store if it has to be opened here.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    root: &'a Root,
    name: &'a str,
    secret: Option<&'a Secrets>,
    patience: Duration,
    /// How long the server may take to answer.
    asking: Duration,
    passes: fn(&VolumeError) -> bool,
}

impl<'a> Question<'a> {
    /// A question that changes nothing about the volume `name`, or about that of the snapshot `name`. Without `secret`, an
    /// encrypted store that no server has open is an error with the exit code `Secret`.
    pub fn reading(root: &'a Root, name: &'a str, secret: Option<&'a Secrets>) -> Self {
        // A process that is starting or ending has the store's lock, or breaks off: it will be clear in a moment which.
        let passes = |e: &VolumeError| matches!(e.exit, Exit::Busy | Exit::Failure);
        Self { root, name, secret, patience: PATIENCE, asking: PATIENCE, passes }
    }

    /// One that is to change it.
    pub fn changing(root: &'a Root, name: &'a str, secret: &'a Secrets) -> Self {
        // That something is busy is an answer here.
        let passes = |e: &VolumeError| e.exit == Exit::Failure;
        Self { root, name, secret: Some(secret), patience: PATIENCE, asking: REPLACEMENT, passes }
    }

    /// The same, with another patience with servers, be it that they start or end, or that they do not answer.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience, asking: patience, ..self }
    }

    /// Asks the server, if one runs; if not, `here` is called with the store and its keys. The secret is asked for once.
    ///
    /// # Errors
    /// `NoVolume`, `Secret`, or as the answer.
    pub fn ask<T>(
        &self,
        mut server: impl FnMut(&mut Client) -> Result<T>,
        mut here: impl FnMut(StoreId, &Keys) -> Result<T>,
    ) -> Result<T> {
        let mut known: Option<Keys> = None;
        let until = Instant::now() + self.patience;
        loop {
            let id = store_of(self.root, self.name)?;
            let answer = match server_within(self.root, id, self.asking)? {
                Some(mut client) => {
                    // Whoever says with what to open it takes it for encrypted, also where that is not needed.
                    if let Some(secret) = self.secret.filter(|secret| secret.is_given()) {
                        secret.must_fit(self.root, id, self.name)?;
                    }
                    server(&mut client)
                }
                None => {
                    let keys = match (&known, self.secret) {
                        (Some(keys), _) => keys,
                        (None, Some(secret)) => known.insert(secret.keys(self.root, id, self.name)?),
                        (None, None) => known.insert(Keys::Plain),
                    };
                    here(id, keys)
                }
            };
            match answer {
                Err(e) if (self.passes)(&e) && !e.silent && Instant::now() < until => {
                    std::thread::sleep(INTERVAL);
                }
                other => {
                    if matches!(&other, Err(e) if e.exit == Exit::NoVolume) {
                        // Perhaps the name is all there is.
                        finish_removals(self.root, id, self.name, known.as_ref().unwrap_or(&Keys::Plain));
                    }
                    return other;
                }
            }
        }
    }
}

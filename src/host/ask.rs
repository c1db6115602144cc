//! Asking the server of a store, or finding out here what it would say if none runs.

use super::leftover::finish_removals;
use super::look::{server_within, store_of, unless_gone};
use super::secret::Secrets;
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::server::Client;
use crate::store::StoreId;
use crate::volume::{Result, VolumeError};
use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

/// How long a server that is starting or ending is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a server may take to answer whoever has the root's lock: all who make or remove names wait for it.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// How long one that hangs is waited for by what cannot simply be tried again later: until it is replaced, where that can be done.
const REPLACEMENT: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(50);

/// Whom to ask, and with what to open the store if it has to be opened here. More than one thing can be asked; for the secret, somebody
/// at a terminal is asked once. A volume that gets the name between two is another one, and is not asked about.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    root: &'a Root,
    name: &'a str,
    secret: Option<&'a Secrets>,
    patience: Duration,
    /// How long the server may take to answer.
    asking: Duration,
    passes: fn(&VolumeError) -> bool,
    known: RefCell<Option<(StoreId, Keys)>>,
    store: Cell<Option<StoreId>>,
}

impl<'a> Question<'a> {
    /// A question that changes nothing about the volume `name`, or about that of the snapshot `name`. Without `secret`, an
    /// encrypted store that no server has open is an error with the exit code `Secret`.
    pub fn reading(root: &'a Root, name: &'a str, secret: Option<&'a Secrets>) -> Self {
        let (known, store) = (RefCell::default(), Cell::default());
        Self {
            root,
            name,
            secret,
            patience: PATIENCE,
            asking: PATIENCE,
            passes: starts_or_ends,
            known,
            store,
        }
    }

    /// One that is to change it.
    pub fn changing(root: &'a Root, name: &'a str, secret: &'a Secrets) -> Self {
        Self::reading(root, name, Some(secret)).to_change()
    }

    /// The same, about something that is to be changed.
    #[must_use]
    pub fn to_change(self) -> Self {
        // That something is busy is an answer here.
        let passes = |e: &VolumeError| e.exit == Exit::Failure;
        Self { asking: REPLACEMENT, passes, ..self }
    }

    /// The same, with another patience with servers, be it that they start or end, or that they do not answer.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience, asking: patience, ..self }
    }

    /// The name of the volume or snapshot.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The store that was asked first, if one was.
    pub(super) fn store(&self) -> Option<StoreId> {
        self.store.get()
    }

    /// What opens the store without asking anybody again.
    pub(super) fn secrets(&self) -> Option<Secrets> {
        self.secret.map(Secrets::only_known)
    }

    /// The root, and the name of the volume or snapshot.
    pub(super) fn volume(&self) -> (&'a Root, &'a str) {
        (self.root, self.name)
    }

    /// The store of the volume.
    ///
    /// # Errors
    /// `NoVolume`, also if the name stands for another volume than it did when this was asked first.
    pub(super) fn the_store(&self) -> Result<StoreId> {
        let id = store_of(self.root, self.name)?;
        if self.store.get().is_some_and(|first| first != id) {
            let what = format!(
                "volume {:?} was removed or renamed just now, and another one has its name; nothing was done to that",
                self.name
            );
            return Err(VolumeError::new(Exit::NoVolume, what));
        }
        self.store.set(Some(id));
        Ok(id)
    }

    /// The keys of the store, to open it here.
    fn keys(&self, id: StoreId) -> Result<Keys> {
        let Some(secret) = self.secret else { return Ok(Keys::Plain) };
        let known = self.known.borrow().clone();
        match known {
            Some((store, keys)) if store == id => Ok(keys),
            _ => {
                let keys = secret.keys(self.root, id, self.name)?;
                *self.known.borrow_mut() = Some((id, keys.clone()));
                Ok(keys)
            }
        }
    }

    /// Asks the server, if one runs; if not, `here` is called with the store and its keys.
    ///
    /// # Errors
    /// `NoVolume`, `Secret`, or as the answer.
    pub fn ask<T>(
        &self,
        mut server: impl FnMut(&mut Client) -> Result<T>,
        mut here: impl FnMut(StoreId, &Keys) -> Result<T>,
    ) -> Result<T> {
        patiently(self.patience, self.passes, || {
            let id = self.the_store()?;
            let answer = match server_within(self.root, id, self.asking)? {
                Some(mut client) => {
                    // Whoever says with what to open it takes it for encrypted, also where that is not needed.
                    if let Some(secret) = self.secret.filter(|secret| secret.is_given()) {
                        secret.must_fit(self.root, id, self.name)?;
                    }
                    server(&mut client)
                }
                None => here(id, &self.keys(id)?),
            };
            Ok(answer.map_err(|e| self.understood(id, e)))
        })
    }

    /// What an answer about store `id` means, if it is an error.
    fn understood(&self, id: StoreId, e: VolumeError) -> VolumeError {
        if e.exit == Exit::NoVolume {
            // Perhaps the name is all there is.
            let known = self.known.borrow().clone().filter(|(store, _)| *store == id);
            finish_removals(self.root, id, self.name, &known.map_or(Keys::Plain, |(_, keys)| keys));
        }
        unless_gone(self.root, id, self.name, e)
    }
}

/// A process that is starting or ending has the store's lock, or breaks off: it will be clear in a moment which.
fn starts_or_ends(e: &VolumeError) -> bool {
    matches!(e.exit, Exit::Busy | Exit::Failure)
}

/// Asks until the answer is none that `passes`, or `patience` is at its end. Whoever does not answer is not asked again; nor is anybody when
/// `once` fails to ask.
fn patiently<T>(
    patience: Duration,
    passes: impl Fn(&VolumeError) -> bool,
    mut once: impl FnMut() -> Result<Result<T>>,
) -> Result<T> {
    let until = Instant::now() + patience;
    loop {
        match once()? {
            Err(e) if passes(&e) && !e.silent && Instant::now() < until => std::thread::sleep(INTERVAL),
            answer => return answer,
        }
    }
}

/// Asks the server of a store, or does `here` what is to be done if it has none: of a volume that may have no name any more, because it is
/// in the trash. `name` is only shown.
///
/// # Errors
/// As [`Question::ask`].
pub(super) fn ask_store<T>(
    root: &Root,
    (id, name): (StoreId, &str),
    secrets: &Secrets,
    patience: Duration,
    server: impl FnMut(&mut Client) -> Result<T>,
    mut here: impl FnMut(&Keys) -> Result<T>,
) -> Result<T> {
    ask_id(root, id, patience, server, || here(&secrets.keys(root, id, name)?))
}

/// As [`ask_store`], where what is done `here` knows how to open the store.
///
/// # Errors
/// As [`ask_store`].
pub(super) fn ask_id<T>(
    root: &Root,
    id: StoreId,
    patience: Duration,
    mut server: impl FnMut(&mut Client) -> Result<T>,
    mut here: impl FnMut() -> Result<T>,
) -> Result<T> {
    patiently(patience, starts_or_ends, || {
        Ok(match server_within(root, id, patience)? {
            Some(mut client) => server(&mut client),
            None => here(),
        })
    })
}

/// Does `what`, which keeps others waiting who make or remove names, with secrets that nobody is asked for meanwhile: they are asked for before,
/// unless a server has the store open; that it answers is seen before, too. If that server ends in between, all is done once more.
///
/// # Errors
/// `Secret`, when a server does not answer, or as `what`; that must have done nothing when it fails with `Secret`.
pub(super) fn without_asking<T>(
    root: &Root,
    (id, name): (StoreId, &str),
    secrets: &Secrets,
    mut what: impl FnMut(&Secrets) -> Result<T>,
) -> Result<T> {
    let mut tries = 3;
    loop {
        open_before(root, (id, name), secrets)?;
        tries -= 1;
        match what(&secrets.only_known()) {
            Err(e) if e.exit == Exit::Secret && tries > 0 && !secrets.can_open(root, id) => {}
            other => return other,
        }
    }
}

/// Sees to it that [`Secrets::only_known`] are enough for a store, or that it has a server, which answers.
///
/// # Errors
/// `Secret`, or when its server does not answer. What else is wrong with it is found by whoever opens it.
pub(super) fn open_before(root: &Root, (id, name): (StoreId, &str), secrets: &Secrets) -> Result<()> {
    let ready = match server_within(root, id, REPLACEMENT)? {
        Some(mut client) => client.status().map(drop),
        None => secrets.keys(root, id, name).map(drop),
    };
    match ready {
        Err(e) if e.silent || e.exit == Exit::Secret => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Duration = Duration::from_millis(400);

    /// How often it is asked, and the answer, if each time it is this.
    fn asked(answer: Result<Result<u8>>) -> (u32, Result<u8>) {
        let mut times = 0;
        let last = patiently(SOME, starts_or_ends, || {
            times += 1;
            answer.clone()
        });
        (times, last)
    }

    #[test]
    fn what_passes_is_waited_for_and_nothing_else() {
        assert_eq!(asked(Ok(Ok(7))), (1, Ok(7)));
        let error = |exit| VolumeError::new(exit, "it cannot be");
        for exit in [Exit::Busy, Exit::Failure] {
            let (times, last) = asked(Ok(Err(error(exit))));
            assert!(times > 1 && last == Err(error(exit)), "{times}");
            // Whoever could not be asked is not asked again.
            assert_eq!(asked(Err(error(exit))), (1, Err(error(exit))));
        }
        assert_eq!(asked(Ok(Err(error(Exit::NoVolume)))).0, 1);
        assert_eq!(asked(Ok(Err(VolumeError::silent("it does not answer")))).0, 1);
    }
}

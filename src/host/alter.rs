//! Changing a family, whether a server has its store open or not.

use super::ask::{Question, without_asking};
use super::health::{follow, foresee};
use super::look::{look, store_of, unless_gone};
use super::mount::lift_for;
use super::policies::{bounded_by_policies, may_change_size};
use super::record::Record;
use super::secret::{Secrets, encryption_policy, must_be_encrypted};
use super::trash::vacate;
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::server::Client;
use crate::store::StoreId;
use crate::volume::{
    Alteration, Altered, Rest, Result, Target, VolumeError, alter_each_offline, alter_offline, clone_volume,
    is_encrypted, must_not_be_moment,
};
use std::cell::{Cell, RefCell};

/// Lets the server of a volume's store change its family, or does it here if there is none; then `secret` opens an encrypted one.
///
/// # Errors
/// As the change.
pub fn alter(root: &Root, name: &str, secret: &Secrets, what: &Alteration) -> Result<Altered> {
    let (altered, rest) = begin(root, name, secret, what)?;
    rest.map_or(Ok(()), Rest::finish)?;
    Ok(altered)
}

/// As [`alter`]. What takes its time and does not belong to the change is left to be done.
pub(super) fn begin(
    root: &Root,
    name: &str,
    secret: &Secrets,
    what: &Alteration,
) -> Result<(Altered, Option<Rest>)> {
    // Afterwards, the name may be gone.
    let id = store_of(root, name)?;
    if !what.is_about_names() {
        must_not_be_moment(root, id, name)?;
    }
    let bounded;
    let what = match what {
        Alteration::Resize { .. } => {
            may_change_size(root, secret, what)?;
            bounded = bounded_by_policies(what)?;
            &bounded
        }
        _ => what,
    };
    let here = |id, keys: &Keys| {
        let (altered, rest) = alter_offline(root, id, keys.clone(), what)?;
        Ok((altered, Some(rest)))
    };
    let mut is_unanswered = false;
    let there = |client: &mut Client| {
        let altered = client.alter(what);
        is_unanswered |= client.is_unanswered();
        let altered = altered?;
        if let Alteration::Resize { .. } = what {
            lift_for(client, name);
        }
        Ok((altered, None))
    };
    foresee(root, id, what);
    let answer = Question::changing(root, name, secret).ask(there, here);
    if answer.is_ok() {
        follow(root, id, what);
    }
    answer.map_err(|e| if is_unanswered { asked_again(e) } else { e })
}

/// Changes the family once for each of `changes`, and tells `done` what became of each. A store that no server has open is opened once for
/// as many as succeed one after the other.
///
/// # Errors
/// When it fails for a reason that all others would fail for, too; what `done` was not told of was not tried then.
pub fn alter_each(
    question: &Question<'_>,
    changes: &[Alteration],
    done: impl FnMut(&Alteration, Result<Altered>),
) -> Result<()> {
    let (root, name) = question.volume();
    if !changes.iter().all(Alteration::is_about_names) {
        must_not_be_moment(root, store_of(root, name)?, name)?;
    }
    let (done, next) = (RefCell::new(done), Cell::new(0));
    let say = |result| {
        let at = next.replace(next.get() + 1);
        done.borrow_mut()(&changes[at], result);
    };
    while next.get() < changes.len() {
        let answer = question.ask(
            |client| {
                while next.get() < changes.len() {
                    say(Ok(client.alter(&changes[next.get()])?));
                }
                Ok(())
            },
            |id, keys| {
                let rest = &changes[next.get()..];
                alter_each_offline(root, id, keys.clone(), rest, |altered| say(Ok(altered)))
            },
        );
        match answer {
            Err(e) if next.get() < changes.len() && concerns_one(&e) => say(Err(e)),
            other => other?,
        }
    }
    Ok(())
}

/// Whether an error says nothing of other changes of the same family.
fn concerns_one(e: &VolumeError) -> bool {
    !e.silent && matches!(e.exit, Exit::Busy | Exit::NoVolume | Exit::Exists | Exit::Usage | Exit::Failure)
}

/// What an error means to somebody who asked a second time because the first was not answered. That the secret is wrong does not mean
/// then that nothing was done.
fn asked_again(mut e: VolumeError) -> VolumeError {
    match e.exit {
        Exit::Secret => e.exit = Exit::Failure,
        Exit::Exists | Exit::NoVolume => {}
        _ => return e,
    }
    e.hint(
        "but the server that was asked first went away before it answered, and may have done what was asked",
    )
}

/// Whether a name stands for a volume; one that an interrupted command left does not.
pub(super) fn is_there(root: &Root, name: &str, secret: &Secrets) -> Result<bool> {
    match look(root, name, Some(secret)) {
        Ok(_) => Ok(true),
        Err(e) if e.exit == Exit::NoVolume => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether a name is taken: as [`is_there`], and by what cannot be looked into without its secret.
pub(super) fn exists(root: &Root, name: &str, secret: &Secrets) -> Result<bool> {
    match is_there(root, name, secret) {
        Err(e) if e.exit == Exit::Secret => Ok(true),
        other => other,
    }
}

/// Makes a clone, and returns its store.
///
/// # Errors
/// `Exists`, an unknown source, `Secret` if this host demands that the clone is encrypted and its source is not, or as [`alter`].
pub fn clone(root: &Root, change: &Alteration, secret: &Secrets) -> Result<StoreId> {
    let Alteration::Clone { source, name, .. } = change else {
        return Err(VolumeError::new(Exit::Usage, format!("{change:?} makes no clone")));
    };
    let source = Target::parse(source)?;
    let id = store_of(root, &source.volume)?;
    let gone = |e| unless_gone(root, id, &source.volume, e);
    if !is_encrypted(root, id).map_err(gone)? && must_be_encrypted(name)? {
        let message = format!(
            "volume {name:?} must be encrypted, because {} demands it; a clone has the keys of its source, and {:?} is not encrypted",
            encryption_policy(),
            source.volume
        );
        return Err(VolumeError::new(Exit::Secret, message));
    }
    may_change_size(root, secret, change).map_err(gone)?;
    without_asking(root, (id, &source.volume), secret, |secret| {
        if matches!(root.resolve(name), Ok(None)) {
            vacate(root, id, name, secret)?;
        }
        let alter = || {
            // What an interruption left of an earlier volume of that name, perhaps one of this store, is not of this one.
            Record::forget_stored(root, name)?;
            alter(root, &source.volume, secret, change)
        };
        clone_volume(
            root,
            (id, &source.volume),
            name,
            |name| exists(root, name, secret),
            |name| is_there(root, name, secret),
            alter,
        )
    })
    .map_err(gone)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_twice_is_not_told_that_nothing_was_done() {
        let said = |exit| asked_again(VolumeError::new(exit, "it exists")).message;
        assert!(said(Exit::Exists).starts_with("it exists; but the server"));
        assert_eq!(said(Exit::NoSpace), "it exists");
        // What was made by the server that went away is not taken for something that was not.
        let e = asked_again(VolumeError::new(Exit::Secret, "no secret"));
        assert!(e.exit == Exit::Failure && e.message.starts_with("no secret; but the server"), "{e}");
    }
}

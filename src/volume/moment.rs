//! Attaching a store as it was at an earlier moment: beside its owner, who is not disturbed, and for good as it is.
//!
//! The directory of such a store is not called as the store: this host may have the store itself, and other moments of it. Nothing is
//! claimed, shipped or changed. What is not here is fetched as of that moment, for as long as the remote has it.

use super::attached_names::{Attaches, Names, name_all};
use super::error::{Result, VolumeError};
use super::offline::{LOCK_PATIENCE, lock_store};
use super::remote::{Attachable, Attaching, attachable, clean_up, prepare, remote_of};
use super::remote_keys::open_log;
use crate::backing::{Dir, OsDir};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::open_store::{AttachError, lay_down};
use crate::remote::{
    Address, At, Frozen, History, Local, Log, Moment, RemoteError, When, first_missing, header_in_force,
};
use crate::root::Root;
use crate::store::{Feature, SEGMENT_DIR, StoreId, StoreLock};
use jiff::Timestamp;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What to attach.
#[derive(Debug)]
pub struct MomentSpec<'a> {
    /// A URL, or the name of a remote.
    pub remote: &'a str,
    /// What to call the volume here; `None`: as it was called then. Of several, what their names are to begin with.
    pub name: Option<&'a str>,
    /// As it was when.
    pub at: At,
}

/// Reads a moment: the number of a record, a time as RFC 3339 has it, or, with `ago` to read such a time, how long ago it is.
///
/// # Errors
/// What can be written.
pub fn parse_at(text: &str, ago: impl FnOnce(&str) -> Option<Duration>) -> Result<At, String> {
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        return text.parse().map(At::Record).map_err(|_| format!("there is no record of the number {text}"));
    }
    let bad = || {
        format!(
            "{text:?} is not a moment: write the number of a record, as `larder remote history` lists them, a time such as \
             2026-11-26T10:00:00Z, or how long ago it is, such as 10m"
        )
    };
    let time = match text.parse::<Timestamp>() {
        Ok(time) => SystemTime::from(time),
        Err(_) => ago(text).and_then(|ago| SystemTime::now().checked_sub(ago)).ok_or_else(bad)?,
    };
    let since = time.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| bad())?;
    let nanoseconds = match since.subsec_nanos() {
        // Times are shown in whole seconds: a second is all of it.
        0 => 999_999_999,
        nanoseconds => nanoseconds,
    };
    Ok(At::Time(When { seconds: since.as_secs(), nanoseconds }))
}

/// Refuses what changes a store that is the state of a moment.
///
/// # Errors
/// `Usage`, with what to do instead.
pub fn must_not_be_moment(root: &Root, id: StoreId, name: &str) -> Result<()> {
    match remote_of(root, id)? {
        Some(Local { at: Some(at), remote, .. }) => Err(is_moment(name, &remote, &at)),
        _ => Ok(()),
    }
}

/// The error of who wants to change a store that is the state of a moment.
pub fn is_moment(name: &str, remote: &str, at: &Frozen) -> VolumeError {
    let what = format!(
        "volume {name:?} is the state of {at} in {remote}, and stays as it is; `larder remote detach {name}` fetches all of it and makes it a \
         volume of its own, which can be changed, cloned and put in the place of another one"
    );
    VolumeError::new(Exit::Usage, what)
}

/// Puts down the store that a remote has as it was at a moment, and gives its volumes their names here; returns the names, and the moment.
///
/// # Errors
/// `NoVolume` where there is no store, no such moment, or not all of it any more; `Exists` if a name is taken; `Secret`; `Damaged`; and when
/// the remote cannot be reached. Nothing is left here then.
pub fn attach_at(
    root: &Root,
    spec: &MomentSpec<'_>,
    attaching: &mut dyn Attaching,
) -> Result<(Vec<String>, Moment)> {
    let Attachable { address, named, objects, store } = attachable(spec.remote, spec.name, attaching)?;
    let (log, keys) = open_log(&objects, store, &mut || attaching.secret())?;
    let history = History::of(&log)?;
    let moment = history.find(spec.at)?;
    root.make().map_err(|(path, e)| VolumeError::io(&path, &e))?;
    // It is called otherwise than the store, which this host may have as well.
    let id = StoreId::random().map_err(|e| VolumeError::new(Exit::Failure, e.to_string()))?;
    let path = root.store(id);
    let mut held = {
        let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
        super::remove::sweep(root);
        prepare(&path)?;
        // Whoever sweeps leaves alone what somebody holds.
        Some(lock_store(&path, LOCK_PATIENCE)?)
    };
    let of_it = (path.as_path(), id);
    let to = Put { root, of_it, address: &address, named, keys: &keys, name: spec.name };
    let put = to.put_down(&mut held, &log, (&history, &moment), attaching);
    if put.is_err() && held.is_some() {
        // Nothing of what could not be attached stays behind. As long as it is held, it is this one's.
        if let Ok(_lock) = root.lock() {
            clean_up(root, of_it);
        }
    }
    put.map(|names| (names, moment))
}

/// Where what is attached is put.
struct Put<'a> {
    root: &'a Root,
    of_it: (&'a Path, StoreId),
    address: &'a Address,
    named: Option<String>,
    keys: &'a Keys,
    name: Option<&'a str>,
}

impl Put<'_> {
    fn put_down(
        self,
        held: &mut Option<StoreLock>,
        newest: &Log,
        (history, moment): (&History, &Moment),
        attaching: &mut dyn Attaching,
    ) -> Result<Vec<String>> {
        let Self { root, of_it, address, named, keys, name } = self;
        let (path, id) = of_it;
        let io = |e| VolumeError::io(path, &e);
        let store = newest.sealer().store();
        let log = history.log_at(moment)?;
        // The keys that the store has now are those that open what is older as well, if any do; older headers are not kept.
        let (json, mut header) = header_in_force(newest)?;
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(path));
        let none = |what: String| RemoteError::NoMoment {
            place: log.sealer().place().into(),
            at: format!("record {}", moment.position.number),
            what,
        };
        let gone = |name: &str| {
            none(format!(
                "{name}, which it needs, is gone: the history that is kept there does not go back so far any more"
            ))
        };
        let attached = lay_down(&dir, &log, store, &json, keys).map_err(|e| match e {
            AttachError::Remote(RemoteError::Lost { name, .. }) => gone(&name).into(),
            e => VolumeError::from(e),
        })?;
        if let Some(missing) = first_missing(&**log.objects(), &attached.catalog)? {
            return Err(gone(&missing).into());
        }
        let oldest = header.epochs().first().copied().map_or(0, u64::from);
        if !attached.catalog.sealed_before(oldest).is_empty() {
            let what = "a part of it is sealed with keys that are gone: it was encrypted anew then, or since"
                .to_owned();
            return Err(none(what).into());
        }
        let names = Names::of(root, (id, keys), held.as_ref(), name, Attaches::Moment)?;
        if !keys.is_encrypted() {
            attaching.accept_plain(log.sealer().place(), &names.all)?;
        }
        if header.features.insert(Feature::Remote) {
            header.replace(&*dir)?;
        }
        let mut local = Local::new(&address.url.to_string()).map_err(io)?;
        (local.partial, local.named) = (true, named);
        local.at = Some(Frozen { record: moment.position.number, time: moment.time.to_string() });
        local.saw(moment.position);
        local.write(path).map_err(io)?;
        dir.sync(SEGMENT_DIR).and_then(|()| dir.sync("")).map_err(io)?;
        name_all(root, of_it, held, keys, names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let ago = |text: &str| (text == "10m").then_some(Duration::from_secs(600));
        let at = |text: &str| parse_at(text, ago);
        assert_eq!(at("17"), Ok(At::Record(17)));
        let time = |seconds| Ok(At::Time(When { seconds, nanoseconds: 999_999_999 }));
        assert_eq!(at("2026-11-26T10:00:00Z"), time(1_795_687_200));
        assert_eq!(at("2026-11-26T12:00:00+02:00"), time(1_795_687_200));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let Ok(At::Time(then)) = at("10m") else { panic!("{:?}", at("10m")) };
        assert!((now - 601..=now).contains(&(then.seconds + 600)));
        for bad in
            ["", "yesterday", "-5", "1.5", "99999999999999999999", "2026-11-26", "0001-01-01T00:00:00Z"]
        {
            assert!(at(bad).is_err(), "{bad:?}");
        }
    }
}

//! How well a volume is: what was noted of it, and what is so now.

use super::common::Common;
use super::inspection::time;
use super::look::{Look, Looker, store_of};
use super::record::{Place, options_of, place, secrets_of};
use super::side_by_side::each;
use super::trash::no_volume;
use super::users::users;
use crate::exit_code::Exit;
use crate::health::{Item, Level, Notes, Reason, Scrub, amend, code, forget_mounts, now, now_ms, update};
use crate::mount::{self, Seen};
use crate::root::Root;
use crate::server::{RemoteStatus, Status, Takeover};
use crate::store::StoreId;
use crate::volume::check::Report;
use crate::volume::{Alteration, Result, VolumeError, is_encrypted};
use nix::unistd::geteuid;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A disk that has no more than this to give is full, in bytes.
const NO_ROOM: u64 = 64 << 10;
/// A remote that is so far behind, in seconds, because something fails, is worth to be told of.
const BEHIND: u64 = 60;

/// How well a volume is.
#[derive(Clone, Debug, Default)]
pub struct VolumeHealth {
    /// The worst of the reasons; all is well without one.
    pub level: Level,
    /// What is wrong, the worst first.
    pub reasons: Vec<Reason>,
    /// When everything was read.
    pub scrub: Scrub,
}

/// A reason, as programs read it.
#[derive(Clone, Debug, Serialize)]
pub struct ShownReason {
    code: String,
    level: Level,
    /// Null: nobody knows.
    since: Option<String>,
    message: String,
    advice: String,
    /// The things it is about, as far as they are listed.
    items: Vec<String>,
    /// So many more are not listed.
    more: u64,
}

/// When everything was read, as programs read it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ShownScrub {
    /// When the last one that came to its end began; null: there was none.
    started: Option<String>,
    finished: Option<String>,
    blocks: u64,
    faults: u64,
    /// Of one that did not come to its end yet, blocks that were read, and blocks that there are.
    under_way: Option<(u64, u64)>,
}

impl ShownReason {
    /// A reason, as programs read it.
    pub fn new(reason: &Reason) -> Self {
        Self {
            code: reason.code.clone(),
            level: reason.level,
            since: reason.began().map(time),
            message: reason.sentence(),
            advice: reason.advice.clone(),
            items: reason.items.values().map(Item::sentence).collect(),
            more: reason.more,
        }
    }
}

impl ShownScrub {
    fn new(scrub: &Scrub) -> Self {
        let last = scrub.last.clone();
        Self {
            started: last.as_ref().map(|last| time(last.started)),
            finished: last.as_ref().map(|last| time(last.finished)),
            blocks: last.as_ref().map_or(0, |last| last.blocks),
            faults: last.as_ref().map_or(0, |last| last.faults),
            under_way: scrub.under_way.as_ref().map(|under_way| (under_way.blocks, under_way.total)),
        }
    }
}

impl VolumeHealth {
    fn of(reasons: Vec<Reason>, scrub: Scrub) -> Self {
        let mut reasons = reasons;
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.level));
        let level = reasons.iter().map(|reason| reason.level).max().unwrap_or_default();
        Self { level, reasons, scrub }
    }

    /// The reasons, as programs read them.
    pub fn shown(&self) -> Vec<ShownReason> {
        self.reasons.iter().map(ShownReason::new).collect()
    }

    /// When everything was read, as programs read it.
    pub fn shown_scrub(&self) -> ShownScrub {
        ShownScrub::new(&self.scrub)
    }
}

/// How well a volume is, by what a look at it has found.
pub fn health_by(
    root: &Root,
    name: &str,
    looked: Result<&Look, &VolumeError>,
    common: &Common,
) -> VolumeHealth {
    match place(root, name) {
        Ok(Some(Place::Store(id))) => of_store((root, name, id), looked, common),
        Ok(Some(Place::Memory)) => {
            let dir = root.mountpoints().join(name);
            let is_mounted =
                matches!(mount::resolve(&dir).and_then(|dir| mount::entry_at(&dir)), Ok(Some(_)));
            let down = (!is_mounted && !users(root, name).is_empty()).then(|| down(name).since(0));
            VolumeHealth::of(down.into_iter().collect(), Scrub::default())
        }
        Ok(None) => VolumeHealth::default(),
        Err(e) => VolumeHealth::of(vec![unknown(&e).since(0)], Scrub::default()),
    }
}

fn unknown(e: &VolumeError) -> Reason {
    let message = format!("its state cannot be determined: {e}");
    Reason::new(code::UNKNOWN, Level::Failed, message, "do what the message says, then look again")
}

pub(super) fn down(name: &str) -> Reason {
    Reason::new(
        code::DOWN,
        Level::Failed,
        "containers use it, and it is not mounted",
        format!("the log of larder-plugin says why, and so may `larder mount {name} DIR`"),
    )
}

fn of_store(
    (root, name, id): (&Root, &str, StoreId),
    looked: Result<&Look, &VolumeError>,
    common: &Common,
) -> VolumeHealth {
    let notes = Notes::of(root, id);
    let (seen, scrub) = (notes.clone(), notes.scrub);
    let mut all = Notes { reasons: notes.reasons, ..Notes::default() };
    let status = looked.ok().and_then(|look| look.status.as_deref());
    for reason in status.iter().flat_map(|status| &status.unnoted) {
        all.note(reason.clone());
    }
    all.reasons.retain(|reason| reason.concerns(name));
    let mut now = match (looked, status) {
        (Err(e), _) => by_error(root, name, id, e),
        (Ok(_), Some(status)) => by_server(name, status),
        (Ok(_), None) => Vec::new(),
    };
    // Whose server does not answer may have mounts that work.
    let is_silent = looked.is_err_and(|e| e.silent);
    if !is_silent {
        now.extend(dead_mounts((root, name, id), status, common));
        // The server may have another volume of the store.
        if !status.is_some_and(|status| status.serves(name)) && !users(root, name).is_empty() {
            now.push(down(name));
        }
    }
    now.extend(room(root, status, common));
    now.extend(key(root, name, id, status.is_some()));
    since_seen((root, id, name), seen, &mut now);
    now.into_iter().for_each(|reason| all.note(reason));
    VolumeHealth::of(all.reasons, scrub)
}

/// What is looked at, and not noted, is wrong since somebody saw that first: this look, if it can be kept. Where nobody could, nobody knows.
fn since_seen((root, id, name): (&Root, StoreId, &str), before: Notes, now: &mut [Reason]) {
    let codes: BTreeSet<&str> = now.iter().map(|reason| reason.code.as_str()).collect();
    let mut seen = before;
    // What somebody else notes would be theirs.
    let is_own = root.path().metadata().is_ok_and(|of| of.uid() == geteuid().as_raw());
    if is_own && !seen.has_seen(name, &codes) {
        let noted = update(root, id, |notes| {
            notes.see(name, &codes, crate::health::now());
            notes.clone()
        });
        match noted {
            // (Of a store that is not there nothing is kept.)
            Ok(notes) if root.store(id).exists() => seen = notes,
            Ok(_) => {}
            Err(e) => log::debug!("volume {name:?}: what is wrong with it cannot be noted: {e}"),
        }
    }
    let since = seen.seen.get(name);
    for reason in now {
        let noted = since.and_then(|since| since.get(&reason.code)).copied();
        // A server knows it better, and has said a time before this look.
        let known =
            (reason.code == code::HOST_FULL && reason.since < crate::health::now()).then_some(reason.since);
        reason.since = known.or(noted).unwrap_or(0);
    }
}

/// What the error says with which a look at the volume has ended.
fn by_error(root: &Root, name: &str, id: StoreId, e: &VolumeError) -> Vec<Reason> {
    let reason = |code, level, advice: &str| vec![Reason::new(code, level, e.message.clone(), advice)];
    match e.exit {
        _ if e.silent => {
            let log = root.log(id);
            let advice =
                format!("see {}; it is replaced automatically if its holder is still alive", log.display());
            reason(code::SILENT, Level::Failed, &advice)
        }
        _ if !root.store(id).exists() => {
            let stores = root.stores();
            let advice = format!(
                "mount the disk that {} is on; if the store is lost, restore it from a backup, or give it up with `larder rm --force {name}`",
                stores.display()
            );
            reason(code::NO_STORE, Level::Failed, &advice)
        }
        // It cannot be looked into without its secret, which says nothing about it.
        Exit::Secret if is_encrypted(root, id).is_ok_and(|is_encrypted| is_encrypted) => Vec::new(),
        // What an interrupted command left.
        Exit::NoVolume => Vec::new(),
        Exit::Damaged | Exit::NewerFormat | Exit::Secret => reason(
            code::UNUSABLE,
            Level::Failed,
            "`larder check` says more; restore the store from a backup if it is damaged",
        ),
        _ => vec![unknown(e)],
    }
}

/// What is wrong between a volume and its remote.
fn by_remote(name: &str, remote: &RemoteStatus) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let RemoteStatus { remote: url, lag_seconds, refuses, .. } = remote;
    if let Some(why) = remote.trouble.as_ref().filter(|_| remote.fenced) {
        let whether = match remote.lag() {
            Some(0) => "everything was shipped; if the other host is to keep it, remove it here",
            Some(_) => {
                "not everything was shipped; if the other host is to keep it, and nobody needs the rest, remove it here"
            }
            None => {
                "what was done here last may not have been shipped; if the other host is to keep it, and nobody needs that, remove it here"
            }
        };
        reasons.push(Reason::new(
            code::REMOTE_TAKEN,
            Level::Failed,
            match refuses {
                true => format!("everything on the volume is an error, because another host goes on with it: {why}"),
                false => format!("the volume takes no changes, because another host goes on with it: {why}"),
            },
            format!(
                "{whether} (`larder rm --now {name}`); to keep what is here as a volume of its own, unmount it, and `larder remote detach \
                 {name}`"
            ),
        ));
    } else if let Some(why) = &remote.trouble
        && remote.lost.as_ref() != Some(why)
        && (remote.stopped || *lag_seconds >= BEHIND)
    {
        let next = if remote.stopped { "" } else { "; it catches up by itself when that is fixed" };
        let shipped = match remote.lag() {
            _ if *refuses => {
                format!("everything on it is an error (lease=strict), and nothing is shipped to {url}")
            }
            None | Some(0) => format!("nothing is shipped to its remote {url}"),
            Some(lag) => format!("its remote {url} is {lag} s behind, and nothing is shipped"),
        };
        let waiting = match remote.syncs.unwrap_or(0) {
            0 => "",
            _ => ", and programs that sync wait for it",
        };
        reasons.push(Reason::new(
            code::REMOTE_BEHIND,
            if *refuses { Level::Failed } else { Level::Degraded },
            format!("{shipped}{waiting}: {why}"),
            format!("`larder remote status {name}` says how it is{next}"),
        ));
    } else if let Some(lost) = &remote.lost {
        reasons.push(Reason::new(
            code::REMOTE_BEHIND,
            Level::Degraded,
            lost.clone(),
            format!(
                "restore these files from a backup, or remove them; `larder remote sync {name}` looks again"
            ),
        ));
    }
    if let Some(seconds) = remote.paused_s {
        reasons.push(Reason::new(
            code::REMOTE_PAUSED,
            Level::Degraded,
            format!("paused: no sign of life was acknowledged by {url} for {seconds} s, and with lease=strict nothing is answered without"),
            format!("programs wait, and go on when it can be reached again, unless another host takes {name:?} meanwhile"),
        ));
    }
    if let Some(why) = &remote.away {
        reasons.push(Reason::new(
            code::REMOTE_AWAY,
            Level::Degraded,
            format!("contents that are only in {url} cannot be read: {why}"),
            "programs that want them wait, and go on when it can be reached again",
        ));
    }
    reasons
}

/// What the server says.
fn by_server(name: &str, status: &Status) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let is_fenced = status.remote.as_ref().is_some_and(|remote| remote.fenced);
    reasons.extend(status.remote.iter().flat_map(|remote| by_remote(name, remote)));
    if let Some(why) = status.failure.as_ref().filter(|_| !is_fenced) {
        reasons.push(Reason::new(
            code::WRITES_FAILED,
            Level::Failed,
            format!("the store takes no changes, because {why}"),
            "look at the disk (dmesg, smartctl); unmount it and mount it again to return to the last good state",
        ));
    }
    if let Some((_, why)) = status.reencryption.as_ref().and_then(|state| state.trouble.as_ref()) {
        reasons.push(Reason::new(
            code::REENCRYPTION,
            Level::Degraded,
            format!("the re-encryption has stopped: {why}"),
            format!("fix that; then `larder key reencrypt {name}` continues it"),
        ));
    }
    let mut mine = status.mounts.iter().filter(|mount| mount.volume == name);
    if status.holder == 0 && mine.any(|mount| mount.takeover == Takeover::Possible) {
        reasons.push(Reason::new(
            code::UNHELD,
            Level::Degraded,
            "the holder of its server is gone: if the server dies, too, the mount does",
            "unmount it and mount it again when convenient",
        ));
    }
    reasons
}

/// Mounts that nobody serves any more, and that somebody still has. What has ended is forgotten.
fn dead_mounts(
    (root, name, id): (&Root, &str, StoreId),
    status: Option<&Status>,
    common: &Common,
) -> Vec<Reason> {
    let served = |connection: u32| {
        let mut mounts = status.iter().flat_map(|status| &status.mounts);
        mounts.any(|mount| mount.connection == Some(connection))
    };
    let all = common.made(root, id);
    let left: Vec<(&str, u32)> = all
        .iter()
        .filter(|made| !served(made.connection))
        .map(|made| (made.volume.as_str(), made.connection))
        .collect();
    if left.is_empty() {
        return Vec::new();
    }
    // That a mount is not seen from here says nothing: others may see more processes, and those who have it. The kernel knows.
    let is_gone = |connection: &u32| matches!(mount::is_connected(*connection), Ok(false));
    let gone: Vec<u32> = left.iter().map(|(_, connection)| *connection).filter(is_gone).collect();
    if !gone.is_empty()
        && let Err(e) = forget_mounts(root, id, &gone)
    {
        log::debug!("cannot forget mounts that have ended: {e}");
    }
    let is_mine = |(volume, connection): &(&str, u32)| {
        volume.split('@').next() == Some(name) && !gone.contains(connection)
    };
    let mine: Vec<(&str, u32)> = left.into_iter().filter(is_mine).collect();
    let dead: Vec<Seen> = common.everywhere.seen(&mine).into_iter().filter(|seen| seen.is_dead).collect();
    if dead.is_empty() {
        return Vec::new();
    }
    let known = |seen: &Seen| seen.container.as_ref().and_then(|id| common.container(id));
    let restarts: BTreeSet<String> = dead
        .iter()
        .filter_map(known)
        .map(|container| format!("`{} restart {}`", container.engine, container.name))
        .collect();
    let restarts = match restarts.is_empty() {
        true => String::new(),
        false => format!(" ({})", Vec::from_iter(restarts).join(", ")),
    };
    let is_served = status.is_some_and(|status| status.serves(name));
    let (is_here, is_elsewhere) =
        (dead.iter().any(|seen| seen.process.is_none()), dead.iter().any(|seen| seen.process.is_some()));
    // Who is restarted before it is mounted again finds the bare directory, or the dead mount.
    let first = match (is_here, is_served) {
        (true, _) => format!(
            "unmount it on this host (`umount -l DIR`) and mount it again (`larder mount {name} DIR`)"
        ),
        (false, false) => format!("mount it again, unless the driver does (`larder mount {name} DIR`)"),
        (false, true) => String::new(),
    };
    let then = match is_elsewhere {
        true => format!("restart the containers named{restarts}"),
        false => String::new(),
    };
    let between = if first.is_empty() || then.is_empty() { "" } else { "; then " };
    let reason = Reason::new(
        code::DEAD_MOUNT,
        Level::Failed,
        "a mount of it is dead, and whatever uses it gets errors",
        format!("{first}{between}{then}"),
    );
    let where_it_is = |seen: &Seen| match (&seen.container, seen.process) {
        (Some(id), _) => {
            // As much of an ID as engines show.
            let called = known(seen).map_or_else(|| id.chars().take(12).collect(), |of| of.name.clone());
            format!("{} in container {called}", seen.dir.display())
        }
        (None, Some(process)) => format!("{} for process {process}", seen.dir.display()),
        (None, None) => format!("{} on this host", seen.dir.display()),
    };
    let key = |seen: &Seen| format!("{}/{}", seen.connection, seen.process.unwrap_or(0));
    vec![dead.iter().fold(reason, |reason, seen| reason.with(key(seen), where_it_is(seen)))]
}

/// Whether the host has room.
fn room(root: &Root, status: Option<&Status>, common: &Common) -> Option<Reason> {
    let (path, available) = common.space(root)?;
    let said = status.and_then(|status| status.host_full_since);
    if said.is_none() && *available >= NO_ROOM {
        return None;
    }
    let reason = Reason::new(
        code::HOST_FULL,
        Level::Degraded,
        format!(
            "the disk of the host is full ({} free on {})",
            crate::size::format(*available),
            path.display()
        ),
        "free some space on that disk (`larder trash empty` gives back what is in the trash): until then, files can be deleted and nothing \
         can be added; this clears by itself",
    );
    Some(reason.since(said.unwrap_or_else(now)))
}

/// Whether the file is there that the secret is in.
fn key(root: &Root, name: &str, id: StoreId, is_mounted: bool) -> Option<Reason> {
    let secrets = secrets_of(&options_of(root, name, Place::Store(id)).ok()?);
    let is_missing = |path: &&std::path::PathBuf| !Path::new(path).exists();
    let missing = secrets.key_file.iter().chain(&secrets.passphrase_file).find(is_missing)?;
    let level = if is_mounted { Level::Degraded } else { Level::Failed };
    let message =
        format!("the file with its secret is missing ({}): it cannot be mounted again", missing.display());
    let advice = format!("bring it back, or `larder set {name} key-file=FILE` if it is elsewhere now");
    Some(Reason::new(code::NO_KEY, level, message, advice))
}

/// How well volumes are. Nobody is asked for a secret, and no passphrase is made a key: that takes its time.
#[derive(Debug)]
pub struct HealthLooker<'a> {
    root: &'a Root,
    looker: Looker<'a>,
    common: Common,
}

impl<'a> HealthLooker<'a> {
    /// One that has seen nothing yet.
    pub fn new(root: &'a Root) -> Self {
        Self { root, looker: Looker::new(root), common: Common::new(true) }
    }

    /// How well each of these volumes is.
    pub fn look_at(&self, names: &[String]) -> Vec<VolumeHealth> {
        each(self.root, names, |name| self.look(name))
    }

    /// How well a volume is.
    pub fn look(&self, name: &str) -> VolumeHealth {
        let options = place(self.root, name)
            .and_then(|place| place.map(|place| options_of(self.root, name, place)).transpose())
            .unwrap_or_default()
            .unwrap_or_default();
        let secrets =
            (options.passphrase_file.is_none() && options.key_file.is_some()).then(|| secrets_of(&options));
        let looked = match place(self.root, name) {
            Ok(Some(Place::Memory)) => Err(VolumeError::no_volume(name)),
            _ => self.looker.look(name, secrets.as_ref()),
        };
        health_by(self.root, name, looked.as_ref(), &self.common)
    }
}

/// Somebody has taken note of what is wrong with a volume: what was noted, and goes from there. What is still so stays.
///
/// # Errors
/// `NoVolume`, or the host's.
pub fn acknowledge(root: &Root, name: &str) -> Result<Vec<Reason>> {
    match place(root, name)?.ok_or_else(|| no_volume(root, name))? {
        Place::Memory => Ok(Vec::new()),
        Place::Store(id) => {
            update(root, id, |notes| notes.acknowledge(name)).map_err(|e| VolumeError::io(&root.health(), &e))
        }
    }
}

/// What a check has found, as reasons. They are noted openly beside the store: of an encrypted one, `hides_names` keeps the names of files
/// out.
pub(super) fn reasons_of(report: &Report, hides_names: bool) -> Vec<Reason> {
    let unreadable = Reason::new(
        code::UNREADABLE,
        Level::Degraded,
        "contents are damaged, and reading them is an error",
        "look at the disk (dmesg, smartctl), and restore or remove these files; `larder scrub` finds the rest of it, and clears this once \
         all can be read",
    );
    let mut faults = Reason::new(
        code::FAULTS,
        Level::Failed,
        "a check has found faults",
        "`larder check --read-data` lists them; restore the volume from a backup",
    );
    // In which volume and snapshot, what tells it from others, and what it is.
    let mut found: Vec<(&str, Option<String>, String, String)> = Vec::new();
    for fault in &report.faults {
        let key = fault.block.as_ref().unwrap_or(&fault.message);
        for at in &fault.affected {
            let file = at.path.clone().filter(|_| !hides_names);
            let file = file.unwrap_or_else(|| format!("inode {}", at.inode));
            let what = format!("{file}, at byte {} (block {key})", at.offset);
            found.push((&at.volume, at.snapshot.clone(), key.clone(), what));
        }
        if !fault.affected.is_empty() {
            continue;
        }
        let (key, what) = match (hides_names, &fault.block) {
            (false, _) => (key.clone(), fault.message.clone()),
            (true, Some(block)) => {
                let find = format!("`larder find NAME --block {block}` says which file it belongs to");
                (block.clone(), format!("block {block} is damaged; {find}"))
            }
            (true, None) => (format!("{:?}", fault.kind), "`larder check` says what it is".to_owned()),
        };
        match fault.kind.is_damage() {
            true => found.push(("", None, key, what)),
            false => faults = faults.with(key, what),
        }
    }
    let mut damaged: BTreeMap<&str, Reason> = BTreeMap::new();
    let of_volume = |name: &str| match name {
        "" => unreadable.clone(),
        name => unreadable.clone().of_volume(name),
    };
    for (volume, snapshot, key, what) in found {
        let reason = damaged.remove(volume).unwrap_or_else(|| of_volume(volume));
        damaged.insert(volume, reason.with_in(snapshot, key, what));
    }
    for (volume, more) in &report.more_in {
        let volume = volume.as_str();
        let reason = damaged.remove(volume).unwrap_or_else(|| of_volume(volume));
        damaged.insert(volume, reason.and_more(*more));
    }
    let faults = faults.and_more(report.more_faults.saturating_sub(report.more_damaged));
    let faults = Some(faults).filter(|faults| !faults.items.is_empty());
    damaged.into_values().chain(faults).collect()
}

/// Whether the names of a store's files must not lie open. What cannot be read may be encrypted.
pub(super) fn hides_names(root: &Root, id: StoreId) -> bool {
    is_encrypted(root, id).unwrap_or(true)
}

/// Notes what a check has found that began at a moment (in milliseconds since 1970). What it has looked at and not found is over. That it
/// cannot be noted is no reason not to say it.
pub fn note_check(root: &Root, name: &str, report: &Report, (began, read_data): (u64, bool)) {
    let Ok(id) = store_of(root, name) else { return };
    let hides_names = hides_names(root, id);
    // The clock may have been set back.
    let began = began.min(now_ms());
    let has_read_all = read_data && report.blocks_read + report.blocks_absent == report.blocks;
    let noted = update(root, id, |notes| {
        // What is over is forgotten before what is new is noted.
        match report.has_seen_metadata() {
            true if has_read_all => notes.all_was_read(began),
            true => notes.metadata_was_checked(began),
            false => {}
        }
        reasons_of(report, hides_names).into_iter().for_each(|reason| notes.note(reason));
        if report.has_seen_metadata() && has_read_all {
            notes.count(&report.damaged(), 0);
        }
    });
    if let Err(e) = noted {
        log::warn!("volume {name:?}: cannot note what the check has found: {e}");
    }
}

/// What is noted of volumes and snapshots goes with their names: said before a change of the family, which may be interrupted, or fail.
/// What is noted then under a name that stands for no volume goes with the name, or when a volume gets it.
pub(super) fn foresee(root: &Root, id: StoreId, change: &Alteration) {
    if let Alteration::Rename { volume, to } = change {
        let noted = amend(root, id, |notes| notes.rename_soon(volume, to));
        warn_of(id, noted);
    }
}

/// The same, said after the change.
pub(super) fn follow(root: &Root, id: StoreId, change: &Alteration) {
    let followed = match change {
        Alteration::Rename { volume, to } => amend(root, id, |notes| notes.rename(volume, to)),
        Alteration::RenameSnapshot { volume, name, to } => {
            amend(root, id, |notes| notes.rename_snapshot(volume, name, to))
        }
        Alteration::Remove { volume: name } | Alteration::Clone { name, .. } => {
            amend(root, id, |notes| notes.forget(name))
        }
        _ => Ok(()),
    };
    warn_of(id, followed);
}

/// There is no volume of that name in a store any more.
pub(super) fn forget(root: &Root, id: StoreId, name: &str) {
    warn_of(id, amend(root, id, |notes| notes.forget(name)));
}

fn warn_of(id: StoreId, noted: std::io::Result<()>) {
    if let Err(e) = noted {
        log::warn!("store {id}: its health notes keep the old names of its volumes: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_remote_is_said_once_and_not_too_early() {
        let well = RemoteStatus {
            remote: "s3://b/db".into(),
            record: 7,
            shipped_at: None,
            held_by: None,
            uploading: None,
            there: None,
            lag_seconds: 3,
            lag_unknown: false,
            lag_bytes: None,
            trouble: None,
            lost: None,
            fenced: false,
            stopped: false,
            away: None,
            syncs: Some(0),
            slowed_ms: 0,
            held: false,
            requests: None,
            here_bytes: None,
            contents_bytes: None,
            stays: None,
            healed_blocks: 0,
            healed_pages: 0,
            rewritten_bytes: 0,
            paused_s: None,
            refuses: false,
        };
        let codes = |status: &RemoteStatus| {
            by_remote("db", status).into_iter().map(|reason| reason.code).collect::<Vec<_>>()
        };
        assert!(codes(&well).is_empty());
        let troubled = RemoteStatus { trouble: Some("no route to host".into()), ..well.clone() };
        assert!(codes(&troubled).is_empty(), "it may pass");
        let behind = RemoteStatus { lag_seconds: 61, ..troubled.clone() };
        assert_eq!(codes(&behind), [code::REMOTE_BEHIND]);
        let lost = Some("it lacks 1 block".to_owned());
        let incomplete = RemoteStatus { lost: lost.clone(), trouble: lost, lag_seconds: 61, ..well.clone() };
        let said = by_remote("db", &incomplete);
        assert!(said.len() == 1 && said[0].message == "it lacks 1 block", "{said:?}");
        let waited_for = by_remote("db", &RemoteStatus { syncs: Some(2), ..behind.clone() });
        assert!(waited_for[0].message.contains("programs that sync wait"), "{waited_for:?}");
        assert!(by_remote("db", &behind)[0].message.contains("61 s behind"));
        assert_eq!(codes(&RemoteStatus { stopped: true, ..troubled.clone() }), [code::REMOTE_BEHIND]);
        let refusing = by_remote("db", &RemoteStatus { stopped: true, refuses: true, ..troubled.clone() });
        assert!(refusing[0].level == Level::Failed && refusing[0].message.contains("is an error"));
        let taken = RemoteStatus { fenced: true, stopped: true, ..troubled };
        assert_eq!(codes(&taken), [code::REMOTE_TAKEN]);
        // What is only here is not removed as if it were there as well.
        let next = |status: &RemoteStatus| by_remote("db", status)[0].advice.clone();
        assert!(next(&taken).contains("not everything was shipped"), "{taken:?}");
        let unknown = RemoteStatus { lag_unknown: true, ..taken.clone() };
        assert!(next(&unknown).contains("may not have been shipped"), "{unknown:?}");
        assert!(next(&RemoteStatus { lag_seconds: 0, ..taken }).contains("everything was shipped"));
        assert_eq!(codes(&RemoteStatus { paused_s: Some(3), ..well.clone() }), [code::REMOTE_PAUSED]);
        assert_eq!(codes(&RemoteStatus { away: Some("far".into()), ..well }), [code::REMOTE_AWAY]);
    }
}

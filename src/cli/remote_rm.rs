//! `larder remote rm`

use super::confirm::{confirm, is_attended, refused, say};
use super::progress::Progress;
use super::remote::{address, time};
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{needs_objects, needs_remote};
use crate::remote::{
    BootClock, Remains, RemoteError, Survey, activity, erase_unchanged, nobody_lives, not_let_go, remains,
};
use crate::size;
use crate::volume::{VolumeError, objects_at};
use serde_json::json;
use std::time::Duration;

/// What `larder remote rm` takes.
#[derive(Debug, clap::Args)]
pub(super) struct RemoteRmArgs {
    /// URL of the store, or NAME/VOLUME with a name from /etc/larder/remotes.toml
    remote: String,
    /// Do not ask. (Without a terminal, nobody is asked anyway)
    #[arg(short, long)]
    force: bool,
    /// Remove it also if a host has not let go of it, or it is damaged, where nobody shows life for half a minute
    #[arg(long)]
    steal: bool,
}

fn described(survey: &Survey) -> String {
    let newest = match survey.newest {
        0 => "nothing was shipped yet".to_owned(),
        newest => format!("record {newest} was written at {}", time(survey.written)),
    };
    let encrypted = if survey.store.encrypted { ", encrypted" } else { "" };
    let (objects, bytes) = (output::counted(survey.objects, "object"), size::format(survey.bytes));
    format!("store {}{encrypted}: {bytes} in {objects}; {newest}", survey.store.store)
}

pub(super) fn run(context: &Context, args: &RemoteRmArgs) -> CommandResult {
    let address = address(&args.remote)?;
    let place = address.url.to_string();
    let not_needed = |what: Option<String>| match what {
        Some(what) => Err(VolumeError::new(Exit::Busy, format!("{place} is not removed: {what}"))),
        None => Ok(()),
    };
    // (Also where it cannot be reached.)
    not_needed(needs_remote(&context.root, &place, None)?)?;
    let objects = objects_at(&address)?;
    let nobody_needs_it = || not_needed(needs_objects(&context.root, (&*objects, &place), None)?);
    let before = activity(&*objects).map_err(VolumeError::from)?;
    let there = remains(&objects).map_err(VolumeError::from)?;
    nobody_needs_it()?;
    let Some(there) = there else {
        return Err(VolumeError::from(RemoteError::NoStore { place })
            .hint(&format!("`larder remote ls {}` lists what is there", args.remote)));
    };
    let holder = match &there {
        Remains::Store(survey) => {
            not_let_go(survey, &|_| false).map(|who| (Exit::Busy, format!("{who} has not let go of it")))
        }
        Remains::Half => None,
        Remains::Damaged(why) => {
            Some((Exit::Damaged, format!("it is damaged, so that it is not known who has it ({why})")))
        }
    };
    if let Some((exit, what)) = holder.as_ref().filter(|_| !args.steal) {
        let hint = "unmount the volume there, or, if that host is lost, add --steal";
        return Err(VolumeError::new(*exit, format!("{place} is not removed: {what}; {hint}")));
    }
    if holder.is_some() || before.is_in_doubt(&there) {
        let mut is_told = false;
        let mut told = |left: Duration| {
            if !std::mem::replace(&mut is_told, true) {
                output::warning(format!("waiting {} s to be sure that nobody has it", left.as_secs()));
            }
            true
        };
        nobody_lives(&*objects, &BootClock, &mut told).map_err(VolumeError::from)?;
    }
    let about = match &there {
        Remains::Store(survey) => described(survey),
        Remains::Half => "the rest of a store whose removal was begun".to_owned(),
        Remains::Damaged(_) => "a store with damage".to_owned(),
    };
    if !args.force && is_attended() {
        say(&format!("{place}: {about}"));
        if !confirm("Remove all of it, with every moment of its history?")? {
            return Err(refused());
        }
        nobody_needs_it()?;
    }
    let mut bar = Progress::new();
    let total = if let Remains::Store(survey) = &there { survey.objects } else { 0 };
    let erased =
        erase_unchanged(&*objects, &before, &mut |done| bar.update("removing", done, total.max(done)));
    drop(bar);
    let erased = erased.map_err(|e| match e {
        RemoteError::Changed { .. } => VolumeError::from(e),
        e => {
            VolumeError::from(e).hint(&format!("`larder remote rm {}` goes on with the removal", args.remote))
        }
    })?;
    let text = format!(
        "{place}: removed {} in {}",
        size::format(erased.bytes),
        output::counted(erased.objects, "object")
    );
    output::done(context, &text, &json!({ "url": place, "objects": erased.objects, "bytes": erased.bytes }))?;
    Ok(Exit::Ok)
}

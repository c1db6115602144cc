//! `larder check`

use super::args::CheckArgs;
use super::progress::Progress;
use super::{CommandResult, Context, output};
use crate::backing::{Dir, OsDir};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::host::{server_of, store_of};
use crate::meta::Inspector;
use crate::root::Root;
use crate::store::{Header, LockMode, Sealer, Segments, StoreId, StoreLock};
use crate::volume::check::{CheckOptions, Report, check};
use crate::volume::{Result, VolumeError};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Serialize)]
struct Printed<'a> {
    volume: &'a str,
    clean: bool,
    #[serde(flatten)]
    report: &'a Report,
}

pub(super) fn run(context: &Context, args: &CheckArgs) -> CommandResult {
    let id = store_of(&context.root, &args.name)?;
    let mut keys = None;
    let report = {
        let mut bar = Progress::new();
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let result = match server_of(&context.root, id)? {
                Some(mut client) => {
                    client.check(args.read_data, |phase, at| bar.update(phase, at.done, at.total))
                }
                None => {
                    let keys = match &keys {
                        Some(keys) => keys,
                        None => keys.insert(args.secret.named().keys(&context.root, id, &args.name)?),
                    };
                    check_closed(&context.root, id, keys, args, &mut bar)
                }
            };
            match result {
                // A server that is starting, ending or dying: it will be clear in a moment which.
                Err(e) if matches!(e.exit, Exit::Busy | Exit::Failure) && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                other => break other?,
            }
        }
    };
    if context.json {
        output::json(&Printed { volume: &args.name, clean: report.is_clean(), report: &report })?;
    } else {
        print(&args.name, &report)?;
    }
    Ok(if report.is_clean() { Exit::Ok } else { Exit::Damaged })
}

fn check_closed(
    root: &Root,
    id: StoreId,
    keys: &Keys,
    args: &CheckArgs,
    bar: &mut Progress,
) -> Result<Report> {
    let path = root.store(id);
    let _lock =
        StoreLock::try_acquire(&path, LockMode::Shared).map_err(|e| VolumeError::io(&path, &e))?.ok_or_else(
            || VolumeError::new(Exit::Busy, format!("volume {:?} is in use by another process", args.name)),
        )?;
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(&path));
    let header = Header::read(&*dir)?;
    header.check_keys(&*dir, keys)?;
    let inspector = Inspector::open_with(Arc::clone(&dir), header.store, keys)?;
    let segments = Segments::new(dir, header.store, Sealer::new(keys), 0..0);
    let options = CheckOptions { read_data: args.read_data, online: false };
    check(&inspector, &segments, options, &mut |at| bar.update(at.phase, at.done, at.total))
}

fn print(name: &str, report: &Report) -> Result<()> {
    for note in &report.notes {
        output::line(&format!("note: {note}"))?;
    }
    for fault in &report.faults {
        output::line(&format!("fault: {}", fault.message))?;
    }
    if report.more_faults > 0 {
        output::line(&format!("and {} faults more", report.more_faults))?;
    }
    let Report { inodes, entries, blocks, segments, blocks_read, .. } = report;
    let verdict = match report.faults.len() as u64 + report.more_faults {
        0 => "clean".to_owned(),
        1 => "1 fault".to_owned(),
        n => format!("{n} faults"),
    };
    let read = if *blocks_read > 0 { format!(", {blocks_read} of them read") } else { String::new() };
    output::line(&format!(
        "{name}: {verdict}; {inodes} inodes, {entries} entries, {blocks} blocks in {segments} segments{read}"
    ))
}

//! `larder check`

use super::args::CheckArgs;
use super::progress::Progress;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::Question;
use crate::volume::check::Report;
use crate::volume::{self, Result, VolumeError, check_offline};
use serde::Serialize;
use std::cell::RefCell;

#[derive(Serialize)]
struct Printed<'a> {
    volume: &'a str,
    clean: bool,
    #[serde(flatten)]
    report: &'a Report,
}

pub(super) fn run(context: &Context, args: &CheckArgs) -> CommandResult {
    let bar = RefCell::new(Progress::new());
    let update = |phase: &str, done, total| bar.borrow_mut().update(phase, done, total);
    let secret = args.secret.named();
    let report = Question::reading(&context.root, &args.name, Some(&secret)).ask(
        |client| {
            if client.status()?.volumes.iter().all(|info| info.name != args.name) {
                return Err(VolumeError::no_volume(&args.name));
            }
            client.check(args.read_data, |phase, at| update(phase, at.done, at.total))
        },
        |id, keys| {
            let mut progress = |at: volume::check::Progress| update(at.phase, at.done, at.total);
            check_offline(&context.root, id, &args.name, keys, args.read_data, &mut progress)
        },
    );
    // The bar goes before anything else is printed.
    drop(bar);
    let report = report?;
    if context.json {
        output::json(&Printed { volume: &args.name, clean: report.is_clean(), report: &report })?;
    } else {
        print(&args.name, &report)?;
    }
    Ok(if report.is_clean() { Exit::Ok } else { Exit::Damaged })
}

fn print(name: &str, report: &Report) -> Result<()> {
    for note in &report.notes {
        output::line(&format!("note: {note}"))?;
    }
    for fault in &report.faults {
        output::line(&format!("fault: {}", fault.message))?;
    }
    if report.more_faults > 0 {
        output::line(&format!("and {} more faults", report.more_faults))?;
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

//! `larder check`

use super::progress::Progress;
use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::health::{Notes, Reason, code, now_ms};
use crate::host::{Question, Secrets, ShownReason, note_check, remembered_secrets, store_of, time};
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::check::Report;
use crate::volume::{self, Result, VolumeError, check_offline};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::HashMap;

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Name of the volume
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,
    /// Check all volumes, and say a line about each
    #[arg(long)]
    all: bool,
    /// Read every block and verify it
    #[arg(long)]
    read_data: bool,
    #[command(flatten)]
    secret: SecretArgs,
}

#[derive(Serialize)]
struct Printed<'a> {
    volume: &'a str,
    /// Whether nothing is wrong; null if that is not known, because contents were not looked at.
    clean: Option<bool>,
    /// Nothing is wrong with what was looked at.
    no_faults: bool,
    /// Contents were looked at, too.
    contents_read: bool,
    /// What was noted before of what was not looked at.
    noted: Vec<ShownReason>,
    #[serde(flatten)]
    report: &'a Report,
}

impl<'a> Printed<'a> {
    fn new(root: &Root, volume: &'a str, contents_read: bool, report: &'a Report) -> Self {
        let noted = noted(root, volume, contents_read).iter().map(ShownReason::new).collect();
        let contents_read = contents_read && report.has_seen_metadata();
        let no_faults = report.is_clean();
        let clean = (contents_read || !no_faults).then_some(no_faults);
        Self { volume, clean, no_faults, contents_read, noted, report }
    }
}

/// What is noted of damaged contents, where this check has not looked at them.
fn noted(root: &Root, name: &str, contents_read: bool) -> Vec<Reason> {
    let Ok(id) = store_of(root, name) else { return Vec::new() };
    if contents_read {
        return Vec::new();
    }
    let mut reasons = Notes::of(root, id).reasons;
    reasons.retain(|reason| reason.code == code::UNREADABLE && reason.concerns(name));
    reasons
}

pub(super) fn run(context: &Context, args: &CheckArgs) -> CommandResult {
    let Some(name) = &args.name else { return all(context, args) };
    let report = check(context, name, &args.secret.named(), args.read_data)?;
    if context.json {
        output::json(&Printed::new(&context.root, name, args.read_data, &report))?;
    } else {
        print(name, args.read_data, &report)?;
        for reason in noted(&context.root, name, args.read_data) {
            let since = time(reason.since);
            output::line(&format!(
                "{name}: noted since {since}: {} (`larder status {name}`)",
                reason.sentence()
            ))?;
        }
    }
    Ok(exit_of(&report))
}

fn exit_of(report: &Report) -> Exit {
    if report.is_clean() { Exit::Ok } else { Exit::Damaged }
}

/// Checks the store of a volume, through its server if it has one.
fn check(context: &Context, name: &str, secret: &Secrets, read_data: bool) -> Result<Report> {
    let began = now_ms();
    // It goes when this returns, before anything else is printed.
    let bar = RefCell::new(Progress::new());
    let update = |phase: &str, done, total| bar.borrow_mut().update(phase, done, total);
    let report = Question::reading(&context.root, name, Some(secret)).ask(
        |client| {
            if client.status()?.volumes.iter().all(|info| info.name != name) {
                return Err(VolumeError::no_volume(name));
            }
            client.check(read_data, |phase, at| update(phase, at.done, at.total))
        },
        |id, keys| {
            let mut progress = |at: volume::check::Progress| update(at.phase, at.done, at.total);
            check_offline(&context.root, id, name, keys, read_data, &mut progress)
        },
    )?;
    note_check(&context.root, name, &report, (began, read_data));
    Ok(report)
}

/// Checks every volume, each store once. The exit code is the worst: damage, or else the last that kept one from being checked.
fn all(context: &Context, args: &CheckArgs) -> CommandResult {
    let root = &context.root;
    let names = root.names().map_err(|e| VolumeError::io(&root.volumes(), &e))?;
    let mut exit = Exit::Ok;
    let mut reports: HashMap<StoreId, Report> = HashMap::new();
    let mut printed = Vec::new();
    for name in &names {
        let report = store_of(root, name).and_then(|id| {
            if let Some(report) = reports.get(&id) {
                return Ok(report.clone());
            }
            let secret = match args.secret.named() {
                given if given.is_given() => given,
                _ => remembered_secrets(root, name, id)?,
            };
            let report = check(context, name, &secret, args.read_data)?;
            reports.insert(id, report.clone());
            Ok(report)
        });
        match report {
            Ok(report) => {
                if !report.is_clean() {
                    exit = Exit::Damaged;
                }
                if context.json {
                    printed.push((name, report));
                } else {
                    output::line(&in_a_line(name, args.read_data, &report))?;
                }
            }
            // All that an interrupted command left of a volume is its name.
            Err(e) if e.exit == Exit::NoVolume => {}
            Err(e) => {
                if exit != Exit::Damaged {
                    exit = e.exit;
                }
                output::error(e.context(&format!("volume {name:?} is not checked")));
            }
        }
    }
    if context.json {
        let all = printed.iter().map(|(name, report)| Printed::new(root, name, args.read_data, report));
        output::json(&all.collect::<Vec<_>>())?;
    }
    Ok(exit)
}

/// What was found, and what was not looked at.
fn verdict(read_data: bool, report: &Report) -> String {
    let Report { inodes, entries, blocks, segments, .. } = report;
    let faults = match report.faults.len() as u64 + report.more_faults {
        0 if read_data => "clean".to_owned(),
        0 => "metadata clean".to_owned(),
        1 => "1 fault".to_owned(),
        n => format!("{n} faults"),
    };
    if !report.has_seen_metadata() {
        // What they say of anything else was not believed, and the counts are none.
        return format!("{faults}; nothing else could be checked, because the metadata are damaged");
    }
    let contents = match (read_data, report.blocks_read == report.blocks) {
        (true, true) => "all of them read".to_owned(),
        (true, false) if report.blocks_absent > 0 => format!(
            "{} of them read; {} are not on this host (`larder remote check` looks at those)",
            report.blocks_read, report.blocks_absent
        ),
        (true, false) => format!("{} of them read", report.blocks_read),
        (false, _) => "contents not read (--read-data reads them)".to_owned(),
    };
    let count = |n: &u64, one: &str, many: &str| format!("{n} {}", if *n == 1 { one } else { many });
    format!(
        "{faults}; {}, {}, {} in {}; {contents}",
        count(inodes, "inode", "inodes"),
        count(entries, "entry", "entries"),
        count(blocks, "block", "blocks"),
        count(segments, "segment", "segments")
    )
}

fn in_a_line(name: &str, read_data: bool, report: &Report) -> String {
    let first = report.faults.first().map(|fault| format!("; the first fault: {}", fault.message));
    format!("{name}: {}{}", verdict(read_data, report), first.unwrap_or_default())
}

fn print(name: &str, read_data: bool, report: &Report) -> Result<()> {
    for note in &report.notes {
        output::line(&format!("note: {note}"))?;
    }
    for fault in &report.faults {
        output::line(&format!("fault: {}", fault.message))?;
    }
    if report.more_faults > 0 {
        output::line(&format!("and {}", output::counted(report.more_faults, "more fault")))?;
    }
    output::line(&format!("{name}: {}", verdict(read_data, report)))
}

//! `larder snapshot rm`

use crate::cli::confirm::{confirm, refused};
use crate::cli::secret::SecretArgs;
use crate::cli::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Question, Secrets, Snapshot, alter_each, snapshots, time};
use crate::root::Root;
use crate::size;
use crate::volume::{Alteration, Result, Selection, SnapshotInfo, VolumeError};
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SnapshotRmArgs {
    /// The snapshots: by name; by a pattern, as in 'db@daily-*'; or from one to another, by age, as in db@first%last (db@%last from the
    /// oldest on, db@first% up to the newest). It asks before it removes any that are not named
    #[arg(required = true, value_name = "VOLUME@SNAPSHOT")]
    snapshots: Vec<String>,
    /// Only show what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    secret: SecretArgs,
}

/// What is asked of one volume. The secret of its store is asked for once.
struct Part<'a> {
    question: Question<'a>,
    volume: &'a str,
    selections: Vec<&'a Selection>,
    chosen: Vec<SnapshotInfo>,
}

impl<'a> Part<'a> {
    /// By volume, in the order in which they are named.
    fn all(root: &'a Root, selections: &'a [Selection], secret: &'a Secrets) -> Vec<Self> {
        let mut parts: Vec<Self> = Vec::new();
        for selection in selections {
            let volume = selection.volume.as_str();
            match parts.iter_mut().find(|part| part.volume == volume) {
                Some(part) => part.selections.push(selection),
                None => parts.push(Self {
                    question: Question::reading(root, volume, Some(secret)),
                    volume,
                    selections: vec![selection],
                    chosen: Vec::new(),
                }),
            }
        }
        parts
    }

    /// Finds out which snapshots are meant, and tells `failed` of what is not there.
    fn choose(&mut self, mut failed: impl FnMut(VolumeError)) {
        let all = match snapshots(&self.question) {
            Ok(all) => all,
            Err(e) => return failed(e),
        };
        let mut names = BTreeSet::new();
        for selection in &self.selections {
            match selection.choose(&all) {
                Ok(chosen) if chosen.is_empty() => failed(VolumeError::new(
                    Exit::NoVolume,
                    format!(
                        "no snapshot of volume {:?} matches; `larder snapshot ls {0}` lists them",
                        self.volume
                    ),
                )),
                Ok(chosen) => names.extend(chosen.into_iter().map(|snapshot| snapshot.name.clone())),
                Err(e) => failed(e),
            }
        }
        self.chosen = all.into_iter().filter(|snapshot| names.contains(&snapshot.name)).collect();
    }
}

pub(super) fn run(context: &Context, args: &SnapshotRmArgs) -> CommandResult {
    let selections = args.snapshots.iter().map(|text| Selection::parse(text)).collect::<Result<Vec<_>>>()?;
    let secret = args.secret.named();
    let mut parts = Part::all(&context.root, &selections, &secret);
    let mut exit = Exit::Ok;
    let mut failed = |e: VolumeError| {
        output::error(&e);
        exit = e.exit;
    };
    for part in &mut parts {
        part.choose(&mut failed);
    }
    if args.dry_run {
        show(context, &parts)?;
        return Ok(exit);
    }
    let is_named = selections.iter().all(|selection| selection.name().is_some());
    let count: usize = parts.iter().map(|part| part.chosen.len()).sum();
    if count > 0 && !args.force && !is_named {
        let (header, rows) = table(&parts);
        output::table_to_ask(context, &header, &rows)?;
        let what = if count == 1 { "this snapshot".into() } else { format!("these {count} snapshots") };
        if !confirm(&format!("Remove {what}?"))? {
            return Err(refused());
        }
    }
    let mut removed = Vec::new();
    for part in parts {
        let result =
            remove(part.question.to_change(), part.volume, &part.chosen, |name, result| match result {
                Ok(()) if context.json => {
                    removed.push(name);
                    Ok(())
                }
                Ok(()) => output::line(&name),
                // The others are removed all the same.
                Err(e) => {
                    output::error(e.clone().context(&format!("cannot remove {name:?}")));
                    exit = e.exit;
                    Ok(())
                }
            });
        if let Err(e) = result {
            output::error(e.clone().context(&format!("cannot remove snapshots of {:?}", part.volume)));
            exit = e.exit;
        }
    }
    if context.json {
        output::json(&removed)?;
    }
    Ok(exit)
}

/// Removes these snapshots of a volume, as they were found with the same question: not what is called like them by now. `done` is told the
/// full name of each, and what became of it.
pub(super) fn remove(
    question: Question<'_>,
    volume: &str,
    chosen: &[SnapshotInfo],
    mut done: impl FnMut(String, Result<()>) -> Result<()>,
) -> Result<()> {
    let change = |of: &SnapshotInfo| Alteration::RemoveSnapshot {
        volume: volume.to_owned(),
        name: of.name.clone(),
        id: of.id,
    };
    let changes: Vec<Alteration> = chosen.iter().map(change).collect();
    let mut said = Ok(());
    alter_each(&question, &changes, |change, result| {
        if let Alteration::RemoveSnapshot { volume, name, .. } = change
            && let Err(e) = done(format!("{volume}@{name}"), result.map(drop))
        {
            said = Err(e);
        }
    })?;
    said
}

fn show(context: &Context, parts: &[Part<'_>]) -> Result<()> {
    if !context.json {
        let (header, rows) = table(parts);
        return output::table(&header, &rows);
    }
    let rows = parts.iter().flat_map(|part| {
        let row = |snapshot: &SnapshotInfo| Row { volume: part.volume, snapshot: snapshot.clone().into() };
        part.chosen.iter().map(row)
    });
    output::json(&rows.collect::<Vec<_>>())
}

/// A snapshot that would be removed, as programs read it.
#[derive(Serialize)]
struct Row<'a> {
    volume: &'a str,
    #[serde(flatten)]
    snapshot: Snapshot,
}

fn table(parts: &[Part<'_>]) -> ([&'static str; 4], Vec<Vec<String>>) {
    let rows = parts.iter().flat_map(|part| {
        part.chosen.iter().map(|snapshot| {
            vec![
                format!("{}@{}", part.volume, snapshot.name),
                time(snapshot.created),
                snapshot.used.map_or("-".into(), size::format),
                snapshot.holds.join(","),
            ]
        })
    });
    (["SNAPSHOT", "CREATED", "USED", "HOLDS"], rows.collect())
}

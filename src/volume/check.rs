//! The read-only consistency check: every tree, count, extent and usage figure; on request, every seal.
//!
//! It reads one commit of the metadata and recomputes from it everything that is stored more than once. It never
//! changes or repairs anything: a store that was only interrupted recovers at its next open, and what `check` finds is
//! damage.

mod blocks;
mod damage;
mod data;
mod report;
mod scrub;
mod tree;

pub use report::{Affected, Fault, FaultKind, Report};
pub use scrub::{Access, Ended, Step, Survey, Surveyed};

use super::error::Result;
use crate::meta::Inspector;
use crate::store::{Run, Segments};
use blocks::Blocks;

/// How thorough a check is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Read every block and open its seal.
    pub read_data: bool,
    /// The store is in use: files that the commit at hand does not know may be newer than it.
    pub online: bool,
}

/// How far a check has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being checked.
    pub phase: &'static str,
    /// Done, in units of the phase.
    pub done: u64,
    /// To be done; 0 if that is not known.
    pub total: u64,
}

/// Checks the store behind `inspector` and `segments`.
///
/// # Errors
/// Only when the check itself cannot go on; faults are in the report.
pub fn check(
    inspector: &mut Inspector,
    segments: &Segments,
    options: CheckOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report> {
    let (mut report, blocks) = check_metadata(inspector, segments, options, progress);
    if let Some(blocks) = blocks.filter(|_| options.read_data) {
        let read = data::check(inspector, segments, &blocks, options.online, (progress, &mut report));
        if let Err(e) = read {
            report.fault(FaultKind::Database, e.to_string());
        }
    }
    Ok(report)
}

/// The blocks that something refers to, ascending.
///
/// # Errors
/// As the metadata.
pub fn live_blocks(inspector: &Inspector) -> Result<Vec<Run>, crate::meta::MetaError> {
    let mut blocks = Blocks::new(inspector.segments()?, inspector.shares()?);
    blocks.refer_all(inspector, &mut Report::default())?;
    Ok(blocks.segments().flat_map(|id| blocks.runs_of(id)).collect())
}

/// Checks everything but the contents of blocks. Which blocks there are is not known if the database cannot be trusted.
fn check_metadata(
    inspector: &mut Inspector,
    segments: &Segments,
    options: CheckOptions,
    progress: &mut dyn FnMut(Progress),
) -> (Report, Option<Blocks>) {
    let mut report = Report::default();
    progress(Progress { phase: "database", done: 0, total: 0 });
    match inspector.database_faults() {
        Ok(faults) => {
            for fault in faults {
                report.fault(FaultKind::Database, fault);
            }
        }
        Err(e) => report.fault(FaultKind::Database, e.to_string()),
    }
    if !report.faults.is_empty() {
        // What the database says of the rest cannot be trusted.
        return (report, None);
    }
    match check_contents(inspector, segments, options, progress, &mut report) {
        Ok(blocks) => (report, Some(blocks)),
        Err(e) => {
            report.fault(FaultKind::Database, e.to_string());
            (report, None)
        }
    }
}

fn check_contents(
    inspector: &mut Inspector,
    segments: &Segments,
    options: CheckOptions,
    progress: &mut dyn FnMut(Progress),
    report: &mut Report,
) -> Result<Blocks, crate::meta::MetaError> {
    let mut blocks = Blocks::new(inspector.segments()?, inspector.shares()?);
    for row in inspector.views()? {
        let facts = tree::check(inspector, &row, progress, report)?;
        blocks.count(inspector, &row, &facts, progress, report)?;
    }
    blocks.refer_all(inspector, report)?;
    if !inspector.has_leftovers() {
        tree::check_strays(inspector, report)?;
    }
    if inspector.has_dead() {
        report.notes.push("space of removed snapshots or volumes is still being given back".into());
    } else {
        for (table, count) in inspector.unseen_rows()? {
            report.fault(
                FaultKind::Tree,
                format!("{count} rows of table {table} belong to no volume and no snapshot"),
            );
        }
    }
    blocks.check(inspector, segments, options, report)?;
    Ok(blocks)
}

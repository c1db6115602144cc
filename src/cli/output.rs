//! Tables and JSON.

use crate::exit_code::Exit;
use crate::volume::VolumeError;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use tabwriter::TabWriter;

fn failed(e: &io::Error) -> VolumeError {
    VolumeError::new(Exit::HostIo, format!("writing to standard output: {e}"))
}

/// Nobody reads on: `larder ls | head -1`. That is no error.
fn unless_closed(result: io::Result<()>) -> Result<(), VolumeError> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| failed(&e)),
    }
}

/// Prints a line.
pub(super) fn line(text: &str) -> Result<(), VolumeError> {
    unless_closed(writeln!(io::stdout(), "{text}"))
}

/// Prints a value as JSON.
pub(super) fn json(value: &impl Serialize) -> Result<(), VolumeError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| failed(&e.into()))?;
    line(&text)
}

/// A list as a cell of a table.
pub(super) fn list(items: &[String]) -> String {
    if items.is_empty() { "-".into() } else { items.join(", ") }
}

/// The mount IDs of containers as a cell of a table: as much of each as tells them apart, as engines do.
pub(super) fn containers(ids: &BTreeMap<String, u64>) -> String {
    list(&ids.keys().map(|id| id.chars().take(12).collect()).collect::<Vec<String>>())
}

/// Prints rows in columns.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> Result<(), VolumeError> {
    let mut writer = TabWriter::new(io::stdout()).padding(3);
    let mut print = || {
        writeln!(writer, "{}", header.join("\t"))?;
        for row in rows {
            writeln!(writer, "{}", row.join("\t"))?;
        }
        writer.flush()
    };
    unless_closed(print())
}

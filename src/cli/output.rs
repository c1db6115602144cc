//! Tables and JSON.

use super::Context;
use super::confirm::is_read;
use crate::exit_code::Exit;
use crate::host::{Container, Inspection};
use crate::printable::{printable, printable_name};
use crate::volume::VolumeError;
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use tabwriter::TabWriter;

/// Whether a program reads what is printed.
static FOR_PROGRAMS: AtomicBool = AtomicBool::new(false);

/// From now on, errors and warnings are printed as JSON.
pub(super) fn print_for_programs() {
    FOR_PROGRAMS.store(true, Ordering::Relaxed);
}

/// Whether they are.
pub(super) fn is_for_programs() -> bool {
    FOR_PROGRAMS.load(Ordering::Relaxed)
}

fn failed(e: &io::Error) -> VolumeError {
    VolumeError::new(Exit::HostIo, format!("cannot write to standard output: {e}"))
}

/// Nobody reads on: `larder ls | head -1`. That is no error.
fn unless_closed(result: io::Result<()>) -> Result<(), VolumeError> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| failed(&e)),
    }
}

/// So many of something, which is `one` and gets an `s` where it is not one.
pub(super) fn counted(n: u64, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// Prints a line, whatever names are in it.
pub(super) fn line(text: &str) -> Result<(), VolumeError> {
    unless_closed(writeln!(io::stdout(), "{}", printable(text)))
}

/// Prints what was done: a line for people, or an object for programs.
pub(super) fn done(context: &Context, text: &str, object: &Value) -> Result<(), VolumeError> {
    if context.json { json(object) } else { line(text) }
}

/// Prints what happened to a name, or how it became another.
pub(super) fn change(sign: &str, names: &[&str]) -> Result<(), VolumeError> {
    let names: Vec<_> = names.iter().map(|name| printable_name(name)).collect();
    unless_closed(writeln!(io::stdout(), "{sign}\t{}", names.join(" -> ")))
}

/// What went wrong.
pub(super) struct Failure {
    exit: Exit,
    message: String,
}

impl From<&VolumeError> for Failure {
    fn from(e: &VolumeError) -> Self {
        Self { exit: e.exit, message: e.message.clone() }
    }
}

impl From<VolumeError> for Failure {
    fn from(e: VolumeError) -> Self {
        Self { exit: e.exit, message: e.message }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self { exit: Exit::Failure, message }
    }
}

/// Says what went wrong, in a line: for people as text, for programs as an object with a code that stays the same.
pub(super) fn error(what: impl Into<Failure>) {
    let Failure { exit, message } = what.into();
    said("error", &message, Some(exit));
}

/// An error about a volume, which is named once.
pub(super) fn about(name: &str, e: VolumeError) -> VolumeError {
    let volume = format!("{name:?}");
    if e.message.contains(&volume) { e } else { e.context(&format!("volume {volume}")) }
}

/// Says what somebody should know although the command goes on, in a line.
pub(super) fn warning(text: impl Display) {
    said("warning", &text.to_string(), None);
}

fn said(what: &str, message: &str, exit: Option<Exit>) {
    if !is_for_programs() {
        eprintln!("larder: {}", printable(message));
        return;
    }
    let said = match exit {
        Some(exit) => {
            serde_json::json!({ what: { "code": exit.name(), "message": message, "status": exit as u8 } })
        }
        None => serde_json::json!({ what: { "message": message } }),
    };
    eprintln!("{}", json_printable(&said.to_string()));
}

/// Prints a value as JSON.
pub(super) fn json(value: &impl Serialize) -> Result<(), VolumeError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| failed(&e.into()))?;
    unless_closed(writeln!(io::stdout(), "{}", json_printable(&text)))
}

/// A value as JSON in one line.
pub(super) fn json_line(value: &impl Serialize) -> Result<String, VolumeError> {
    let text = serde_json::to_string(value).map_err(|e| failed(&e.into()))?;
    Ok(json_printable(&text).into_owned())
}

/// The same JSON, without those characters that JSON may have as they are and that terminals act on. They can only stand in
/// strings.
fn json_printable(text: &str) -> Cow<'_, str> {
    let acts = |c: char| c != '\n' && printable(c.encode_utf8(&mut [0; 4])).len() > c.len_utf8();
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match acts(c) {
            // All of them are below U+10000.
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// A value as JSON, as a part of a line.
pub(super) fn json_text(value: &Value) -> String {
    json_printable(&value.to_string()).into_owned()
}

/// Prints lines that are made of what may be printed as it is; with cells between tabs, as `columns`.
pub(super) fn lines(lines: &[String], columns: bool) -> Result<(), VolumeError> {
    let print = |out: &mut dyn Write| {
        lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
        out.flush()
    };
    unless_closed(match columns {
        true => print(&mut TabWriter::new(io::stdout()).padding(3)),
        false => print(&mut io::stdout().lock()),
    })
}

/// A list as a cell of a table.
pub(super) fn list(items: &[String]) -> String {
    if items.is_empty() { "-".into() } else { items.join(", ") }
}

/// Where a volume is mounted, as a cell of a table.
pub(super) fn mountpoints(volume: &Inspection) -> String {
    let dead = volume.dead_mounts.iter().map(|dir| format!("{dir} (dead)"));
    let mut all: Vec<String> = volume.mountpoints.iter().cloned().chain(dead).collect();
    if volume.locked && all.is_empty() {
        all.push("(encrypted, locked)".into());
    }
    list(&all)
}

/// The containers that have a volume mounted, as a cell of a table. Where an engine has it mounted and none is to be seen (`docker cp`
/// does that to one that does not run), that is said.
pub(super) fn users(volume: &Inspection) -> String {
    match (volume.used_by.as_slice(), volume.mount_ids.len()) {
        ([], 0) => list(&[]),
        ([], 1) => "(an engine)".into(),
        ([], n) => format!("(an engine, {n} times)"),
        (containers, _) => list(&containers.iter().map(Container::label).collect::<Vec<_>>()),
    }
}

/// Prints rows in columns.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> Result<(), VolumeError> {
    unless_closed(print_table(io::stdout(), header, rows))
}

/// Prints rows in columns before a question about them: where a program reads what is printed, beside that, if somebody else reads it.
pub(super) fn table_to_ask(
    context: &Context,
    header: &[&str],
    rows: &[Vec<String>],
) -> Result<(), VolumeError> {
    match context.json {
        true if !is_read() => Ok(()),
        true => unless_closed(print_table(io::stderr(), header, rows)),
        false => table(header, rows),
    }
}

fn print_table(out: impl Write, header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let mut writer = TabWriter::new(out).padding(3);
    writeln!(writer, "{}", header.join("\t"))?;
    for row in rows {
        let cells: Vec<_> = row.iter().map(|cell| printable(cell)).collect();
        writeln!(writer, "{}", cells.join("\t"))?;
    }
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_the_same_json_without_what_terminals_act_on() {
        let value = serde_json::json!({ "a\u{9b}31m": ["\u{202e}x\u{7f}", "\x1b[1m\n", "猫\\u009b"] });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let printed = json_printable(&text);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).unwrap(), value);
        assert!(printed.lines().all(|line| printable(line) == line), "{printed}");
        assert!(matches!(json_printable("{\n  \"a\": 1\n}"), Cow::Borrowed(_)));
    }
}

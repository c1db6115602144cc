//! `larder config`

use super::{CommandResult, Context, output};
use crate::config::{Config, Setting};
use crate::exit_code::Exit;
use crate::host::checked;
use crate::volume::{Result, VolumeError};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub(super) enum ConfigCommand {
    /// Say whether a configuration can be used, and what cannot be understood
    Check {
        /// The file [default: that of this host]
        file: Option<PathBuf>,
    },
    /// Show what is in force, and where it comes from
    Show,
}

pub(super) fn run(context: &Context, command: &ConfigCommand) -> CommandResult {
    match command {
        ConfigCommand::Check { file } => check(context, file.clone()),
        ConfigCommand::Show => show(context),
    }
}

fn unusable(why: String) -> VolumeError {
    VolumeError::new(Exit::Usage, why)
}

fn check(context: &Context, file: Option<PathBuf>) -> CommandResult {
    let (usual, is_named) = Config::path();
    let path = file.clone().unwrap_or(usual);
    // Without a file there is nothing to be wrong, unless somebody has named it.
    let is_there = is_named || file.is_some() || path.symlink_metadata().is_ok();
    if is_there {
        let config = if file.is_none() && is_named { Config::load() } else { Config::load_from(&path) };
        let config = config.map_err(unusable)?;
        let in_file = |e: String| format!("{}: {e}", path.display());
        checked(&config).map_err(|e| unusable(in_file(e)))?;
        let found = contradictions(&config).map_err(|e| unusable(in_file(e)))?;
        found.into_iter().for_each(|what| output::warning(in_file(what)));
    }
    if context.json {
        output::json(&json!({ "file": path, "exists": is_there, "valid": true }))?;
    } else if is_there {
        output::line(&format!("{} can be used", path.display()))?;
    } else {
        output::line(&format!("there is no {}; the built-in defaults apply", path.display()))?;
    }
    Ok(Exit::Ok)
}

/// A line of what is in force.
struct Line {
    name: String,
    value: Value,
    from: String,
}

fn show(context: &Context) -> CommandResult {
    let (path, _) = Config::path();
    let config = Config::load().map_err(unusable)?;
    checked(&config).map_err(|e| unusable(format!("{}: {e}", path.display())))?;
    let lines = lines(context, &config).map_err(unusable)?;
    if context.json {
        let settings: Vec<Value> = lines
            .iter()
            .map(|line| json!({ "name": line.name, "value": line.value, "from": line.from }))
            .collect();
        output::json(&json!({ "file": path, "settings": settings }))?;
        return Ok(Exit::Ok);
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows: Vec<Vec<String>> =
        lines.into_iter().map(|line| vec![line.name, text(&line.value), line.from]).collect();
    output::table(&["NAME", "VALUE", "FROM"], &rows)?;
    Ok(Exit::Ok)
}

/// The value of an option: whether something is so, or else as one would write it.
fn typed(value: String) -> Value {
    match value.as_str() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => Value::String(value),
    }
}

/// What can be understood, and cannot be meant.
fn contradictions(config: &Config) -> Result<Vec<String>, String> {
    const ATIME: [&str; 3] = ["noatime", "relatime", "strictatime"];
    let mut found = Vec::new();
    let is_set = |of: &&Setting| ATIME.contains(&of.name.as_str()) && of.value == "true";
    let mount = config.mount()?;
    let mut atime: Vec<&Setting> = mount.iter().filter(is_set).collect();
    atime.sort_by_key(|of| of.line);
    if let [one, other, ..] = atime.as_slice() {
        found.push(format!(
            "line {}: {} and {} exclude each other; leave out one of them",
            other.line, one.name, other.name
        ));
    }
    let plain = config.create()?.into_iter().find(|of| of.name == "encrypt" && of.value == "false");
    if let Some(plain) = plain.filter(|_| config.requires_encryption_of_all()) {
        found.push(format!(
            "line {}: new volumes are not encrypted, and require-encryption refuses those; leave out one of the two",
            plain.line
        ));
    }
    Ok(found)
}

fn lines(context: &Context, config: &Config) -> Result<Vec<Line>, String> {
    let file = Config::path().0.display().to_string();
    let said = |line: Option<usize>| line.map(|line| format!("{file}, line {line}"));
    let root_file = said(config.line_of_key("root")).unwrap_or_else(|| file.clone());
    let mut lines = vec![Line {
        name: "root".into(),
        value: json!(context.root.path()),
        from: context.root_from.describe(&root_file),
    }];
    let table = |table: &str, settings: Vec<Setting>| {
        let line = |of: Setting| Line {
            name: format!("{table}.{}", of.name),
            // A label is text, whatever it says.
            value: if of.name.starts_with("label.") { of.value.into() } else { typed(of.value) },
            from: format!("{file}, line {}", of.line),
        };
        settings.into_iter().map(line).collect::<Vec<_>>()
    };
    lines.extend(table("policies", config.policies()));
    lines.extend(table("create", config.create()?));
    lines.extend(table("mount", config.mount()?));
    let values = |config: &Config| match serde_json::to_value(config) {
        Ok(Value::Object(values)) => Ok(values),
        Ok(_) => Ok(serde_json::Map::new()),
        Err(e) => Err(e.to_string()),
    };
    for (name, value) in values(config)? {
        let from = said(config.line_of_key(&name)).unwrap_or_else(|| "built in".to_owned());
        lines.push(Line { name, value, from });
    }
    Ok(lines)
}

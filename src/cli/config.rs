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
        checked(&config).map_err(|e| unusable(format!("{}: {e}", path.display())))?;
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
            value: json!(of.value),
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

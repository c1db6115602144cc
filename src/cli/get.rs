//! `larder get`

use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::config::Config;
use crate::exit_code::Exit;
use crate::host::{
    Inspection, Opening, Place, Record, Survey, VolumeOptions, configuration, format_history, options_of,
    place, trash, usual_mount,
};
use crate::mount::MountOptions;
use crate::nearest::nearest;
use crate::period;
use crate::remote::Local;
use crate::size;
use crate::volume::{Result, VolumeError, remote_of};
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct GetArgs {
    /// Name of the volume
    name: String,
    /// Which options; of one, only the value is printed [default: all]
    #[arg(value_name = "OPTION")]
    options: Vec<String>,
    #[command(flatten)]
    secret: SecretArgs,
}

/// An option, what it is, and who has said so.
struct Row {
    name: String,
    value: Value,
    from: String,
}

pub(super) fn run(context: &Context, args: &GetArgs) -> CommandResult {
    let (root, name) = (&context.root, &args.name);
    let place = place(root, name)?.ok_or_else(|| trash::no_volume(root, name))?;
    let secret = args.secret.named();
    let (volume, doubt) = Survey::new(root, false).volume(name, Opening::With(&secret))?;
    if let Some(e) = doubt {
        return Err(e);
    }
    let options = options_of(root, name, place)?;
    let mut rows = of_volume(&volume, place, &options);
    if let Place::Store(_) = place {
        let mountpoint = Record::of(root, name, place)?.and_then(|record| record.mountpoint);
        let from = if mountpoint.is_some() { "the volume" } else { "-" };
        rows.push(Row { name: "mountpoint".into(), value: json!(mountpoint), from: from.into() });
    }
    if let Place::Store(id) = place {
        rows.push(of_trash(options.trash)?);
        rows.extend(remote_of(root, id)?.iter().flat_map(of_remote));
    }
    rows.extend(of_mount(&options)?);
    rows.extend(volume.labels.iter().map(|(key, value)| Row {
        name: format!("label.{key}"),
        value: json!(value),
        from: "the volume".into(),
    }));
    let wanted = match args.options.as_slice() {
        [] => rows,
        names => named(rows, names)?,
    };
    print(context, args, &wanted)
}

fn named(rows: Vec<Row>, names: &[String]) -> Result<Vec<Row>> {
    let unknown = |name: &String| {
        let known = rows.iter().map(|row| row.name.as_str());
        let what = match nearest(name, known.clone()) {
            _ if name.starts_with("label.") => "`larder get VOLUME` lists its labels".to_owned(),
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("the options are {}", known.collect::<Vec<_>>().join(", ")),
        };
        VolumeError::new(Exit::Usage, format!("there is no option {name:?}; {what}"))
    };
    if let Some(name) = names.iter().find(|name| rows.iter().all(|row| row.name != **name)) {
        return Err(unknown(name));
    }
    let mut wanted = rows;
    wanted.retain(|row| names.contains(&row.name));
    wanted.sort_by_key(|row| names.iter().position(|name| *name == row.name));
    Ok(wanted)
}

fn of_volume(volume: &Inspection, place: Place, options: &VolumeOptions) -> Vec<Row> {
    let options = options.to_map();
    let row = |name: &str, value: Value| Row { name: name.into(), value, from: "the volume".into() };
    let file = |name: &str| match options.get(name) {
        Some(file) => row(name, json!(file)),
        None => Row { from: "-".into(), ..row(name, Value::Null) },
    };
    let mut rows = vec![
        row("type", json!(volume.r#type)),
        row("size", json!(volume.size)),
        row("inodes", json!(volume.inodes)),
        row("uid", json!(volume.uid)),
        row("gid", json!(volume.gid)),
        row("mode", json!(volume.mode)),
    ];
    if let Place::Store(_) = place {
        rows.extend([
            row("metadata", json!(volume.metadata)),
            row("encrypt", json!(volume.encrypted)),
            file("key-file"),
            file("passphrase-file"),
        ]);
    }
    rows.push(row("sticky", json!(volume.sticky)));
    rows
}

/// How it is kept in its remote.
fn of_remote(local: &Local) -> [Row; 7] {
    let row = |name: &str, value| Row { name: name.into(), value, from: "the volume".into() };
    let bytes = |bytes: u64| json!(Some(bytes).filter(|bytes| *bytes > 0));
    let history = format_history(local.history);
    [
        row("remote", json!(local.remote)),
        row("ship", json!(local.ship)),
        row("max-lag", bytes(local.max_lag)),
        row("local-size", bytes(local.local_size)),
        row("history", json!(history)),
        row("lease", json!(local.lease)),
        row("heartbeat", json!(local.heartbeat)),
    ]
}

/// How long it stays in the trash.
fn of_trash(own: Option<Duration>) -> Result<Row> {
    let row = |period, from| Row { name: "trash".into(), value: json!(period::format(period)), from };
    if let Some(own) = own {
        return Ok(row(own, "the volume".into()));
    }
    let config = configuration()?;
    let from = match config.line_of_key("trash") {
        Some(line) => format!("{}, line {line}", Config::path().0.display()),
        None => "built in".into(),
    };
    Ok(row(config.trash(), from))
}

/// How a volume is mounted for containers.
fn of_mount(options: &VolumeOptions) -> Result<Vec<Row>> {
    let usual = usual_mount()?;
    let usage = |e: String| VolumeError::new(Exit::Usage, e);
    let mounted = options.mount_over(&usual).map_err(usage)?;
    let file = Config::path().0.display().to_string();
    let in_file = configuration()?.mount().map_err(usage)?;
    let rows = MountOptions::shown().map(|name| {
        let same = MountOptions::settings_with(name);
        let said = |key: &str| key == name || same.contains(&key);
        let line = in_file.iter().find(|setting| said(&setting.name)).map(|setting| setting.line);
        let from = match (options.said.keys().any(|key| said(key)), line) {
            (true, _) => "the volume".to_owned(),
            (false, Some(line)) => format!("{file}, line {line}"),
            (false, None) => "built in".to_owned(),
        };
        Row { name: name.to_owned(), value: json!(mounted.value_of(name)), from }
    });
    Ok(rows.collect())
}

fn print(context: &Context, args: &GetArgs, rows: &[Row]) -> CommandResult {
    if context.json {
        let options =
            rows.iter().map(|row| (row.name.clone(), json!({ "value": row.value, "from": row.from })));
        let options: serde_json::Map<String, Value> = options.collect();
        output::json(&json!({ "name": args.name, "options": options }))?;
        return Ok(Exit::Ok);
    }
    if let ([row], [_]) = (rows, args.options.as_slice()) {
        output::line(&text(row))?;
        return Ok(Exit::Ok);
    }
    let lines: Vec<Vec<String>> =
        rows.iter().map(|row| vec![row.name.clone(), text(row), row.from.clone()]).collect();
    output::table(&["OPTION", "VALUE", "FROM"], &lines)?;
    Ok(Exit::Ok)
}

/// A value as `set` takes it.
fn text(row: &Row) -> String {
    match (&row.value, row.name.as_str()) {
        (Value::Null, "size" | "inodes" | "metadata" | "max-lag" | "local-size") => "none".into(),
        (Value::Null, _) => "-".into(),
        (Value::String(text), _) => text.clone(),
        (Value::Number(bytes), "size" | "metadata" | "max-lag" | "local-size") => {
            size::format_exact(bytes.as_u64().unwrap_or_default())
        }
        (value, _) => value.to_string(),
    }
}

//! `larder ls`

use super::engines::Engines;
use super::prune::Filter as LabelFilter;
use super::template::{Template, parse_template};
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Asking, Containers, Detail, Inspection, Place, Survey, dead_mounts, names, place};
use crate::mount;
use crate::root::Root;
use crate::size;
use crate::volume::{Result, VolumeError};
use serde_json::{Map, Value, json};
use std::time::SystemTime;

#[derive(Debug, clap::Args)]
pub(super) struct LsArgs {
    /// Names of the volumes [default: all]
    names: Vec<String>,
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
    /// Which: label=KEY[=VALUE], label!=KEY[=VALUE], name=PART, dangling=true (no container has it, not even one that is stopped; all
    /// engines of this user have to say so, and those of other users are not asked), driver=larder; can be given more than once
    #[arg(short, long, value_name = "FILTER", value_parser = parse_filter)]
    filter: Vec<Filter>,
    /// Print fields as a template says: "{{.Name}}: {{.Used}}", "table {{.Name}}\t{{.Size}}", "{{json .}}", json
    #[arg(long, value_name = "TEMPLATE", value_parser = parse_fields, conflicts_with = "quiet")]
    format: Option<Template>,
}

/// What templates can name, as Docker calls it where Docker has it.
const FIELDS: &[&str] = &[
    "Name",
    "Driver",
    "Scope",
    "Mountpoint",
    "Labels",
    "Size",
    "Links",
    "Status",
    "Availability",
    "Group",
    "Type",
    "Used",
    "UsedOnDisk",
    "Available",
    "Inodes",
    "Snapshots",
    "CreatedAt",
    "Encrypted",
    "Health",
    "Containers",
    "Options",
];

fn parse_fields(text: &str) -> Result<Template, String> {
    let template = parse_template(text)?;
    template.check(FIELDS).map(|()| template)
}

/// Which volumes are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Filter {
    Label(LabelFilter),
    Name(String),
    Dangling(bool),
    Driver(String),
}

fn parse_filter(text: &str) -> Result<Filter, String> {
    match text.split_once('=') {
        _ if text.starts_with("label") => super::prune::parse_filter(text).map(Filter::Label),
        Some(("name", part)) if !part.is_empty() => Ok(Filter::Name(part.to_owned())),
        Some(("driver", driver)) if !driver.is_empty() => Ok(Filter::Driver(driver.to_owned())),
        Some(("dangling", value)) => match value {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(Filter::Dangling(true)),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(Filter::Dangling(false)),
            _ => Err(format!("{text:?} is not a filter: write dangling=true or dangling=false")),
        },
        _ => Err(format!(
            "{text:?} is not a filter; the filters are label=KEY[=VALUE], label!=KEY[=VALUE], name=PART, dangling=true, driver=larder"
        )),
    }
}

/// Docker takes a part of a name, or an expression, of which people use the ends.
fn is_named(name: &str, wanted: &str) -> bool {
    match (wanted.strip_prefix('^'), wanted.strip_suffix('$')) {
        (Some(_), Some(_)) => name == wanted.trim_start_matches('^').trim_end_matches('$'),
        (Some(start), None) => name.starts_with(start),
        (None, Some(end)) => name.ends_with(end),
        (None, None) => name.contains(wanted),
    }
}

/// Labels all have to be so; of several names, drivers or states, one.
fn is_meant(filters: &[Filter], volume: &Inspection, is_dangling: bool) -> bool {
    let any = |is_kind: fn(&Filter) -> bool, so: &dyn Fn(&Filter) -> bool| {
        let mut of_kind = filters.iter().filter(|filter| is_kind(filter)).peekable();
        of_kind.peek().is_none() || of_kind.any(so)
    };
    filters.iter().all(|filter| match filter {
        Filter::Label(filter) => filter.admits(&volume.labels),
        _ => true,
    }) && any(
        |f| matches!(f, Filter::Name(_)),
        &|f| matches!(f, Filter::Name(part) if is_named(&volume.name, part)),
    ) && any(
        |f| matches!(f, Filter::Driver(_)),
        &|f| matches!(f, Filter::Driver(driver) if driver == "larder"),
    ) && any(
        |f| matches!(f, Filter::Dangling(_)),
        &|f| matches!(f, Filter::Dangling(wanted) if *wanted == is_dangling),
    )
}

/// Makes known to whoever still uses mounts of a volume whose server has died that they are dead.
fn mark_dead(root: &Root, name: &str) {
    let Ok(Some(Place::Store(id))) = place(root, name) else { return };
    for entry in dead_mounts(root, id, name) {
        mount::mark_dead(&entry.dir, name, entry.connection());
    }
}

pub(super) fn run(context: &Context, args: &LsArgs) -> CommandResult {
    let root = &context.root;
    if context.json && args.format.is_some() {
        return Err(VolumeError::new(Exit::Usage, "--format and --json cannot be used together"));
    }
    let all = names(root)?;
    // To ask engines takes time, and names alone need nobody's answer.
    let is_dangling_asked = args.filter.iter().any(|filter| matches!(filter, Filter::Dangling(_)));
    let names_only =
        args.quiet && args.filter.iter().all(|filter| matches!(filter, Filter::Name(_) | Filter::Driver(_)));
    let detail = if context.json || args.format.is_some() { Detail::All } else { Detail::Table };
    let survey = Survey::new(root, !args.quiet).showing(detail);
    let mut found = Vec::new();
    let mut exit = Exit::Ok;
    let wanted = if args.names.is_empty() { &all } else { &args.names };
    // Names are in order.
    let is_enough = |name: &String| names_only && all.binary_search(name).is_ok();
    let asked: Vec<String> = wanted.iter().filter(|name| !is_enough(name)).cloned().collect();
    let mut seen = survey.volumes(&asked).into_iter();
    for name in wanted {
        let looked = if is_enough(name) { None } else { seen.next() };
        match looked.unwrap_or_else(|| Ok((Inspection { name: name.clone(), ..Inspection::default() }, None)))
        {
            Ok((volume, doubt)) => {
                // The others are listed all the same. What a locked volume holds is nobody's fault.
                if let Some(e) = doubt.filter(|_| !volume.locked) {
                    exit = e.exit;
                    output::error(output::about(name, e));
                }
                found.push(volume);
            }
            // All that an interrupted command left of a volume is its name.
            Err(e) if e.exit == Exit::NoVolume && args.names.is_empty() => {}
            Err(e) => {
                output::error(&e);
                exit = e.exit;
            }
        }
    }
    let containers = is_dangling_asked.then(|| Containers::of_engines(root, Asking::Widely));
    let engines = containers.as_ref().map(|of| certain(Engines::ask(of, Asking::Widely))).transpose()?;
    found.retain(|volume| {
        let is_dangling = engines.as_ref().is_some_and(|engines| is_dangling(root, engines, volume));
        is_meant(&args.filter, volume, is_dangling)
    });
    // Where none of those that are named is there, a heading says nothing.
    if context.json || !found.is_empty() || args.names.is_empty() {
        print(context, args, &found)?;
    }
    Ok(exit)
}

/// All engines have to answer, as what is listed as nobody's may be removed.
fn certain(engines: Engines<'_>) -> Result<Engines<'_>> {
    match engines.doubts() {
        [] => Ok(engines),
        [why, ..] => {
            let what = format!("cannot tell which volumes no container uses: {why}");
            Err(VolumeError::new(Exit::Failure, what))
        }
    }
}

/// Whether no container has the volume, or was made with it. A mount by hand is no container's.
fn is_dangling(root: &Root, engines: &Engines<'_>, volume: &Inspection) -> bool {
    volume.mount_ids.is_empty()
        && volume.used_by.is_empty()
        && engines.made_with(root, &volume.name).is_empty()
}

fn print(context: &Context, args: &LsArgs, found: &[Inspection]) -> Result<()> {
    if context.json {
        return match args.quiet {
            true => output::json(&found.iter().map(|volume| &volume.name).collect::<Vec<_>>()),
            false => output::json(&found),
        };
    }
    if args.quiet {
        return found.iter().try_for_each(|volume| output::line(&volume.name));
    }
    let Some(template) = &args.format else { return table(&context.root, found) };
    let rows = found.iter().map(|volume| {
        let labels = volume.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        template.render(&fields(volume), &labels)
    });
    let heading = template.is_table.then(|| template.heading());
    output::lines(&heading.into_iter().chain(rows).collect::<Vec<_>>(), template.is_table)
}

/// A size, if it is known.
fn bytes(size: Option<u64>) -> String {
    size.map_or_else(|| "?".to_owned(), size::format)
}

/// A limit: known to be none, unless nothing is known.
fn limit(volume: &Inspection, limit: Option<u64>) -> String {
    limit.map_or_else(|| if volume.used.is_some() { "-" } else { "?" }.to_owned(), size::format)
}

fn on_disk(volume: &Inspection) -> String {
    let bytes = match volume.r#type {
        "tmpfs" => return "-".into(),
        _ => bytes(volume.disk_used),
    };
    match volume.family.len() {
        0 | 1 => bytes,
        n => format!("{bytes} (of {n})"),
    }
}

fn table(root: &Root, found: &[Inspection]) -> Result<()> {
    let moment = |volume: &Inspection| {
        let at = volume.remote.as_ref().and_then(|remote| remote.at.as_ref());
        at.map(|at| at.to_string())
    };
    // What few hosts have takes no room elsewhere.
    let has_moments = found.iter().any(|volume| moment(volume).is_some());
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|volume| {
            if volume.server.is_none() && !volume.dead_mounts.is_empty() {
                mark_dead(root, &volume.name);
            }
            let mut row = vec![
                volume.name.clone(),
                limit(volume, volume.size),
                bytes(volume.used),
                on_disk(volume),
                volume.inodes_used.map_or_else(|| "?".into(), |n| n.to_string()),
                volume.snapshots.as_ref().map_or_else(|| "?".into(), |of| of.len().to_string()),
                volume.created.as_deref().map_or_else(|| "?".into(), ago),
                output::mountpoints(volume),
                output::users(volume),
            ];
            row.extend(has_moments.then(|| moment(volume).unwrap_or_else(|| "-".into())));
            row
        })
        .collect();
    let mut heading = vec![
        "NAME",
        "SIZE",
        "USED",
        "USED ON DISK",
        "INODES",
        "SNAPSHOTS",
        "CREATED",
        "MOUNTED ON",
        "CONTAINERS",
    ];
    heading.extend(has_moments.then_some("STATE OF"));
    output::table(&heading, &rows)
}

/// How long ago something was, as people say it.
fn ago(time: &str) -> String {
    let Ok(time) = humantime::parse_rfc3339(time) else { return time.to_owned() };
    // Clocks are set back.
    let seconds = SystemTime::now().duration_since(time).unwrap_or_default().as_secs();
    let of = |n: u64, unit: &str| format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" });
    match seconds {
        0..60 => of(seconds, "second"),
        60..3600 => of(seconds / 60, "minute"),
        3600..172_800 => of(seconds / 3600, "hour"),
        172_800..1_209_600 => of(seconds / 86_400, "day"),
        1_209_600..5_184_000 => of(seconds / 604_800, "week"),
        5_184_000..63_072_000 => of(seconds / 2_592_000, "month"),
        _ => of(seconds / 31_536_000, "year"),
    }
}

/// The fields of a template: text, as with Docker.
fn fields(volume: &Inspection) -> Map<String, Value> {
    let pairs = |of: &std::collections::BTreeMap<String, String>| {
        of.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    };
    let values = [
        volume.name.clone(),
        "larder".into(),
        "local".into(),
        volume.mountpoints.first().cloned().unwrap_or_default(),
        pairs(&volume.labels),
        limit(volume, volume.size),
        volume.used_by.len().to_string(),
        volume.state.to_owned(),
        "N/A".into(),
        "N/A".into(),
        volume.r#type.to_owned(),
        bytes(volume.used),
        bytes(volume.disk_used),
        bytes(volume.available),
        volume.inodes_used.map_or_else(|| "?".into(), |n| n.to_string()),
        volume.snapshots.as_ref().map_or_else(|| "?".into(), |of| of.len().to_string()),
        volume.created.clone().unwrap_or_default(),
        volume.encrypted.to_string(),
        volume.health.name().to_owned(),
        volume.used_by.iter().map(crate::host::Container::label).collect::<Vec<_>>().join(","),
        pairs(&volume.options),
    ];
    FIELDS.iter().zip(values).map(|(name, value)| ((*name).to_owned(), Value::String(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn filters_mean_what_dockers_mean() {
        let volume = |name: &str, label: Option<&str>| Inspection {
            name: name.into(),
            labels: label.map(|value| ("app".to_owned(), value.to_owned())).into_iter().collect(),
            ..Inspection::default()
        };
        let (db, web) = (volume("shop-db", Some("shop")), volume("web", None));
        let meant = |filters: &[&str], dangling: bool| {
            let filters: Vec<Filter> = filters.iter().map(|text| parse_filter(text).unwrap()).collect();
            (is_meant(&filters, &db, dangling), is_meant(&filters, &web, !dangling))
        };
        for (filters, admitted) in [
            (&[][..], (true, true)),
            (&["name=db"], (true, false)),
            (&["name=db", "name=web"], (true, true)),
            (&["name=^db"], (false, false)),
            (&["name=db$"], (true, false)),
            (&["name=^web$"], (false, true)),
            (&["label=app"], (true, false)),
            (&["label=app=shop", "label=other"], (false, false)),
            (&["label!=app"], (false, true)),
            (&["dangling=true"], (true, false)),
            (&["dangling=0"], (false, true)),
            (&["dangling=true", "dangling=false"], (true, true)),
            (&["driver=larder"], (true, true)),
            (&["driver=local"], (false, false)),
            (&["label=app", "name=web"], (false, false)),
        ] {
            assert_eq!(meant(filters, true), admitted, "{filters:?}");
        }
        for bad in ["", "name=", "dangling=maybe", "until=1h", "label=", "driver="] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_field_has_a_value_and_its_own() {
        let fields = fields(&Inspection { name: "db".into(), ..Inspection::default() });
        assert_eq!(fields.len(), FIELDS.len());
        assert_eq!(
            (&fields["Name"], &fields["Health"], &fields["Driver"]),
            (&json!("db"), &json!("ok"), &json!("larder"))
        );
        assert!(parse_fields("{{.Nmae}}").unwrap_err().contains("did you mean .Name?"));
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        let said = |seconds: u64| {
            ago(&humantime::format_rfc3339_seconds(SystemTime::now() - Duration::from_secs(seconds))
                .to_string())
        };
        for (seconds, words) in [
            (90, "1 minute ago"),
            (7200, "2 hours ago"),
            (3 * 86_400, "3 days ago"),
            (800 * 86_400, "2 years ago"),
        ] {
            assert_eq!(said(seconds), words);
        }
        // It is in the future.
        assert_eq!(ago("2999-01-01T00:00:00Z"), "0 seconds ago");
        assert_eq!(ago("nonsense"), "nonsense");
    }
}

//! `larder status`

use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::health::Level;
use crate::host::trash::no_volume;
use crate::host::{HealthLooker, ShownReason, VolumeHealth, acknowledge, names, place, time};
use crate::root::Root;
use crate::volume::{Result, nameless};
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Names of the volumes [default: all]
    names: Vec<String>,
    /// Only those that are not healthy, a line each
    #[arg(short = 'x', long)]
    unhealthy: bool,
    /// Take note of what is wrong with the volumes named: what has been noted of them is forgotten, and what is still so stays
    #[arg(long, requires = "names", conflicts_with = "unhealthy")]
    acknowledge: bool,
}

#[derive(Serialize)]
struct Printed<'a> {
    volume: &'a str,
    health: Level,
    reasons: Vec<ShownReason>,
}

pub(super) fn run(context: &Context, args: &StatusArgs) -> CommandResult {
    let root = &context.root;
    let all = args.names.is_empty();
    let named = if all { names(root)? } else { args.names.clone() };
    for name in &named {
        if !all && place(root, name)?.is_none() {
            return Err(no_volume(root, name));
        }
    }
    if args.acknowledge {
        return acknowledge_all(context, &named);
    }
    if all {
        for id in nameless(root) {
            output::warning(format!(
                "{} is a store without a volume; `ln -s {} {}`, with the name that its volume had, brings it back",
                root.store(id).display(),
                Root::link_target(id).display(),
                root.link("NAME").display()
            ));
        }
    }
    let looked = HealthLooker::new(root).look_at(&named);
    let found: Vec<(String, VolumeHealth)> = named
        .into_iter()
        .zip(looked)
        // It was removed meanwhile, perhaps.
        .filter(|(name, _)| !matches!(place(root, name), Ok(None)))
        .collect();
    let exit = match found.iter().all(|(_, health)| health.level == Level::Ok) {
        true => Exit::Ok,
        false => Exit::Unhealthy,
    };
    let meant = |health: &VolumeHealth| !args.unhealthy || health.level != Level::Ok;
    let found: Vec<_> = found.into_iter().filter(|(_, health)| meant(health)).collect();
    if context.json {
        let printed = found.iter().map(|(name, health)| {
            let (health, reasons) = (health.level, health.shown());
            Printed { volume: name, health, reasons }
        });
        output::json(&printed.collect::<Vec<_>>())?;
    } else if args.unhealthy {
        print_lines(&found, all)?;
    } else if all {
        print_table(&found)?;
    } else {
        print_all(&found)?;
    }
    Ok(exit)
}

/// What is worst, in a line.
fn in_a_line(name: &str, health: &VolumeHealth) -> String {
    let Some(reason) = health.reasons.first() else { return format!("{name}: {}", health.level.name()) };
    let more = match health.reasons.len() - 1 {
        0 => String::new(),
        n => format!(" (and {n} more: `larder status {name}`)"),
    };
    let since = reason.began().map_or_else(String::new, |since| format!(" since {}", time(since)));
    format!("{name}: {}{since}: {}{more}", health.level.name(), reason.sentence())
}

fn print_lines(found: &[(String, VolumeHealth)], all: bool) -> Result<()> {
    if found.is_empty() {
        return output::line(if all { "all volumes are healthy" } else { "these volumes are healthy" });
    }
    found.iter().try_for_each(|(name, health)| output::line(&in_a_line(name, health)))
}

fn print_table(found: &[(String, VolumeHealth)]) -> Result<()> {
    let row = |(name, health): &(String, VolumeHealth)| {
        let (since, what) = match health.reasons.first() {
            Some(reason) => (reason.began().map_or_else(|| "-".to_owned(), time), reason.sentence()),
            None => ("-".to_owned(), "-".to_owned()),
        };
        vec![name.clone(), health.level.name().to_owned(), since, what]
    };
    output::table(&["NAME", "HEALTH", "SINCE", "WHAT IS WRONG"], &found.iter().map(row).collect::<Vec<_>>())
}

fn print_all(found: &[(String, VolumeHealth)]) -> Result<()> {
    for (name, health) in found {
        output::line(&format!("{name}: {}", health.level.name()))?;
        for reason in &health.reasons {
            let (code, level) = (&reason.code, reason.level.name());
            let since = reason.began().map_or_else(String::new, |since| format!(", since {}", time(since)));
            output::line(&format!("  {code} ({level}{since}): {}", reason.sentence()))?;
            output::line(&format!("    what to do: {}", reason.advice))?;
        }
    }
    Ok(())
}

fn acknowledge_all(context: &Context, names: &[String]) -> CommandResult {
    let mut taken = Vec::new();
    for name in names {
        for reason in acknowledge(&context.root, name)? {
            if !context.json {
                output::line(&format!("{name}: acknowledged: {}: {}", reason.code, reason.sentence()))?;
            }
            taken.push((name, reason));
        }
    }
    if context.json {
        let printed = taken.iter().map(|(name, reason)| Printed {
            volume: name,
            health: reason.level,
            reasons: vec![ShownReason::new(reason)],
        });
        output::json(&printed.collect::<Vec<_>>())?;
    } else if taken.is_empty() {
        output::line("nothing was noted")?;
    }
    Ok(Exit::Ok)
}

//! `larder df`

use super::args::DfArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Detail, Inspection, Opening, Survey, names, trash};
use crate::size;

const HEADER: [&str; 11] = [
    "VOLUME",
    "SIZE",
    "USED",
    "AVAIL",
    "USE%",
    "INODES",
    "IUSED",
    "META",
    "MUSED",
    "MOUNTED ON",
    "CONTAINERS",
];

pub(super) fn run(context: &Context, args: &DfArgs) -> CommandResult {
    let root = &context.root;
    let detail = if context.json { Detail::All } else { Detail::Usage };
    let survey = Survey::new(root, true).showing(detail);
    let all = args.names.is_empty();
    let names = if all { names(root)? } else { args.names.clone() };
    let secret = args.secret.named();
    let mut rows = Vec::new();
    let mut exit = Exit::Ok;
    let seen: Box<dyn Iterator<Item = _>> = if all && !secret.is_given() {
        Box::new(survey.volumes(&names).into_iter())
    } else {
        // Somebody may be asked for a passphrase.
        Box::new(names.iter().map(|name| survey.volume(name, Opening::With(&secret))))
    };
    for (name, looked) in names.iter().zip(seen) {
        match looked {
            // The others are shown all the same.
            Ok((_, Some(e))) | Err(e) if !all => {
                exit = e.exit;
                output::error(output::about(name, e));
            }
            Ok((volume, doubt)) => {
                // What an encrypted volume holds is not known until it is opened.
                if let Some(e) = doubt.filter(|_| !volume.locked) {
                    exit = e.exit;
                    output::error(output::about(name, e));
                }
                rows.push(volume);
            }
            // All that an interrupted command left of a volume is its name.
            Err(e) if all && e.exit == Exit::NoVolume => {}
            Err(e) => return Err(e),
        }
    }
    if context.json {
        output::json(&rows)?;
        return Ok(exit);
    }
    if args.inodes {
        let lines: Vec<Vec<String>> = rows.iter().map(line_of_inodes).collect();
        output::table(&["VOLUME", "INODES", "IUSED", "IFREE", "IUSE%", "MOUNTED ON"], &lines)?;
        return Ok(exit);
    }
    // What it takes is not free yet, and will be.
    let in_trash = match trash::space(root) {
        Ok(bytes) if all && bytes > 0 => {
            let mut row = vec!["-".to_owned(); HEADER.len()];
            row[0] = "(trash)".into();
            row[2] = size::format(bytes);
            Some(row)
        }
        _ => None,
    };
    let lines: Vec<Vec<String>> = rows.iter().map(line).chain(in_trash).collect();
    output::table(&HEADER, &lines)?;
    Ok(exit)
}

/// What a volume without a limit is as large as: what it has, and what the host has room for.
fn capacity(volume: &Inspection) -> Option<u64> {
    let room = || Some(volume.used?.saturating_add(volume.available?));
    volume.size.or_else(room)
}

fn line_of_inodes(volume: &Inspection) -> Vec<String> {
    let (none, used) = match volume.inodes_used {
        Some(used) => ("-", used),
        None => ("?", 0),
    };
    let of_limit = |f: &dyn Fn(u64) -> String| volume.inodes.filter(|_| none == "-").map_or(none.into(), f);
    vec![
        volume.name.clone(),
        of_limit(&|all| all.to_string()),
        volume.inodes_used.map_or(none.into(), |used| used.to_string()),
        of_limit(&|all| all.saturating_sub(used).to_string()),
        of_limit(&|all| format!("{}%", (u128::from(used) * 100).div_ceil(u128::from(all.max(1))))),
        output::mountpoints(volume),
    ]
}

fn line(volume: &Inspection) -> Vec<String> {
    let bytes = |size: Option<u64>| size.map_or_else(|| "?".to_owned(), size::format);
    let number = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
    // Of a volume of which something is known, what is not there is no limit.
    let none = if volume.used.is_some() { "-" } else { "?" };
    let percent = match (volume.used, capacity(volume)) {
        (Some(_), Some(0)) => "-".into(),
        (Some(used), Some(size)) => format!("{}%", (u128::from(used) * 100).div_ceil(u128::from(size))),
        _ => none.to_owned(),
    };
    vec![
        volume.name.clone(),
        capacity(volume).map_or_else(|| none.to_owned(), size::format),
        bytes(volume.used),
        volume.available.map_or_else(|| none.to_owned(), size::format),
        percent,
        volume.inodes.map_or_else(|| none.to_owned(), |n| n.to_string()),
        number(volume.inodes_used),
        volume.metadata.map_or_else(|| none.to_owned(), size::format),
        volume.metadata_used.map_or_else(|| none.to_owned(), size::format),
        output::mountpoints(volume),
        output::users(volume),
    ]
}

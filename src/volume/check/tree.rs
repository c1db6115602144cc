//! Checking inodes, names, attributes and orphans.

use super::Progress;
use super::report::{FaultKind, Report};
use crate::meta::{
    FILE_MAX, Ino, Inode, Inspector, Kind, ROOT_INO, Result, TARGET_MAX, VolumeRow, XattrBits, valid_name,
};
use rustc_hash::{FxHashMap, FxHashSet};

/// Entries read at a time.
const BATCH: usize = 1024;

/// What is known of an inode.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) blocks: u64,
    nlink: u32,
    parent: Ino,
    /// Names that stand for it.
    names: u32,
    /// Of a directory: entries that are directories.
    subdirs: u32,
}

/// Inodes by number.
pub(super) type Inodes = FxHashMap<Ino, Facts>;

/// Checks the tree of one volume and returns its inodes.
pub(super) fn check(
    inspector: &Inspector,
    row: &VolumeRow,
    progress: &mut dyn FnMut(Progress),
    report: &mut Report,
) -> Result<Inodes> {
    let next_ino = inspector.next_ino()?;
    let mut inodes = Inodes::default();
    let mut with_xattrs: Vec<(Ino, XattrBits)> = Vec::new();
    inspector.inodes(row, |inode| {
        check_inode(&inode, next_ino, report);
        if inode.xattrs.attributes() != 0 {
            with_xattrs.push((inode.ino, inode.xattrs));
        }
        inodes.insert(
            inode.ino,
            Facts {
                kind: inode.kind(),
                size: inode.size,
                blocks: inode.blocks,
                nlink: inode.nlink,
                parent: inode.parent,
                names: 0,
                subdirs: 0,
            },
        );
        if inodes.len().is_multiple_of(4096) {
            progress(Progress { phase: "inodes", done: inodes.len() as u64, total: row.usage.inodes });
        }
        Ok(())
    })?;
    report.inodes += inodes.len() as u64;
    if inodes.len() as u64 != row.usage.inodes {
        let (name, said, are) = (&row.name, row.usage.inodes, inodes.len());
        report.fault(FaultKind::Count, format!("volume {name:?} counts {said} inodes, but has {are}"));
    }

    // 0: no program of this version has opened the store for writing, or rolled back to the snapshot, yet.
    let metadata = if row.usage.metadata == 0 { 0 } else { inspector.metadata_of(row)? };
    if metadata != row.usage.metadata {
        let (name, said) = (&row.name, row.usage.metadata);
        let what = format!("volume {name:?} counts {said} bytes of metadata, but has {metadata}");
        report.fault(FaultKind::Count, what);
    }
    check_names(inspector, row, &mut inodes, progress, report)?;
    check_links(&inodes, report);
    check_reachable(&inodes, report);
    check_orphans(inspector, row, &inodes, report)?;
    for (ino, bits) in with_xattrs {
        let mut found = 0;
        for (name, _) in inspector.xattrs(row, ino)? {
            found |= XattrBits::ANY | XattrBits::of_name(&name);
        }
        if found != bits.attributes() {
            report.fault(
                FaultKind::Count,
                format!(
                    "inode {ino} says {} of its extended attributes, which are {found}",
                    bits.attributes()
                ),
            );
        }
    }
    Ok(inodes)
}

fn check_inode(inode: &Inode, next_ino: Ino, report: &mut Report) {
    let ino = inode.ino;
    let mut fault = |what: &str| report.fault(FaultKind::Tree, format!("inode {ino} {what}"));
    if ino == 0 || ino >= next_ino {
        fault("has a number that was never given out");
    }
    let kind = inode.kind();
    if kind == Kind::Regular && inode.size > FILE_MAX {
        fault("is larger than a file can be");
    }
    match (&inode.target, kind) {
        (Some(target), Kind::Symlink) if target.len() <= TARGET_MAX && target.len() as u64 == inode.size => {}
        (None, Kind::Symlink) | (Some(_), _) => fault("has a wrong target"),
        (None, _) => {}
    }
    if kind != Kind::Regular && inode.blocks != 0 {
        fault("has blocks, but is not a regular file");
    }
}

/// Follows every entry of every directory.
fn check_names(
    inspector: &Inspector,
    row: &VolumeRow,
    inodes: &mut Inodes,
    progress: &mut dyn FnMut(Progress),
    report: &mut Report,
) -> Result<()> {
    let directories: Vec<Ino> =
        inodes.iter().filter(|(_, facts)| facts.kind == Kind::Directory).map(|(ino, _)| *ino).collect();
    let total = directories.len() as u64;
    for (done, parent) in directories.into_iter().enumerate() {
        if done.is_multiple_of(256) {
            progress(Progress { phase: "directories", done: done as u64, total });
        }
        let mut after = 0;
        let mut entries = 0u64;
        loop {
            let batch = inspector.entries(row, parent, after, BATCH)?;
            for entry in &batch {
                let name = String::from_utf8_lossy(&entry.name);
                let mut fault = |what: &str| {
                    report.fault(FaultKind::Tree, format!("entry {name:?} of directory {parent} {what}"));
                };
                if !valid_name(&entry.name) {
                    fault("has an impossible name");
                }
                if inspector.name_hash(&entry.name) != entry.hash {
                    fault("is not where its name belongs");
                }
                match inodes.get_mut(&entry.ino) {
                    None => fault("names an inode that does not exist"),
                    Some(facts) => {
                        facts.names += 1;
                        if facts.kind != entry.kind {
                            fault("has another type than its inode");
                        }
                        if facts.kind == Kind::Directory && facts.parent != parent {
                            fault("names a directory that says it is elsewhere");
                        }
                        if facts.kind == Kind::Directory
                            && let Some(facts) = inodes.get_mut(&parent)
                        {
                            facts.subdirs += 1;
                        }
                    }
                }
            }
            entries += batch.len() as u64;
            match batch.last() {
                Some(last) if batch.len() >= BATCH => after = last.hash,
                _ => break,
            }
        }
        report.entries += entries;
        if inodes.get(&parent).is_some_and(|facts| facts.size != entries) {
            report.fault(
                FaultKind::Count,
                format!("directory {parent} counts its entries wrong: it has {entries}"),
            );
        }
    }
    Ok(())
}

fn check_links(inodes: &Inodes, report: &mut Report) {
    for (ino, facts) in inodes {
        let mut fault = |kind, what: String| report.fault(kind, format!("inode {ino} {what}"));
        if facts.kind == Kind::Directory {
            let names = u32::from(*ino != ROOT_INO && facts.nlink > 0);
            if facts.names != names {
                fault(FaultKind::Tree, format!("is a directory with {} names", facts.names));
            }
            if facts.nlink > 0 && facts.nlink != 2 + facts.subdirs {
                fault(
                    FaultKind::Count,
                    format!("has {} links and {} subdirectories", facts.nlink, facts.subdirs),
                );
            }
        } else if facts.nlink != facts.names {
            fault(FaultKind::Count, format!("has {} links and {} names", facts.nlink, facts.names));
        }
    }
    match inodes.get(&ROOT_INO) {
        Some(root) if root.kind == Kind::Directory && root.parent == ROOT_INO => {}
        _ => report.fault(FaultKind::Tree, "the volume has no root directory"),
    }
}

/// Directories that name each other in a circle have names and are still lost.
fn check_reachable(inodes: &Inodes, report: &mut Report) {
    let mut reached: FxHashSet<Ino> = FxHashSet::default();
    reached.insert(ROOT_INO);
    for (ino, _) in inodes.iter().filter(|(_, facts)| facts.kind == Kind::Directory && facts.nlink > 0) {
        let mut path: FxHashSet<Ino> = FxHashSet::default();
        let mut at = *ino;
        while !reached.contains(&at) {
            match inodes.get(&at) {
                Some(facts) if path.insert(at) => at = facts.parent,
                _ => {
                    report.fault(FaultKind::Tree, format!("directory {ino} has no way to the root"));
                    break;
                }
            }
        }
        // Those of a circle too: it is reported once.
        reached.extend(path);
    }
}

fn check_orphans(inspector: &Inspector, row: &VolumeRow, inodes: &Inodes, report: &mut Report) -> Result<()> {
    let listed: FxHashSet<Ino> = inspector.orphans(row.id)?.into_iter().collect();
    for ino in &listed {
        if inodes.get(ino).is_none_or(|facts| facts.nlink != 0) {
            report.fault(FaultKind::Tree, format!("inode {ino} is listed as an orphan, but is not one"));
        }
    }
    for (ino, facts) in inodes {
        if facts.nlink == 0 && !listed.contains(ino) {
            report
                .fault(FaultKind::Tree, format!("inode {ino} has no links, but is not listed as an orphan"));
        }
    }
    Ok(())
}

/// Looks for rows that belong to no inode.
pub(super) fn check_strays(inspector: &Inspector, report: &mut Report) -> Result<()> {
    for (table, count, example) in inspector.strays()? {
        report.fault(
            FaultKind::Tree,
            format!("{count} rows of table {table} belong to inodes that do not exist, such as {example}"),
        );
    }
    for ino in inspector.unmarked_xattrs()? {
        report.fault(FaultKind::Count, format!("inode {ino} has extended attributes, but does not say so"));
    }
    Ok(())
}

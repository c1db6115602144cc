//! `pjdfstest`, on a volume and on ext4 as the reference: what passes there must pass here.

use super::tool;
use crate::support::{Host, shell};
use std::collections::BTreeMap;
use std::fs;

/// The tests of the installed version, all of them.
const TESTS: usize = 398;

/// What passes on ext4 and does not on a volume, with the reason.
const EXCLUDED: &[(&str, &str)] = &[(
    "link::link_count_max",
    "skipped: pathconf(_PC_LINK_MAX) is the C library's table of file system types, which has none for any FUSE file \
     system; `links` makes more links than ext4 allows",
)];

/// Users and groups that every Debian has, so that none must be made. Everything optional that Linux has is on.
const CONFIG: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
[settings]
naptime = 0.02
allow_remount = "#;

/// Runs the whole suite on what `mount` mounts on `$V`. Outcomes by test.
///
/// The tests that remount read-only run by themselves: another test of the suite leaves a file open that is unlinked,
/// and with such a file no file system can become read-only.
fn outcomes(host: &Host, mount: &str) -> BTreeMap<String, String> {
    let config = host.dir("pjdfstest");
    fs::write(config.join("remounting"), format!("{CONFIG} true\n")).unwrap();
    fs::write(config.join("others"), format!("{CONFIG} false\n")).unwrap();
    let output = host.with_helpers(&format!(
        "{mount}
         mkdir -p {secondary}; mount -t tmpfs secondary {secondary}
         export NO_COLOR=1 RUST_BACKTRACE=0; unset RUST_LIB_BACKTRACE
         {suite} -c {config}/others -p $V -s {secondary} || true
         {suite} -c {config}/remounting -p $V -s {secondary} erofs || true
         umount $V",
        secondary = host.public_dir("secondary").display(),
        suite = tool("pjdfstest").display(),
        config = config.display(),
    ));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let mut outcomes = BTreeMap::new();
    for line in text.lines().filter(|line| line.contains("::") && !line.starts_with(char::is_whitespace)) {
        if let Some((name, outcome @ ("ok" | "skipped" | "FAILED"))) =
            line.split_once(char::is_whitespace).map(|(name, rest)| (name, rest.trim()))
        {
            outcomes.insert(name.to_owned(), outcome.to_owned());
        }
    }
    assert_eq!(outcomes.len(), TESTS, "{text}");
    let failed = outcomes.values().any(|outcome| outcome == "FAILED");
    assert!(!failed, "{text}");
    outcomes
}

fn on_ext4() -> BTreeMap<String, String> {
    let host = Host::new();
    let dir = host.dir("ext4");
    shell(&dir, "truncate -s 256M image; mkfs.ext4 -q image");
    outcomes(&host, &format!("mount -o loop {}/image $V", dir.display()))
}

fn on_a_volume(host: &Host, options: &str) -> BTreeMap<String, String> {
    host.ok(&["create", "v"]);
    let key = host.key_file().map_or(String::new(), |key| format!(",key-file={}", key.display()));
    let outcomes = outcomes(host, &format!("mount -t larder v $V -o {options}{key}"));
    host.check("v");
    let left = host.json(&["inspect", "v"]);
    assert_eq!(
        (&left["inodes_used"], &left["used"]),
        (&1.into(), &0.into()),
        "the suite removes what it made"
    );
    outcomes
}

#[test]
fn what_passes_on_ext4_passes_on_a_volume() {
    let reference = on_ext4();
    for (host, options) in Host::each_kind().iter().zip(["writeback=on", "writeback=off"]) {
        let found = on_a_volume(host, options);
        let differences: Vec<_> = reference
            .iter()
            .filter(|(name, outcome)| found[*name] != **outcome)
            .map(|(name, _)| name.as_str())
            .collect();
        let excluded: Vec<_> = EXCLUDED.iter().map(|(name, _)| *name).collect();
        assert_eq!(differences, excluded, "with {options}, compared with ext4");
    }
}

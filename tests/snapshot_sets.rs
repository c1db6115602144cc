//! Many snapshots at once: removed by pattern, range or rule.

use crate::support::{Host, run, succeed, wait_until};
use larder::backing::OsDir;
use larder::meta::NewSnapshot;
use larder::open_store::{OpenStore, StoreOptions};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

fn snapshots(host: &Host, volume: &str) -> Vec<String> {
    let listed = host.json(&["snapshot", "ls", volume, "--json"]);
    listed.as_array().unwrap().iter().map(|snapshot| snapshot["name"].as_str().unwrap().to_owned()).collect()
}

fn make(host: &Host, names: &[&str]) {
    for name in names {
        host.ok(&["snapshot", "create", name]);
    }
}

#[test]
fn snapshots_are_removed_by_pattern_and_from_one_to_another() {
    for host in Host::each_kind() {
        let dir = host.volume("v", &[]);
        host.ok(&["create", "w"]);
        make(&host, &["v@daily-1", "v@daily-2", "v@weekly", "v@daily-3", "v@last", "w@daily-1"]);
        let rm = |args: &[&str]| host.ok(&[&["snapshot", "rm"], args].concat());
        // Nothing goes for being looked at.
        let shown = rm(&["v@daily-*", "--dry-run"]);
        assert!(
            shown.contains("v@daily-3") && !shown.contains("weekly") && shown.lines().count() == 4,
            "{shown}"
        );
        let shown: Value = serde_json::from_str(&rm(&["v@%daily-2", "-n", "--json"])).unwrap();
        assert_eq!(shown[1]["volume"], "v");
        assert_eq!(shown[1]["name"], "daily-2");
        assert_eq!(snapshots(&host, "v").len(), 5);
        // Nobody says yes, or somebody says no.
        let output = run(&mut host.command(&["snapshot", "rm", "v@daily-*"]));
        assert_eq!(output.status.code(), Some(1));
        let why = String::from_utf8(output.stderr).unwrap();
        assert!(why.contains("nothing was removed") && why.contains("--force"), "{why}");
        let answer = |answer: &str| {
            let mut command = host.command(&["snapshot", "rm", "v@daily-[12]"]);
            let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
            child.wait().unwrap().code()
        };
        assert_eq!(answer("n\n"), Some(1));
        assert_eq!(snapshots(&host, "v").len(), 5);
        assert_eq!(answer("y\n"), Some(0));
        assert_eq!(snapshots(&host, "v"), ["weekly", "daily-3", "last"]);
        // One that is mounted stays, and the others go.
        host.mount("v@daily-3", &[]);
        let output = run(&mut host.command(&["snapshot", "rm", "v@weekly%", "w@*", "--force"]));
        assert_eq!(output.status.code(), Some(5));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "v@weekly\nv@last\nw@daily-1\n");
        let why = String::from_utf8(output.stderr).unwrap();
        assert!(why.contains("v@daily-3") && why.contains("mounted") && why.lines().count() == 1, "{why}");
        assert_eq!((snapshots(&host, "v"), snapshots(&host, "w").len()), (vec!["daily-3".to_owned()], 0));
        host.umount("v@daily-3");
        assert!(host.fails(3, &["snapshot", "rm", "v@x*", "--force"]).contains("no snapshot of volume"));
        assert!(host.fails(3, &["snapshot", "rm", "v@a%b", "--force"]).contains("no snapshot v@a"));
        assert!(host.fails(2, &["snapshot", "rm", "v"]).contains("v@PATTERN"));
        assert!(host.fails(2, &["snapshot", "rm", "v@*\n"]).contains("pattern"));
        drop(dir);
        host.umount("v");
        // Without a server, too; the secret is read once, so that it can come from anywhere.
        make(&host, &["v@a", "v@b", "v@c"]);
        assert_eq!(
            rm(&["v@b", "v@[ac]", "v@a", "--force", "--json"]),
            "[\n  \"v@a\",\n  \"v@b\",\n  \"v@c\"\n]\n"
        );
        assert_eq!(snapshots(&host, "v"), ["daily-3"]);
        host.check("v");
    }
}

#[test]
fn a_secret_that_can_be_read_once_is_read_once() {
    let host = Host::plain();
    let file = host.dir("secret").join("passphrase");
    std::fs::write(&file, "a passphrase\n").unwrap();
    let file = file.to_str().unwrap();
    host.ok(&["create", "v", "--encrypt", "--passphrase-file", file]);
    for name in ["v@a", "v@b"] {
        host.ok(&["snapshot", "create", name, "--passphrase-file", file]);
    }
    let larder = crate::support::larder();
    let root = host.root().display();
    let script =
        format!("printf 'a passphrase' | {larder} --root {root} snapshot rm 'v@*' --force --passphrase-fd 0");
    assert_eq!(crate::support::shell(host.root(), &script), "v@a\nv@b\n");
}

/// Snapshots of the volume `v`, made at these times, the oldest first.
fn make_at(host: &Host, times: &[i64]) {
    let dir = Arc::new(OsDir::new(host.store("v")));
    let store = OpenStore::open_with(dir, None, host.keys("v"), StoreOptions::default()).unwrap();
    let volume = store.meta().volumes().unwrap()[0].id;
    for time in times {
        let created = u64::try_from(*time).unwrap();
        let labels =
            if time % 7 == 0 { [("keep".to_owned(), "yes".to_owned())].into() } else { Default::default() };
        let new = NewSnapshot { name: format!("s{time}"), labels, created };
        store.alter(move |meta| meta.create_snapshot(volume, &new)).unwrap();
    }
    store.close().unwrap();
}

/// What a repository of restic keeps of snapshots of the same times.
struct Restic<'a> {
    dir: &'a Path,
    zone: &'a str,
}

impl Restic<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new("restic");
        command.current_dir(self.dir).args(["--repo", "repo", "--quiet"]).env("TZ", self.zone);
        command.env("RESTIC_PASSWORD", "x").env("RESTIC_CACHE_DIR", self.dir.join("cache"));
        command
    }

    fn make_at(&self, times: &[i64]) {
        std::fs::write(self.dir.join("file"), "x").unwrap();
        succeed(self.command().arg("init"));
        for time in times {
            let date = Command::new("date")
                .env("TZ", self.zone)
                .arg(format!("--date=@{time}"))
                .arg("+%F %T")
                .output();
            let date = String::from_utf8(date.unwrap().stdout).unwrap();
            let tags: &[&str] = if time % 7 == 0 { &["--tag", "keep"] } else { &[] };
            succeed(self.command().args(["backup", "--time", date.trim(), "file"]).args(tags));
        }
    }

    fn kept(&self, rules: &[&str]) -> BTreeSet<i64> {
        let told =
            succeed(self.command().args(["forget", "--dry-run", "--json", "--group-by", ""]).args(rules));
        let told: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
        let times =
            told[0]["keep"].as_array().unwrap().iter().map(|snapshot| snapshot["time"].as_str().unwrap());
        times.map(|time| time.parse::<jiff::Timestamp>().unwrap().as_second()).collect()
    }
}

/// restic before 0.16 does not keep the oldest while a count is not used up.
fn knows_the_oldest() -> bool {
    let version = succeed(Command::new("restic").arg("version"));
    let minor = version.split(['.', ' ']).nth(2).unwrap();
    minor.parse::<u32>().unwrap() >= 16
}

#[test]
fn rules_keep_what_restic_keeps() {
    let zone = "Europe/Berlin";
    let host = Host::new();
    host.ok(&["create", "v"]);
    let mut random = StdRng::seed_from_u64(16);
    // From some minutes to more than a year apart, up to the days when the clocks change.
    let end: i64 = "2025-10-26T04:30:00+01:00".parse::<jiff::Timestamp>().unwrap().as_second();
    let mut times: BTreeSet<i64> =
        (0..36).map(|n| end - random.random_range(0..1i64 << (10 + n % 17))).collect();
    times.extend([end, "2024-12-30T12:00:00+01:00".parse::<jiff::Timestamp>().unwrap().as_second()]);
    let times: Vec<i64> = times.into_iter().collect();
    make_at(&host, &times);
    let dir = host.dir("restic");
    let restic = Restic { dir: &dir, zone };
    restic.make_at(&times);
    let with_oldest = knows_the_oldest();
    for rules in [
        "--keep-last 3",
        "--keep-last 100",
        "--keep-hourly 5",
        "--keep-daily 4",
        "--keep-daily 1000",
        "--keep-weekly 6",
        "--keep-monthly 5",
        "--keep-yearly 2",
        "--keep-yearly 10",
        "--keep-last 2 --keep-hourly 3 --keep-daily 4 --keep-weekly 5 --keep-monthly 6 --keep-yearly 7",
        "--keep-within 2h",
        "--keep-within 1m3d5h",
        "--keep-within 1y",
        "--keep-within-hourly 2d",
        "--keep-within-daily 3m",
        "--keep-within-weekly 1y2m",
        "--keep-within-monthly 2y",
        "--keep-within-yearly 5y --keep-last 1",
        "--keep-tag keep --keep-last 1",
        "--keep-within-daily 7d --keep-weekly 3 --keep-tag keep",
    ] {
        let rules: Vec<&str> = rules.split(' ').collect();
        let args = [&["snapshot", "prune", "v", "--dry-run", "--json"], &rules[..]].concat();
        let told: Value = serde_json::from_str(&succeed(host.command(&args).env("TZ", zone))).unwrap();
        let kept = told[0]["keep"].as_array().unwrap().iter().filter(|kept| {
            let reasons = kept["reasons"].as_array().unwrap();
            with_oldest || reasons.iter().any(|reason| !reason.as_str().unwrap().starts_with("oldest "))
        });
        let seconds = |time: &Value| {
            let time = humantime::parse_rfc3339(time.as_str().unwrap()).unwrap();
            time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
        };
        let kept: BTreeSet<i64> = kept.map(|kept| seconds(&kept["created"])).collect();
        assert_eq!(kept, restic.kept(&rules), "{rules:?}");
        let count = |what: &str| told[0][what].as_array().unwrap().len();
        assert_eq!(count("keep") + count("remove"), times.len());
    }
}

#[test]
fn what_no_rule_keeps_is_removed_and_the_rest_is_not() {
    for host in Host::each_kind() {
        host.ok(&["create", "v"]);
        host.ok(&["create", "w"]);
        let day = 24 * 60 * 60;
        let times: Vec<i64> = (1..=10).map(|n| 1_700_000_000 + n * day).collect();
        make_at(&host, &times);
        host.ok(&["snapshot", "create", "v@by-hand"]);
        host.ok(&["snapshot", "create", "w@a", "--label", "keep=always"]);
        host.ok(&["snapshot", "create", "w@b"]);
        fn prune<'a>(args: &[&'a str]) -> Vec<&'a str> {
            [&["snapshot", "prune"], args].concat()
        }
        assert!(host.fails(2, &prune(&["v"])).contains("no rule"));
        assert!(host.fails(2, &prune(&["v", "--keep-last", "0"])).contains("no rule"));
        assert!(host.fails(2, &prune(&["v", "--keep-tag", "x"])).contains("keep none of 11"));
        assert_eq!(snapshots(&host, "v").len(), 11);
        assert!(host.fails(3, &prune(&["x", "--keep-last", "1"])).contains("no volume"));
        // Only what is meant counts and goes.
        let shown = host.ok(&prune(&["v@s*", "--keep-last", "3"]));
        assert!(shown.contains("last snapshot") && !shown.contains("by-hand"), "{shown}");
        let newest = times[7..].iter().map(|time| format!("s{time}"));
        let expected: Vec<String> = newest.chain(["by-hand".to_owned()]).collect();
        assert_eq!(snapshots(&host, "v"), expected);
        // With a server; of all volumes; what is mounted stays.
        let dir = host.mount("v", &[]);
        host.mount(&format!("v@{}", expected[0]), &[]);
        let output = run(&mut host.command(&prune(&["--all", "--keep-last", "1", "--json"])));
        assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(snapshots(&host, "v"), [expected[0].as_str(), "by-hand"]);
        assert_eq!(snapshots(&host, "w"), ["b"]);
        assert!(!dir.join(".snapshots").join(&expected[1]).exists());
        host.umount(&format!("v@{}", expected[0]));
        host.ok(&prune(&["v", "w", "--keep-last", "1", "--label", "none"]));
        assert_eq!(snapshots(&host, "v").len(), 2);
        host.umount("v");
        wait_until("its server ends", || host.servers().is_empty());
        host.check("v");
    }
}

#[test]
fn snapshots_of_many_volumes_get_one_name() {
    for host in Host::each_kind() {
        host.ok(&["create", "a", "--label", "app=shop"]);
        let dir = host.mount("a", &[]);
        host.ok(&["clone", "a", "b", "--label", "app=shop"]);
        host.ok(&["create", "c"]);
        let create = |args: &[&str]| host.ok(&[&["snapshot", "create"], args].concat());
        assert_eq!(create(&["--all", "@monday", "--label", "by=timer"]), "a@monday\nb@monday\nc@monday\n");
        assert_eq!(host.json(&["snapshot", "ls", "b", "--json"])[0]["labels"]["by"], "timer");
        assert_eq!(create(&["--filter", "label=app=shop", "@shop"]), "a@shop\nb@shop\n");
        assert_eq!(create(&["a@one", "c@two", "b@three"]), "a@one\nb@three\nc@two\n");
        // Without a name, it is the time.
        let made = create(&["--all"]);
        let stamp = made.lines().next().unwrap().strip_prefix("a@").unwrap();
        assert!(stamp.starts_with("20") && made.lines().all(|line| line.ends_with(stamp)), "{made}");
        assert_eq!(snapshots(&host, "a").len(), 4);
        assert_eq!(fs_names(&dir), snapshots(&host, "a").into_iter().collect());
        // Of a family all are made, or none; other families have nothing to do with it.
        let output = run(&mut host.command(&["snapshot", "create", "a@new", "b@shop", "c@new"]));
        assert_eq!(output.status.code(), Some(4));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "c@new\n");
        let why = String::from_utf8(output.stderr).unwrap();
        assert!(why.contains("a@new, b@shop") && why.contains("exists"), "{why}");
        assert_eq!((snapshots(&host, "a").len(), snapshots(&host, "b").len()), (4, 4));
        assert!(host.fails(4, &["snapshot", "create", "a@x", "a@x"]).contains("exists"));
        assert!(host.fails(2, &["snapshot", "create", "--all", "x"]).contains("@SNAPSHOT"));
        assert!(host.fails(2, &["snapshot", "create", "--all", "@x", "@y"]).contains("@SNAPSHOT"));
        assert!(host.fails(2, &["snapshot", "create", "--all", "@../x"]).contains("snapshot name"));
        host.umount("a");
        wait_until("its server ends", || host.servers().is_empty());
        create(&["a@off", "b@off"]);
        for name in ["a", "b", "c"] {
            host.check(name);
        }
    }
}

fn fs_names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir.join(".snapshots")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A writer writes the same number to a file of each of two volumes, one after the other, and waits for both: at any moment, the first
/// has the number of the second, or the next one.
#[test]
fn snapshots_of_a_family_are_of_one_moment() {
    let host = Host::new();
    host.ok(&["create", "a"]);
    host.ok(&["clone", "a", "b"]);
    let dirs = ["a", "b"].map(|name| host.mount(name, &["-o", "writeback=off"]));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let is_stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
    let write = || {
        for number in 0u64.. {
            if is_stopped() {
                return;
            }
            for dir in &dirs {
                std::fs::write(dir.join("number"), format!("{number:020}")).unwrap();
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(write);
        wait_until("it writes", || dirs[1].join("number").exists());
        for round in 0..10 {
            host.ok(&["snapshot", "create", &format!("a@s{round}"), &format!("b@s{round}")]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    for round in 0..10 {
        // Between truncating a file and writing it, it is empty.
        let [first, second] = [0, 1].map(|at| {
            let text = std::fs::read_to_string(dirs[at].join(format!(".snapshots/s{round}/number"))).unwrap();
            text.parse::<u64>().ok()
        });
        if let (Some(first), Some(second)) = (first, second) {
            assert!(first == second || first == second + 1, "round {round}: {first} and {second}");
        }
    }
    assert!(dirs.iter().all(|dir| dir.join(".snapshots/s9/number").exists()));
}

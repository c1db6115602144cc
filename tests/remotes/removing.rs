//! What becomes of a remote when its volumes go.

use super::mounted::{remote, url};
use crate::support::{Background, Host, pattern, run, state, wait_until};
use std::fs;
use std::path::{Path, PathBuf};

const USAGE: i32 = 2;
const NO_VOLUME: i32 = 3;
const EXISTS: i32 = 4;
const BUSY: i32 = 5;

fn shipped(a: &Host, name: &str, objects: &Path) {
    let here = a.volume(name, &["--remote", &format!("file://{}/{name}", objects.display())]);
    fs::write(here.join("f"), pattern(700_000, 1)).unwrap();
    a.ok(&["remote", "sync", name]);
    a.umount(name);
    wait_until("nobody serves it", || a.servers().is_empty());
}

/// How many objects are there.
fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let visible = entries.filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.'));
    visible.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
}

#[test]
fn a_remote_goes_with_the_last_volume_if_that_is_said() {
    for a in Host::each_kind() {
        let objects = a.dir("objects");
        shipped(&a, "db", &objects);
        // Nobody is asked, and it stays.
        let output = run(&mut a.command(&["rm", "--now", "db"]));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.contains("stays in file://"), "{said}");
        assert!(said.contains("larder remote rm file://"), "{said}");
        a.ok(&["attach", &url(&objects)]);
        let output = run(&mut a.command(&["rm", "--now", "db", "--keep-remote"]));
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        // In the trash, it needs what is there.
        a.ok(&["attach", &url(&objects)]);
        let output = run(&mut a.command(&["rm", "db", "--remove-remote"]));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.contains("as long as it can be restored"), "{said}");
        let said = a.fails(BUSY, &["remote", "rm", &url(&objects)]);
        assert!(said.contains("in the trash of this host"), "{said}");
        a.ok(&["trash", "restore", "db"]);
        let here = a.mount("db", &[]);
        assert!(fs::read(here.join("f")).unwrap() == pattern(700_000, 1));
        let said = a.fails(BUSY, &["remote", "rm", &url(&objects)]);
        assert!(said.contains("larder remote detach db"), "{said}");
        a.umount("db");
        // Something that is no volume's stays.
        fs::write(objects.join("db/readme"), "hello").unwrap();
        a.ok(&["rm", "--now", "db", "--remove-remote"]);
        assert_eq!(count(&objects), 1);
        assert!(a.ok(&["ls", "-q"]).is_empty());
        a.fails(NO_VOLUME, &["remote", "rm", &url(&objects)]);
        // The place is free.
        shipped(&a, "db", &objects);
        assert!(count(&objects) > 5);
        a.ok(&["create", "plain"]);
        let said = a.fails(USAGE, &["rm", "--now", "plain", "--remove-remote"]);
        assert!(said.contains("no remote that could be removed"), "{said}");
        a.ok(&["rm", "--now", "plain", "--keep-remote"]);
    }
}

#[test]
fn a_remote_stays_as_long_as_others_need_it_or_have_it() {
    let (a, b) = (Host::plain(), Host::plain());
    let objects = a.dir("objects");
    shipped(&a, "db", &objects);
    a.ok(&["clone", "db", "copy"]);
    let said = a.fails(BUSY, &["rm", "--now", "db", "--remove-remote"]);
    assert!(said.contains("others are in the same store") && said.contains("copy"), "{said}");
    a.ok(&["rm", "--now", "copy"]);
    // Somebody has just attached it, or died while doing so.
    let alive = objects.join("db/alive");
    fs::create_dir_all(&alive).unwrap();
    let sign = alive.join(format!("{:032x}-{:016x}", 7, 7));
    fs::write(&sign, "alive").unwrap();
    let said = a.fails(9, &["rm", "--now", "db", "--remove-remote"]);
    assert!(said.contains("and so the volume is not"), "{said}");
    fs::remove_file(&sign).unwrap();
    a.ok(&["clone", "db", "copy"]);
    // Somebody else has gone on with it.
    b.ok(&["attach", "--steal", &url(&objects)]);
    let there = b.mount("db", &[]);
    fs::write(there.join("g"), "g").unwrap();
    b.ok(&["remote", "sync", "db"]);
    let output = run(&mut a.command(&["rm", "--now", "db", "copy", "--remove-remote"]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(BUSY), "{said}");
    assert!(said.lines().all(|line| line.contains("was taken by host")), "{said}");
    assert_eq!(a.ok(&["ls", "-q"]), "copy\ndb\n");
    let said = a.fails(BUSY, &["remote", "rm", &url(&objects)]);
    assert!(said.contains("this host is shipped there"), "{said}");
    a.ok(&["rm", "--now", "db", "copy"]);
    let said = a.fails(BUSY, &["remote", "rm", &url(&objects)]);
    assert!(said.contains("has not let go of it"), "{said}");
    let said = a.fails(BUSY, &["remote", "rm", "--force", &url(&objects)]);
    assert!(said.contains("--steal"), "{said}");
    // It lives.
    let output = run(&mut a.command(&["remote", "rm", "--steal", &url(&objects)]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(BUSY) && said.contains("shows life"), "{said}");
    let then = state(&there);
    b.umount("db");
    assert_eq!(state(&b.mount("db", &[])), then);
    // It is lost.
    b.kill_server("db");
    a.fails(BUSY, &["remote", "rm", &url(&objects)]);
    let done = a.json(&["remote", "rm", "--steal", &url(&objects), "--json"]);
    assert!(done["objects"].as_u64().unwrap() > 5, "{done}");
    assert_eq!(count(&objects), 0);
    assert!(a.fails(NO_VOLUME, &["attach", &url(&objects)]).contains("holds no store"));
}

/// What is left is said to be that, wherever it is met.
#[test]
fn what_an_interrupted_removal_left_is_no_volume() {
    let a = Host::plain();
    let objects = a.dir("objects");
    shipped(&a, "db", &objects);
    a.ok(&["rm", "--now", "db", "--keep-remote"]);
    let whole = a.dir("whole");
    crate::support::shell(&whole, &format!("cp -r {}/db .", objects.display()));
    a.ok(&["remote", "rm", &url(&objects)]);
    assert!(!objects.join("db/store").exists());
    crate::support::shell(&objects, &format!("mkdir -p db; cp -r {}/db/log db/", whole.display()));
    for args in [&["attach"][..], &["attach", "--steal"], &["remote", "check"], &["remote", "history"]] {
        let said = a.fails(NO_VOLUME, &[args, &[url(&objects).as_str()]].concat());
        assert!(said.contains("holds no store"), "{said}");
    }
    a.ok(&["create", "other"]);
    let said = a.fails(EXISTS, &["remote", "add", "other", &url(&objects)]);
    assert!(said.contains("the rest of a store") && said.contains("larder remote rm"), "{said}");
    assert_eq!(run(&mut a.command(&["remote", "status", "other"])).status.code(), Some(USAGE));
    a.ok(&["remote", "rm", &url(&objects)]);
    assert_eq!(count(&objects), 0);
    a.ok(&["remote", "add", "other", &url(&objects)]);
    a.ok(&["remote", "sync", "other"]);
    assert_eq!(remote(&a, "other")["trouble"], serde_json::Value::Null);
}

/// What a command says to somebody at a terminal who answers so.
fn answered(host: &Host, answers: &str, args: &[&str]) -> String {
    let command = host.command(args);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let mut shell = std::process::Command::new("bash");
    shell.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    // (It ends when its command does, and does not before that.)
    let script = format!("(printf '{answers}'; sleep 3) | script -qec \"{}\" /dev/null", words.join(" "));
    String::from_utf8(run(shell.arg("-c").arg(script)).stdout).unwrap()
}

/// A command that asks somebody at a terminal, who answers at once, and then once more when a file is there.
struct Asked {
    child: Background,
    said: PathBuf,
    go: PathBuf,
}

impl Asked {
    fn start(host: &Host, at_once: &str, args: &[&str]) -> Self {
        let dir = host.dir("asked");
        let (said, go) = (dir.join("said"), dir.join("go"));
        let command = host.command(args);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<String> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
        let mut shell = std::process::Command::new("bash");
        shell.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let waits = format!("while [ ! -e '{}' ]; do sleep 0.1; done", go.display());
        let script = format!(
            "(printf '{at_once}'; {waits}; printf 'y\\n'; sleep 3) | script -qec \"{}\" /dev/null >'{}' 2>&1",
            words.join(" "),
            said.display()
        );
        Self { child: Background::start(shell.arg("-c").arg(script)), said, go }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    fn answer(mut self) -> String {
        fs::write(&self.go, "").unwrap();
        self.child.0.wait().unwrap();
        self.said()
    }
}

/// What a moment needs went without a word; it was also not looked for again after the answer.
#[test]
fn a_remote_stays_as_long_as_a_moment_of_it_is_attached_here() {
    let a = Host::plain();
    let objects = a.dir("objects");
    shipped(&a, "db", &objects);
    a.ok(&["attach", &url(&objects), "before", "--at", "2999-01-01T00:00:00Z"]);
    for now in [&["--now"][..], &["--now", "--force"]] {
        let said = a.fails(BUSY, &[&["rm", "db", "--remove-remote"], now].concat());
        assert!(
            said.contains("and so the volume is not") && said.contains("larder remote detach before"),
            "{said}"
        );
    }
    assert_eq!(a.ok(&["ls", "-q"]), "before\ndb\n");
    a.ok(&["rm", "--now", "before"]);
    let asked = Asked::start(&a, "y\\n", &["rm", "--now", "db"]);
    wait_until("it asks", || asked.said().contains("Remove what was shipped"));
    a.ok(&["attach", &url(&objects), "before", "--at", "2999-01-01T00:00:00Z"]);
    let said = asked.answer();
    assert!(said.contains("the volume is gone") && said.contains("larder remote detach before"), "{said}");
    let there = a.mount("before", &[]);
    assert!(fs::read(there.join("f")).unwrap() == pattern(700_000, 1));
    a.umount("before");
    wait_until("nobody serves it", || a.servers().is_empty());
    a.ok(&["remote", "detach", "before"]);
    a.ok(&["remote", "rm", &url(&objects)]);
    assert_eq!(count(&objects), 0);
}

/// It lost what it had only there.
#[test]
fn a_host_that_mounts_the_volume_while_somebody_is_asked_keeps_it() {
    let (a, b) = (Host::plain(), Host::plain());
    let objects = a.dir("objects");
    shipped(&a, "db", &objects);
    a.ok(&["rm", "--now", "db", "--keep-remote"]);
    let asked = Asked::start(&a, "", &["remote", "rm", &url(&objects)]);
    wait_until("it asks", || asked.said().contains("Remove all of it"));
    b.ok(&["attach", &url(&objects)]);
    let there = b.mount("db", &[]);
    b.ok(&["remote", "sync", "db"]);
    let said = asked.answer();
    assert!(said.contains("has changed since it was looked at"), "{said}");
    assert!(fs::read(there.join("f")).unwrap() == pattern(700_000, 1));
    fs::write(there.join("g"), "g").unwrap();
    b.ok(&["remote", "sync", "db"]);
    assert!(a.ok(&["remote", "check", &url(&objects), "--read-data"]).contains("clean"));
}

/// It was done, it was said.
#[test]
fn a_remote_that_is_not_there_is_not_said_to_be_removed() {
    let a = Host::plain();
    let objects = a.dir("objects");
    shipped(&a, "db", &objects);
    fs::rename(objects.join("db"), objects.join("away")).unwrap();
    fs::create_dir(objects.join("db")).unwrap();
    let said = a.fails(NO_VOLUME, &["rm", "--now", "db", "--remove-remote"]);
    assert!(said.contains("holds no store") && said.contains("leave out --remove-remote"), "{said}");
    assert_eq!(a.ok(&["ls", "-q"]), "db\n");
    a.ok(&["rm", "--now", "db"]);
    // Nothing was shipped yet.
    a.ok(&["create", "new", "--remote", &format!("file://{}/new", objects.display())]);
    a.ok(&["rm", "--now", "new", "--remove-remote"]);
}

/// It was its URL, with which nobody reaches what has settings.
#[test]
fn what_tells_what_to_do_with_a_remote_calls_it_by_its_name() {
    let a = Host::plain();
    let (objects, conf) = (a.dir("objects"), a.dir("conf").join("remotes.toml"));
    fs::write(&conf, format!("[offsite]\nurl = \"file://{}\"\n", objects.display())).unwrap();
    let named = |args: &[&str]| {
        let mut command = a.command(args);
        command.env("LARDER_REMOTES", &conf);
        let output = run(&mut command);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    named(&["create", "db", "--remote", "offsite"]);
    named(&["remote", "sync", "db"]);
    assert!(named(&["detach", "db"]).contains("`larder attach offsite/db`"));
    named(&["attach", "offsite/db"]);
    let said = named(&["rm", "--now", "db"]);
    assert!(said.contains("stays in offsite/db; `larder remote rm offsite/db`"), "{said}");
    named(&["attach", "offsite/db"]);
    // It is elsewhere now.
    fs::write(&conf, "[offsite]\nurl = \"file:///elsewhere\"\n").unwrap();
    let said = named(&["rm", "--now", "db"]);
    assert!(said.contains(&format!("`larder remote rm {}`", url(&objects))), "{said}");
    a.ok(&["remote", "rm", &url(&objects)]);
}

#[test]
fn somebody_at_a_terminal_is_asked_what_becomes_of_a_remote() {
    let a = Host::plain();
    let objects = a.dir("objects");
    shipped(&a, "db", &objects);
    let said = answered(&a, "y\\nn\\n", &["rm", "--now", "db"]);
    assert!(said.contains("Remove what was shipped of it to file://"), "{said}");
    assert!(a.ok(&["ls", "-q"]).is_empty() && objects.join("db/store").exists());
    let said = answered(&a, "n\\n", &["remote", "rm", &url(&objects)]);
    assert!(said.contains("objects; record ") && said.contains("nothing was removed"), "{said}");
    a.ok(&["attach", &url(&objects)]);
    answered(&a, "y\\ny\\n", &["rm", "--now", "db"]);
    assert_eq!(count(&objects), 0);
}

/// It could not be looked at, and so not be removed.
#[test]
fn a_remote_with_damage_can_be_removed() {
    let a = Host::plain();
    let objects = a.dir("objects");
    for damaged in ["store", "log"] {
        shipped(&a, "db", &objects);
        a.ok(&["rm", "--now", "db", "--keep-remote"]);
        let logs = fs::read_dir(objects.join("db/log")).unwrap().map(|record| record.unwrap().path());
        let newest = logs.max().unwrap();
        let object = if damaged == "store" { objects.join("db/store") } else { newest };
        fs::write(object, "damaged").unwrap();
        let said = a.fails(9, &["remote", "rm", &url(&objects)]);
        assert!(said.contains("it is damaged") && said.contains("--steal"), "{said}");
        a.ok(&["remote", "rm", "--steal", &url(&objects)]);
        assert_eq!(count(&objects), 0, "{damaged}");
    }
}

//! Several programs at once that make, rename, remove, bring back, hold, prune and mount volumes, all under the same few names. Which of
//! them wins, nobody can say; what was answered is so, nothing is lost, and nothing is there twice.

use super::Kept;
use crate::support::{Host, run, wait_until};
use nix::mount::{MntFlags, umount2};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Few enough that they meet.
const NAMES: &[&str] = &["a", "b", "c"];
const PROGRAMS: u64 = 4;
/// What each does; `LARDER_STORM_STEPS=300 LARDER_STORM_SEED=7` does more, and something else.
const STEPS: u64 = 24;
/// How a command may end that another one came before: no such volume, it exists, it is in use.
const OVERTAKEN: &[i32] = &[0, 3, 4, 5];

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Numbers that are the same in each run: splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn name(&mut self) -> &'static str {
        NAMES[self.roll(NAMES.len() as u64) as usize]
    }
}

/// What was answered with success. Each volume has a label of its own, which no other has, whatever it is called.
#[derive(Default)]
struct Answered {
    made: BTreeSet<String>,
    removed_for_good: usize,
    holds: usize,
    releases: usize,
    /// Files that were written and synced, by the volume that they are in.
    written: BTreeMap<String, String>,
}

struct Storm {
    root: PathBuf,
    config: PathBuf,
    answered: Mutex<Answered>,
}

impl Storm {
    /// A command; whether it succeeded, and what it printed.
    #[track_caller]
    fn does(&self, args: &[&str]) -> (bool, String) {
        let mut command = Command::new(crate::support::larder());
        command.arg("--root").arg(&self.root).args(args).env("LARDER_CONFIG", &self.config);
        let output = run(&mut command);
        let code = output.status.code();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(code.is_some_and(|code| OVERTAKEN.contains(&code)), "{args:?}: {code:?}: {said}");
        (code == Some(0), String::from_utf8(output.stdout).unwrap())
    }

    fn answered(&self) -> std::sync::MutexGuard<'_, Answered> {
        self.answered.lock().unwrap()
    }

    /// Makes a volume, or a clone of one.
    fn make(&self, id: &str, name: &str, source: Option<&str>) {
        let label = format!("id={id}");
        let made = match source {
            None => self.does(&["create", name, "--label", &label]),
            Some(source) => self.does(&["clone", source, name, "--label", &label]),
        };
        if made.0 {
            self.answered().made.insert(id.to_owned());
        }
    }

    /// Mounts a volume, writes what it is into it, and unmounts it.
    fn mount(&self, name: &str, dir: &Path) {
        if !self.does(&["mount", name, dir.to_str().unwrap()]).0 {
            return;
        }
        // While it is mounted it keeps its name.
        let (found, shown) = self.does(&["inspect", name]);
        assert!(found);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let id = shown["labels"]["id"].as_str().unwrap().to_owned();
        let file = dir.join(&id);
        let known = self.answered().written.get(&id).cloned();
        match known {
            Some(text) => assert_eq!(fs::read_to_string(&file).unwrap(), text),
            None => {
                let text = format!("I am {id}");
                fs::write(&file, &text).unwrap();
                fs::File::open(&file).unwrap().sync_all().unwrap();
                self.answered().written.insert(id, text);
            }
        }
        wait_until("it is unmounted", || self.does(&["umount", dir.to_str().unwrap()]).0);
    }

    fn step(&self, dice: &mut Dice, id: &str, dir: &Path) {
        let (name, other) = (dice.name(), dice.name());
        let snapshot = format!("{name}@{}", ["s", "t"][dice.roll(2) as usize]);
        match dice.roll(25) {
            0..4 => self.make(id, name, None),
            4..6 => self.make(id, name, Some(other)),
            6..9 => {
                self.does(&["rename", name, other]);
            }
            9..12 => {
                self.does(&["rm", name]);
            }
            12 => {
                let gone = self.does(&["rm", "--now", name]).0;
                self.answered().removed_for_good += usize::from(gone);
            }
            13..16 => {
                self.does(&["trash", "restore", name, other]);
            }
            16..18 => {
                self.does(&["snapshot", "create", &snapshot]);
            }
            18 => {
                self.does(&["snapshot", "create", "--all", &format!("@{id}")]);
            }
            19 => {
                self.does(&["snapshot", "rm", &snapshot]);
            }
            20 => {
                let held = self.does(&["hold", "h", &snapshot]).0;
                self.answered().holds += usize::from(held);
            }
            21 => {
                let released = self.does(&["release", "h", &snapshot]).0;
                self.answered().releases += usize::from(released);
            }
            22 => {
                self.does(&["prune", "--force", "--filter", "label=id"]);
            }
            _ => self.mount(name, dir),
        }
    }
}

#[test]
fn whoever_wins_nothing_is_lost_and_nothing_is_there_twice() {
    let seed = number("LARDER_STORM_SEED", 1);
    let steps = number("LARDER_STORM_STEPS", STEPS);
    let host = &Kept::new(Host::plain());
    let (root, config) = (host.root().to_owned(), host.config.clone());
    let storm = Storm { root, config, answered: Mutex::default() };
    for name in NAMES {
        storm.make(&format!("first-{name}"), name, None);
    }
    let dirs: Vec<PathBuf> = (0..PROGRAMS).map(|i| host.make_mountpoint(&format!("of-{i}"))).collect();
    std::thread::scope(|scope| {
        for (i, dir) in dirs.iter().enumerate() {
            let storm = &storm;
            scope.spawn(move || {
                let mut dice = Dice(seed.wrapping_mul(1000) + i as u64);
                for step in 0..steps {
                    storm.step(&mut dice, &format!("{i}-{step}"), dir);
                }
            });
        }
    });
    // Nothing is mounted any more, and nobody serves.
    for dir in &dirs {
        assert!(larder::mount::entry_at(dir).unwrap().is_none(), "{}", dir.display());
        assert!(umount2(dir, MntFlags::empty()).is_err());
    }
    wait_until("no process is left", || host.servers().is_empty());
    // What is in the trash is whole, and comes back.
    let trash = host.root().join("trash");
    let keys: BTreeSet<String> =
        host.trash().iter().map(|of| of["id"].as_str().unwrap().to_owned()).collect();
    let removed: Vec<String> = keys.iter().filter(|key| !key.contains('@')).cloned().collect();
    for entry in fs::read_dir(&trash).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let key = name.strip_suffix(".json").unwrap_or(&name);
        assert!(keys.contains(key) && trash.join(format!("{key}.json")).exists(), "{name}");
    }
    for (i, key) in removed.iter().enumerate() {
        host.does(&["trash", "restore", key, &format!("back-{i}")]);
    }
    assert_eq!(fs::read_dir(&trash).unwrap().count(), 0);
    host.does(&["check", "--all"]);
    // Each volume is there once, in a store that has nothing else.
    let listed = host.host.json(&["ls", "--json"]);
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|of| of["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), host.names().len(), "each name stands for a volume");
    let mut there: BTreeMap<String, String> = BTreeMap::new();
    let mut stores: BTreeMap<String, usize> = BTreeMap::new();
    let mut holds = 0;
    for name in names {
        let shown = host.host.json(&["inspect", name]);
        let id = shown["labels"]["id"].as_str().unwrap().to_owned();
        assert_eq!(there.insert(id, name.to_owned()), None, "{name} is there twice");
        *stores.entry(shown["store"].as_str().unwrap().to_owned()).or_default() += 1;
        let snapshots = shown["snapshots"].as_array().unwrap();
        holds += snapshots.iter().map(|of| of["holds"].as_array().unwrap().len()).sum::<usize>();
    }
    let answered = storm.answered();
    assert_eq!(
        there.len() + answered.removed_for_good,
        answered.made.len(),
        "{there:?}\n{:?}",
        answered.made
    );
    assert!(there.keys().all(|id| answered.made.contains(id)), "{there:?}");
    assert_eq!(host.stores(), stores.len(), "no store is left over");
    assert_eq!(
        holds + answered.releases,
        answered.holds,
        "what is held stays, and is held by who was told so"
    );
    for (id, name) in &there {
        let Some(text) = answered.written.get(id) else { continue };
        let dir = host.mount(name, &[]);
        assert_eq!(fs::read_to_string(dir.join(id)).unwrap(), *text, "{name}");
        host.umount(name);
    }
    println!(
        "{} volumes made, {} of them with contents, {} gone for good, {} back from the trash, {} holds",
        answered.made.len(),
        answered.written.len(),
        answered.removed_for_good,
        removed.len(),
        answered.holds
    );
}

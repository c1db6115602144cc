//! Removals that were interrupted.

use crate::support::{Host, run};
use std::fs;
use std::os::unix::fs::symlink;

/// Leaves what a power cut in the middle of the removal of a volume leaves, whose store others share: its name.
fn interrupt_removal(host: &Host, name: &str) {
    let link = host.root().join("volumes").join(name);
    let target = fs::read_link(&link).unwrap();
    host.ok(&["rm", "--now", name]);
    symlink(target, link).unwrap();
}

fn names(host: &Host) -> Vec<String> {
    let entries = fs::read_dir(host.root().join("volumes")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_removal_that_was_interrupted_is_finished_by_whoever_looks() {
    let mountpoint = |host: &Host| host.dir("m").to_str().unwrap().to_owned();
    // What is done, how that ends, and which names there are then.
    let cases: [(&[&str], i32, &[&str]); 11] = [
        (&["ls"], 0, &["q"]),
        (&["df"], 0, &["q"]),
        (&["inspect", "p"], 3, &["q"]),
        (&["check", "p"], 3, &["q"]),
        (&["mount", "p", "MOUNTPOINT"], 3, &["q"]),
        (&["snapshot", "ls", "p"], 3, &["q"]),
        (&["snapshot", "create", "p@s"], 3, &["q"]),
        (&["create", "p"], 0, &["p", "q"]),
        (&["clone", "q", "p"], 0, &["p", "q"]),
        (&["resize", "p", "--size", "1G"], 3, &["q"]),
        (&["rm", "p"], 0, &["q"]),
    ];
    for is_served in [false, true] {
        let host = Host::plain();
        host.ok(&["create", "p", "--size", "10M"]);
        host.ok(&["clone", "p", "q"]);
        if is_served {
            host.mount("q", &[]);
        }
        for (command, code, left) in cases {
            interrupt_removal(&host, "p");
            assert_eq!(names(&host), ["p", "q"]);
            let mountpoint = mountpoint(&host);
            let command: Vec<&str> =
                command.iter().map(|word| if *word == "MOUNTPOINT" { &mountpoint } else { *word }).collect();
            let output = run(&mut host.command(&command));
            assert_eq!(output.status.code(), Some(code), "{command:?}: {output:?}");
            assert_eq!(names(&host), left, "{command:?}");
            assert_eq!(host.ok(&["ls"]).lines().count(), 1 + left.len(), "{command:?}");
            assert_eq!(host.ok(&["df"]).lines().count(), 1 + left.len(), "{command:?}");
            if !left.contains(&"p") {
                host.fails(3, &["inspect", "p"]);
                host.ok(&["clone", "q", "p"]);
            } else if command[0] == "create" {
                host.ok(&["rm", "--now", "p"]);
                host.ok(&["clone", "q", "p"]);
            }
        }
        // Whoever opens the store for another volume finishes it too.
        interrupt_removal(&host, "p");
        if is_served {
            host.umount("q");
        }
        host.mount("q", &[]);
        assert_eq!(names(&host), ["q"]);
        host.umount("q");
        host.check("q");
    }
}

#[test]
fn a_store_goes_with_the_last_name_that_stood_for_nothing() {
    let host = Host::plain();
    host.ok(&["create", "p"]);
    host.ok(&["clone", "p", "q"]);
    interrupt_removal(&host, "p");
    host.ok(&["rm", "--now", "q"]);
    host.ok(&["ls"]);
    assert!(names(&host).is_empty());
    assert_eq!(fs::read_dir(host.root().join("stores")).unwrap().count(), 0);
}

#[test]
fn the_name_of_an_encrypted_volume_whose_removal_was_interrupted_goes_with_its_secret() {
    let host = Host::encrypted();
    host.ok(&["create", "p"]);
    host.ok(&["clone", "p", "q"]);
    interrupt_removal(&host, "p");
    // Without it, nobody knows what the name stands for.
    host.ok(&["ls"]);
    assert_eq!(names(&host), ["p", "q"]);
    host.fails(3, &["inspect", "p"]);
    assert_eq!(names(&host), ["q"]);
    host.check("q");
}

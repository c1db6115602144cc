//! What shells offer: the names that there are.

use crate::support::{Host, larder, succeed};
use std::path::Path;
use std::process::Command;

/// What bash offers for a command line, as its words are for bash: `@` is one of its own.
fn bash(host: &Host, words: &[&str]) -> Vec<String> {
    let script = format!(
        "shopt -u progcomp; . <(larder completions bash); export LARDER_ROOT={root}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
         current=${{COMP_WORDS[COMP_CWORD]}}; [ \"$current\" != @ ] || current=
         _larder larder \"$current\" '' 2>/dev/null || true; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        root = host.root().display(),
        words = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
    );
    offered(Command::new("bash").args(["-euc", &script]))
}

fn offered(command: &mut Command) -> Vec<String> {
    let path = format!("{}:/usr/bin:/bin", Path::new(larder()).parent().unwrap().display());
    succeed(command.env("PATH", path)).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn shells_offer_the_names_of_volumes_and_snapshots() {
    let host = Host::plain();
    for name in ["db", "db-test", "web"] {
        host.ok(&["create", name]);
    }
    host.ok(&["snapshot", "create", "db@monday"]);
    host.ok(&["snapshot", "create", "db@tuesday"]);
    assert_eq!(bash(&host, &["larder", "inspect", "d"]), ["db", "db-test"]);
    assert_eq!(bash(&host, &["larder", "umount", "w"]), ["web"]);
    assert_eq!(bash(&host, &["larder", "rm", "web", "db-"]), ["db-test"]);
    assert_eq!(bash(&host, &["larder", "snapshot", "rm", "d"]), ["db@", "db-test@"]);
    assert_eq!(bash(&host, &["larder", "snapshot", "rm", "db", "@"]), ["monday", "tuesday"]);
    assert_eq!(bash(&host, &["larder", "snapshot", "rm", "db", "@", "m"]), ["monday"]);
    assert_eq!(bash(&host, &["larder", "mount", "we"]), ["web"]);
    assert_eq!(bash(&host, &["larder", "clone", "db", "@", "t"]), ["tuesday"]);
    // While it is mounted, and its server answers.
    host.mount("db", &[]);
    assert_eq!(bash(&host, &["larder", "rollback", "db", "@", "t"]), ["tuesday"]);
    host.umount("db");
    // Commands and options as ever, and new names are not those that there are.
    assert!(bash(&host, &["larder", "inspec"]).contains(&"inspect".to_owned()));
    assert!(bash(&host, &["larder", "create", "x", "--siz"]).contains(&"--size".to_owned()));
    assert!(!bash(&host, &["larder", "create", "d"]).contains(&"db".to_owned()));
    // Other shells ask the same, with words of their own.
    let ask = |shell: &str, words: &[&str]| {
        let mut command = Command::new(larder());
        command.arg("--").args(words).env("LARDER_COMPLETE", shell).env("LARDER_ROOT", host.root());
        offered(command.env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string()).env("_CLAP_IFS", "\n"))
    };
    for shell in ["zsh", "fish"] {
        let found = ask(shell, &["larder", "snapshot", "rm", "db@"]);
        assert!(found.len() == 2 && found[0].starts_with("db@monday"), "{shell}: {found:?}");
        let script = succeed(Command::new(larder()).args(["completions", shell]));
        assert!(script.contains("LARDER_COMPLETE"), "{script}");
    }
    // Another root, and one that is not there.
    let other = Host::plain();
    other.ok(&["create", "elsewhere"]);
    let root = other.root().to_str().unwrap();
    assert_eq!(ask("fish", &["larder", "--root", root, "inspect", "e"]), ["elsewhere"]);
    assert!(
        ask("fish", &["larder", "--root", "/nonexistent", "inspect", "e"])
            .iter()
            .all(|word| word != "elsewhere")
    );
}

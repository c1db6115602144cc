//! Who is asked, and who is not.

use super::Kept;
use crate::support::Host;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `larder` on a terminal, with an answer typed in; whether it succeeded, and what was to be seen.
fn on_a_terminal(host: &Kept, bin: &Path, args: &[&str], answer: &str) -> (bool, String) {
    let words: Vec<String> = [crate::support::larder(), "--root", host.root().to_str().unwrap()]
        .iter()
        .chain(args)
        .map(|word| format!("'{word}'"))
        .collect();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut child = Command::new("script")
        .args(["-qec", &words.join(" "), "/dev/null"])
        .env("PATH", path)
        .env("LARDER_ENGINES_BELOW", bin.join("below"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Engines of this host, as far as a command is concerned.
fn engines(host: &Host) -> std::path::PathBuf {
    let bin = host.dir("bin");
    for (program, script) in [
        (
            "docker",
            "[ \"$*\" = 'ps --all --filter volume=db --format {{.Names}}' ] && printf 'web\\nworker\\n'",
        ),
        // One that does not answer.
        ("podman", "sleep 1000"),
    ] {
        let path = bin.join(program);
        fs::write(&path, format!("#!/bin/sh\nexec 2>/dev/null\n{}\n", script.replace("sleep", "exec sleep")))
            .unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    bin
}

#[test]
fn rm_asks_on_a_terminal_and_says_what_is_at_stake() {
    let host = Kept::new(Host::plain());
    let bin = engines(&host);
    host.precious("db", "precious");
    host.does(&["create", "other"]);
    let (ok, said) = on_a_terminal(&host, &bin, &["rm", "db"], "n\n");
    assert!(!ok && said.contains("nothing was removed"), "{said}");
    for part in [
        "of 1G in use",
        "1 snapshot (one)",
        "labels app=shop",
        "containers of Docker: web, worker",
        "Remove it?",
        "`larder trash restore` can bring it back for 24 hours",
        "[y/N]",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(host.names(), ["db", "other"]);
    // No answer is none.
    assert!(!on_a_terminal(&host, &bin, &["rm", "db"], "\n").0);
    let (ok, said) = on_a_terminal(&host, &bin, &["rm", "--now", "db"], "n\n");
    assert!(!ok && said.contains("for good"), "{said}");
    assert_eq!(host.names(), ["db", "other"]);
    let (ok, said) = on_a_terminal(&host, &bin, &["rm", "db", "other"], "y\n");
    assert!(ok && said.contains("Remove them?"), "{said}");
    assert!(said.contains("db is in the trash until") && said.contains("larder trash restore db"), "{said}");
    assert!(host.names().is_empty());
    let (ok, said) = on_a_terminal(&host, &bin, &["trash", "empty", "db"], "n\n");
    assert!(!ok && said.contains("db (removed 2") && said.contains("for good"), "{said}");
    assert_eq!(host.trash().len(), 2);
    assert!(on_a_terminal(&host, &bin, &["trash", "empty", "db"], "yes\n").0);
    assert_eq!(host.trashed_names(), ["other"]);
}

/// An engine that does not run was passed over in silence, and who was asked about a sticky volume was refused after the answer.
#[test]
fn rm_says_which_engines_it_could_not_ask_and_asks_nothing_about_what_is_sticky() {
    let host = Kept::new(Host::plain());
    let bin = engines(&host);
    host.does(&["create", "db"]);
    let (_, said) = on_a_terminal(&host, &bin, &["rm", "db"], "n\n");
    assert!(said.contains("Remove it?") && !said.contains("not known"), "{said}");
    fs::create_dir_all(bin.join("below/var/lib/docker/containers/aa11")).unwrap();
    let (_, said) = on_a_terminal(&host, &bin, &["rm", "db"], "n\n");
    let why = "It is not known which containers name it: Docker Engine keeps containers in ";
    assert!(said.contains(why) && said.contains("Remove it?"), "{said}");
    host.does(&["set", "db", "sticky=true"]);
    let (ok, said) = on_a_terminal(&host, &bin, &["rm", "db"], "y\n");
    assert!(!ok && said.contains("is sticky") && !said.contains("Remove it?"), "{said}");
    assert_eq!(host.names(), ["db"]);
}

/// It asked nothing, and removed.
#[test]
fn who_keeps_errors_elsewhere_is_asked_all_the_same() {
    let host = Kept::new(Host::plain());
    let bin = engines(&host);
    host.precious("db", "precious");
    let quiet = bin.join("quiet");
    let larder = crate::support::larder();
    fs::write(
        &quiet,
        format!("#!/bin/sh\nexec {larder} --root {} rm db 2>/dev/null\n", host.root().display()),
    )
    .unwrap();
    fs::set_permissions(&quiet, fs::Permissions::from_mode(0o755)).unwrap();
    let mut child = Command::new("script")
        .args(["-qec", quiet.to_str().unwrap(), "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"n\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("Remove it?") && !output.status.success(), "{said}");
    assert_eq!(host.names(), ["db"]);
}

#[test]
fn a_rollback_that_keeps_nothing_asks() {
    let host = Kept::new(Host::plain());
    let bin = engines(&host);
    host.does(&["create", "db"]);
    host.does(&["snapshot", "create", "db@one"]);
    let (ok, said) = on_a_terminal(&host, &bin, &["rollback", "db@one"], "");
    assert!(ok && !said.contains("[y/N]"), "{said}");
    host.does(&["set", "db", "trash=0"]);
    let (ok, said) = on_a_terminal(&host, &bin, &["rollback", "db@one"], "n\n");
    assert!(!ok && said.contains("[y/N]") && said.contains("nothing was rolled back"), "{said}");
    assert!(on_a_terminal(&host, &bin, &["rollback", "db@one"], "y\n").0);
    host.does(&["rollback", "db@one"]);
}

#[test]
fn nobody_is_asked_without_a_terminal_or_with_force() {
    let host = Kept::new(Host::plain());
    let bin = engines(&host);
    host.precious("db", "precious");
    let (ok, said) = on_a_terminal(&host, &bin, &["rm", "--force", "db"], "");
    assert!(ok && !said.contains("[y/N]"), "{said}");
    host.does(&["trash", "restore", "db"]);
    // As scripts have always done it.
    assert_eq!(host.does(&["rm", "db"]), "db\n");
    assert_eq!(host.trashed_names(), ["db"]);
}

#[test]
fn no_mistake_is_answered_with_a_command_that_removes() {
    let host = Kept::new(Host::plain());
    for words in
        [&["r", "db"][..], &["remov", "db"], &["prun"], &["trash", "emty"], &["snapshot", "rmm", "db@one"]]
    {
        let said = host.refuses(2, words);
        for removing in ["'rm'", "'remove'", "'prune'", "'empty'"] {
            assert!(!said.contains(removing), "{words:?}: {said}");
        }
    }
    assert!(host.refuses(2, &["crate", "db"]).contains("'create'"));
}

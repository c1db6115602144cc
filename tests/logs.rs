//! What servers say, where it is, and under which name they are seen.

use crate::support::{Background, Host, is_running, larder, run, shell, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

#[test]
fn the_processes_of_a_volume_are_called_after_it() {
    let host = Host::new();
    let long = "a-database.of-thirty_three-letters";
    host.volume("db", &[]);
    host.volume(long, &[]);
    for (name, comm) in [("db", "larder: db"), (long, "larder: a-datab")] {
        for pid in [host.server(name), host.holder(name)] {
            assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim_end(), comm);
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
            assert!(
                line.starts_with(format!("larder: {name}\0").as_bytes()),
                "{}",
                String::from_utf8_lossy(&line)
            );
            let found = shell(host.root(), "pgrep larder");
            assert!(found.lines().any(|line| line == pid.to_string()), "{pid} in {found}");
        }
    }
    // The next server as well, and another program.
    let old = host.server("db");
    kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
    wait_until("another server", || {
        !is_running(old)
            && host.json(&["inspect", "db"])["server"]["pid"]
                .as_i64()
                .is_some_and(|pid| pid != i64::from(old))
    });
    host.ok(&["upgrade", "db"]);
    assert_eq!(fs::read_to_string(format!("/proc/{}/comm", host.server("db"))).unwrap(), "larder: db\n");
    // The other volume of a store, when the first one is gone.
    host.ok(&["clone", "db", "test"]);
    host.mount("test", &[]);
    host.umount("db");
    for pid in [host.server("test"), host.holder("test")] {
        wait_until("it has another name", || {
            fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "larder: test\n"
        });
    }
    for name in ["test", long] {
        host.umount(name);
    }
}

#[test]
fn logs_are_shown_as_a_whole_in_part_and_as_they_grow() {
    let host = Host::plain();
    host.volume("v", &[]);
    host.umount("v");
    let whole = host.ok(&["logs", "v"]);
    let lines: Vec<&str> = whole.lines().collect();
    assert!(
        lines[0].starts_with("[20") && whole.contains(" INFO  larder::") && whole.contains("serving store"),
        "{whole}"
    );
    assert_eq!(host.ok(&["logs", "v", "-n", "2"]), lines[lines.len() - 2..].join("\n") + "\n");
    assert_eq!(host.ok(&["logs", "v", "-n", "0"]), "");
    let json = host.ok(&["logs", "v", "-n", "1", "--json"]);
    let message: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(lines.last().unwrap().ends_with(message["message"].as_str().unwrap()), "{json}");
    // In the order in which it was said, from the oldest file on.
    let log = host
        .root()
        .join("log")
        .join(format!("{}.log", host.store("v").file_name().unwrap().to_str().unwrap()));
    let head = "[2020-01-01T00:00:00.000Z WARN  larder]";
    fs::write(log.with_extension("log.1"), format!("{head} second\n    line\n")).unwrap();
    fs::write(log.with_extension("log.2"), format!("{head} first\n")).unwrap();
    assert!(host.ok(&["logs", "v"]).starts_with(&format!("{head} first\n{head} second\n    line\n[")));

    let mut follow = host.command(&["logs", "-f", "v", "-n", "1"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(follow.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), *lines.last().unwrap());
    let dir = host.mount("v", &[]);
    fs::write(dir.join("f"), "x").unwrap();
    let found = said.by_ref().map(Result::unwrap).find(|line| line.contains("serving store"));
    assert!(found.is_some(), "it goes on");
    // Nobody reads any more: what is said next ends it.
    drop(said);
    host.umount("v");
    wait_until("it ends", || follow.try_wait().unwrap().is_some());

    assert!(host.fails(3, &["logs", "nothing"]).contains("journalctl LARDER_VOLUME=nothing"));
    host.ok(&["rm", "--now", "v"]);
    assert_eq!(shell(&host.root().join("log"), "ls"), "", "the log goes with its volume");
    let output = run(std::process::Command::new(larder()).args(["logs"]));
    assert_eq!(output.status.code(), Some(2));
}

/// Anybody may send messages that say of which store they are, and not everybody may read them.
#[test]
fn only_messages_of_a_stores_own_servers_are_shown_and_what_cannot_be_read_is_said() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    let programs = host.dir("programs");
    let script = "#!/bin/sh\nprintf '%s\\n' \"$@\" > \"$0.args\"\necho 'No journal files were opened due to insufficient permissions.' >&2\nexit 1\n";
    let program = programs.join("journalctl");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let output = run(host.command(&["logs", "v"]).env("PATH", path));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("insufficient permissions; users of the group"),
        "{said}"
    );
    let args = fs::read_to_string(programs.join("journalctl.args")).unwrap();
    let store = host.store("v").file_name().unwrap().to_str().unwrap().to_owned();
    assert!(args.ends_with(&format!("LARDER_STORE={store}\n_UID=0\n")), "{args}");
}

/// What has no message to begin with begins with the next one, and not with all there ever were.
#[test]
fn logs_that_are_followed_from_now_on_show_nothing_of_what_was() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    let bin = host.dir("bin");
    // A journal with a hundred old messages, and one that comes while it is followed.
    let journal = r#"#!/bin/sh
old() { for i in $(seq "$1" 100); do echo '{"__REALTIME_TIMESTAMP":"1700000000000000","PRIORITY":"6","MESSAGE":"old","__CURSOR":"c'$i'"}'; done; }
from=1
for arg in "$@"; do
    case "$arg" in
        --lines=all) ;;
        --lines=0) from=101 ;;
        --lines=1) from=100 ;;
        --after-cursor=c100) from=101 ;;
        --follow) follows=1 ;;
    esac
done
old $from
[ -z "$follows" ] || { echo '{"__REALTIME_TIMESTAMP":"1700000001000000","PRIORITY":"6","MESSAGE":"new","__CURSOR":"d"}'; while echo; do sleep 0.2; done; }
"#;
    fs::write(bin.join("journalctl"), journal).unwrap();
    fs::set_permissions(bin.join("journalctl"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for lines in ["0", "1"] {
        let mut follow = host.command(&["logs", "-f", "v", "-n", lines]);
        let mut follow = Background(follow.env("PATH", &path).stdout(Stdio::piped()).spawn().unwrap());
        let mut said = BufReader::new(follow.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        if lines == "1" {
            assert!(said.next().unwrap().ends_with("] old"));
        }
        assert!(said.next().unwrap().ends_with("] new"), "with -n {lines}");
    }
}

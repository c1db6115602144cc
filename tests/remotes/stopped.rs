//! A host that stands still while another one takes its volume, and goes on later: a machine that was paused, or swapped for minutes.

use super::mounted::{remote, url};
use crate::support::{Background, Host, pattern, run, state, stop, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::process::Command;

/// Processes that stand still as long as it is there.
struct Stopped(Vec<Pid>);

impl Stopped {
    /// The holder of a volume's store and its server, which it would replace.
    fn host_of(host: &Host, name: &str) -> Self {
        let stopped = Self([host.holder(name), host.server(name)].map(Pid::from_raw).to_vec());
        stopped.0.iter().for_each(|pid| stop(pid.as_raw()));
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in self.0.iter().rev() {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

#[test]
fn an_owner_that_stood_still_finds_out_that_another_host_goes_on() {
    for [a, b, c] in
        [[Host::plain(), Host::plain(), Host::plain()], std::array::from_fn(|_| Host::encrypted())]
    {
        let store = a.dir("objects");
        let here = a.volume("db", &[]);
        a.ok(&["remote", "add", "db", &url(&store), "--ship", "1"]);
        fs::write(here.join("f"), pattern(700_000, 1)).unwrap();
        a.ok(&["remote", "sync", "db"]);
        let stopped = Stopped::host_of(&a, "db");
        // Requests that are on their way when it goes on.
        let script = format!(
            "exec dd if=/dev/zero of={} bs=100K count=20 conv=fsync,notrunc status=none",
            here.join("late").display()
        );
        let mut writer = Background::start(Command::new("sh").arg("-c").arg(script));

        b.ok(&["attach", "--steal", &url(&store)]);
        let there = b.mount("db", &[]);
        assert!(fs::read(there.join("f")).unwrap() == pattern(700_000, 1));
        fs::write(there.join("f"), pattern(800_000, 2)).unwrap();
        fs::write(there.join("g"), pattern(300_000, 3)).unwrap();
        b.ok(&["remote", "sync", "db"]);
        assert!(writer.0.try_wait().unwrap().is_none(), "it stands still");
        drop(stopped);

        wait_until("it finds out", || remote(&a, "db")["fenced"] == true);
        wait_until("who wrote hears of it, or was done before", || writer.0.try_wait().unwrap().is_some());
        let trouble = remote(&a, "db")["trouble"].to_string();
        let host = nix::unistd::gethostname().unwrap();
        assert!(
            trouble.contains("was taken by host") && trouble.contains(host.to_str().unwrap()),
            "{trouble}"
        );
        let status = run(&mut a.command(&["status", "db"]));
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(said.contains("another host goes on with it"), "{said}");
        assert!(fs::write(here.join("new"), "new").is_err(), "it takes no changes");
        assert!(fs::read(here.join("f")).unwrap() == pattern(700_000, 1), "what it had is read as ever");

        // The other one has not noticed.
        fs::write(there.join("h"), pattern(300_000, 4)).unwrap();
        b.ok(&["remote", "sync", "db"]);
        assert_eq!(remote(&b, "db")["trouble"], serde_json::Value::Null);
        let then = state(&there);
        a.umount("db");
        b.umount("db");
        c.ok(&["attach", &url(&store)]);
        let last = c.mount("db", &[]);
        assert_eq!(state(&last), then);
        assert!(!last.join("late").exists() && fs::read(last.join("f")).unwrap() == pattern(800_000, 2));
        c.umount("db");
    }
}

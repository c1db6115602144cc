//! Two hosts and an object store, each in a network of its own, with cables between them that are cut: both ways, or one.

use super::bucket::{Bucket, Site};
use super::life::runs;
use super::weather::Database;
use crate::support::{Background, run, state, succeed, wait_until};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A network namespace, which is there as long as this.
struct Network(Background);

impl Network {
    fn new() -> Self {
        let network = Self(Background::start(Command::new("unshare").args(["-n", "sleep", "3600"])));
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        wait_until("it is there", || fs::metadata(network.path()).is_ok_and(|its| its.ino() != own));
        network.sh("ip link set lo up");
        network
    }

    fn pid(&self) -> u32 {
        self.0.0.id()
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid()).into()
    }

    fn sh(&self, script: &str) {
        let inside = format!("--net={}", self.path().display());
        succeed(Command::new("nsenter").args([&inside, "sh", "-euc", script]));
    }
}

/// How a cable is cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Both,
    /// What the host sends gets there, and no answer comes back.
    Answers,
    /// What the host sends does not get there.
    Requests,
}

/// An object store with two hosts.
struct Cables {
    // (Hosts end before their networks.)
    sites: [Site; 2],
    bucket: Bucket,
    hosts: [Network; 2],
    store: Network,
}

const STORE: [u8; 4] = [10, 99, 0, 1];

impl Cables {
    fn new() -> Self {
        let (store, hosts) = (Network::new(), [Network::new(), Network::new()]);
        store.sh("ip addr add 10.99.0.1/32 dev lo");
        for (i, host) in hosts.iter().enumerate() {
            store.sh(&format!(
                "ip link add host{i} type veth peer name eth0 netns {}; ip addr add 10.9.{i}.1/24 dev host{i}; ip link set host{i} up",
                host.pid()
            ));
            host.sh(&format!(
                "ip addr add 10.9.{i}.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.9.{i}.1"
            ));
        }
        let bucket = Bucket::at(SocketAddr::from((STORE, 0)), Some(store.path()));
        let site = |i: usize| Site::new(&bucket, ["a", "b"][i]).with_lease("4:7").within(hosts[i].path());
        Self { sites: [site(0), site(1)], bucket, hosts, store }
    }

    /// Cuts that of the first host.
    fn cut(&self, cut: Cut) {
        match cut {
            Cut::Both => self.store.sh("ip link set host0 down"),
            Cut::Answers => self.hosts[0].sh("iptables -w -A INPUT -i eth0 -j DROP"),
            Cut::Requests => self.hosts[0].sh("iptables -w -A OUTPUT -o eth0 -j DROP"),
        }
    }

    fn mend(&self, cut: Cut) {
        match cut {
            Cut::Both => self.store.sh("ip link set host0 up"),
            Cut::Answers => self.hosts[0].sh("iptables -w -F INPUT"),
            Cut::Requests => self.hosts[0].sh("iptables -w -F OUTPUT"),
        }
    }
}

/// A host with a strict lease that is cut off answers nothing any more before another one has the volume, whichever way it is cut off, and
/// says so when it is back; what it had acknowledged by then is there.
fn is_never_served_twice(cut: Cut) {
    let cables = Cables::new();
    let [a, b] = &cables.sites;
    let here = a.volume(&["--lease", "strict", "--heartbeat", "1", "--ship", "1", "--durability", "remote"]);
    fs::write(here.join("f"), "of a").unwrap();
    let database = Database::start(&here);
    wait_until("it has begun", || database.synced() > 10);
    let (refused, said) = b.fails(&["attach", "cloud/db"]);
    assert!(refused == 5 && said.contains("in use by host"), "{said}");
    // Somebody who reads all the time, and says when that was answered last.
    let file = here.join("f");
    let reader = std::thread::spawn(move || {
        let mut answered = Instant::now();
        while fs::read_to_string(&file).is_ok() {
            answered = Instant::now();
        }
        answered
    });
    cables.cut(cut);
    // As an orchestrator does it, until it is done.
    wait_until("it is attached", || {
        let output = run(&mut b.command(&["attach", "cloud/db"]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || said.contains("in use by host"), "{said}");
        output.status.success()
    });
    let attached = Instant::now();
    let there = b.mount("db", &[]);
    let synced = database.synced();
    assert!(Database::is_in(&there, synced), "{synced}");
    assert_eq!(fs::read_to_string(there.join("f")).unwrap(), "of a");
    fs::write(there.join("f"), "of b").unwrap();
    b.ok(&["remote", "sync", "db"]);
    let then = state(&there);
    // Nobody is answered on the host that is cut off, not even with an error: it does not know.
    let mut late = Background::start(Command::new("cat").arg(here.join("f")));
    std::thread::sleep(Duration::from_millis(500));
    assert!(runs(&mut late) && !reader.is_finished());
    assert!(a.remote()["paused_s"].is_u64(), "{}", a.remote());
    cables.mend(cut);
    assert!(reader.join().unwrap() < attached, "it was answered when the other host had it");
    assert!(!late.0.wait().unwrap().success());
    let (acknowledged, e) = database.ended();
    assert!(acknowledged == synced && e.raw_os_error() == Some(libc::EIO), "{acknowledged} {synced} {e}");
    wait_until("it is known", || a.remote()["fenced"] == true);
    assert!(a.trouble().contains("was taken by host"), "{}", a.trouble());
    assert_eq!(state(&there), then);
    let written = cables.bucket.take_asked().into_iter().rev().take_while(|asked| asked.key == "a");
    assert!(
        written
            .filter(|asked| asked.status == 200)
            .all(|asked| !asked.name.contains("/log/") || asked.method != "PUT")
    );
    // What it has and nobody else is a volume of its own.
    a.umount("db");
    a.ok(&["set", "db", "durability=local"]);
    a.ok(&["remote", "detach", "db"]);
    let here = a.mount("db", &[]);
    assert_eq!(fs::read_to_string(here.join("f")).unwrap(), "of a");
    assert!(Database::is_in(&here, acknowledged));
}

/// Cables of three pairs of hosts at once, because each takes as long as leases do.
#[test]
fn a_host_that_is_cut_off_stops_before_another_one_has_the_volume() {
    std::thread::scope(|scope| {
        for cut in [Cut::Both, Cut::Answers, Cut::Requests] {
            let name = format!("{cut:?}");
            let run = move || is_never_served_twice(cut);
            std::thread::Builder::new().name(name).spawn_scoped(scope, run).unwrap();
        }
    });
}
